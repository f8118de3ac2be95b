"""Mistakes that a fake server makes, each of which was seen at a real one or at a proxy.

A mistake is made in the prompt that is computed, in the values, in the finished reply, or in what
is sent in its place.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import fake_changes as changes
import numpy as np
from fake_asked import Refusal
from fake_model import Model, Text
from numpy.typing import NDArray

COMPUTING = ("completions", "generate", "completion")  # last words of the paths that compute
Rows = NDArray[np.float32]
PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><p>nginx</p></body></html>"


class Hidden(Exception):
    """Something is sent in the place of a reply."""

    def __init__(
        self,
        status: int = 200,
        kind: str = "text/html",
        body: bytes = PAGE,
        *,
        headers: Mapping[str, str] | None = None,
        wait: threading.Event | None = None,
        cut_after: int | None = None,
    ) -> None:
        self.status, self.kind, self.headers, self.wait = status, kind, headers, wait
        self.body, self.cut_after = body[:cut_after], cut_after


class Trap:
    """One mistake, and when it is made.

    Args:
        name: of the mistake; empty: none.
        after: calls for log-probabilities or text before the first mistake.
        times: how often it is made.
        only: for which prompts it is made.

    Attributes:
        over: set when the server stops, which ends a call that hangs.
    """

    def __init__(
        self, name: str, after: int, times: int, only: Callable[[Sequence[int]], bool]
    ) -> None:
        if name and name not in TRAPS:
            raise ValueError(f"no trap is called {name!r}; there are: {', '.join(TRAPS)}")
        self.name, self.after, self.times, self._only = name, after, times, only
        self.over = threading.Event()
        self.on = False
        self.made = 0  # how often
        self.calls = 0
        self._last: list[int] = []  # the prompt of this call, or of the one before
        self._other: list[int] = []  # the prompt of the call before
        self._mixed = False

    def begin(self, path: str, body: Any, in_flight: Sequence[Mapping[str, Any]]) -> None:
        """Decide whether this call is answered with the mistake.

        Raises:
            Hidden: the mistake takes the place of the reply.
        """
        computing = path.rpartition("/")[2] in COMPUTING
        self.calls += computing
        prompt = _prompt(body) if computing else []
        place = TRAPS[self.name].place if self.name else ""
        fits = path == "/tokenize" if place == "tokenize" else computing
        self.on = bool(self.name) and fits and self._only(prompt)
        begun = self.calls + (place == "tokenize") > self.after
        self.on = self.on and begun and self.made < self.times
        self.made += self.on
        self._mixed = any("logprob_token_ids" in b for b in in_flight if b is not body)
        if self.on and place == "sent":
            raise _sent(self.name, self.over)

    def body(self, body: Any, model: Model) -> Any:
        """The call as the server understands it.

        Raises:
            Refusal: the server refuses it.
        """
        if not self.on:
            return body
        if self.name == "texts":
            return {k: v for k, v in body.items() if k != "return_tokens_as_token_ids"}
        if self.name == "length" and len(_prompt(body)) >= model.context // 2:
            raise Refusal("prompt is too long")
        whole = "prompt_logprobs" in body or (body.get("echo") and "logprobs" in body)
        if self.name == "refused" and (whole or "logprob_start_len" in body):
            raise Refusal("log-probabilities of a prompt are not available")
        return body

    def prompt(self, ids: list[int], model: Model) -> list[int]:
        """The prompt that is computed."""
        if not self.on:
            return ids
        if self.name == "bos":
            return [max(model.ends, default=0), *ids]
        return ids[-max(1, len(ids) // 2) :] if self.name == "cut" else ids

    def rows(self, ids: Sequence[int], model: Model) -> tuple[Rows, Rows]:
        """Log-probabilities of the tokens of a prompt but the first, and of what comes next."""
        self._other, self._last = self._last or list(ids), list(ids)
        rows = model.rows(ids)
        if self.on and self.name == "another":
            other = model.rows(self._other)
            rows = other[np.arange(len(ids)) % len(other)]
            rows = np.concatenate([rows[:-1], other[-1:]])
        elif self.on and self.name == "hidden-bos":
            rows = model.rows(self.written(ids, model))[1:]
        rows = self._changed(rows)
        if self.on and self.name == "shifted":
            return rows[1:], rows[-1]
        if self.on and self.name == "last-row":
            return np.broadcast_to(rows[-1], rows[1:].shape), rows[-1]
        return rows[:-1], rows[-1]

    def written(self, ids: Sequence[int], model: Model) -> list[int]:
        """The prompt that text is generated after."""
        if self.on and self.name == "another":
            return self._other
        if self.on and self.name == "hidden-bos":
            return [max(model.ends, default=0), *ids]
        return list(ids)

    def text(self, text: Text) -> Text:
        """What was generated, with the values that are shown of it."""
        return text._replace(rows=self._changed(text.rows))

    def _changed(self, rows: Rows) -> Rows:
        """Values that are sharper or flatter from call to call, still adding up to one."""
        if not self.on or self.name not in ("order", "drift"):
            return rows
        power = 1.02 + 0.02 * (self.calls % 3) if self.name == "order" else 1.02
        powered = rows * np.float32(power)
        total = np.log(np.exp(powered.astype(np.float64)).sum(axis=-1, keepdims=True))
        return np.asarray(powered - total, dtype=np.float32)

    def reply(self, path: str, body: Any, reply: Any) -> Any:
        """The reply as it is sent."""
        if self._mixed and self.name == "mixed" and _plain(body):
            for choice in reply["choices"]:
                tops = choice["logprobs"]["top_logprobs"]
                tops[:] = [dict([*list(top.items())[:1], ("token_id:0", -9999.0)]) for top in tops]
        change = TRAPS[self.name].change if self.name else None
        if self.on and change is not None:
            change(reply)
        return reply


def _plain(body: Any) -> bool:
    """Whether these are log-probabilities of the most probable tokens, not of named ones."""
    return bool(body) and body.get("logprobs") is not None and "logprob_token_ids" not in body


def _prompt(body: Any) -> list[int]:
    prompt = body.get("prompt", body.get("input_ids")) or []
    flat = prompt[0] if prompt and isinstance(prompt[0], list) else prompt
    return list(flat) if isinstance(flat, list) else []


def _sent(name: str, over: threading.Event) -> Hidden:
    if name == "hang":
        return Hidden(wait=over)
    if name == "broken":
        return Hidden(body=b'{"id": "cmpl-1", "choices": [{"index": 0, "te', cut_after=45)
    if name == "429":
        return Hidden(429, headers={"Retry-After": "0"}, body=b"Too Many Requests")
    return Hidden({"html": 200, "html-502": 502, "503": 503}[name])


class Mistake(NamedTuple):
    """What a trap does."""

    meaning: str
    place: str = "computed"  # or "sent" in the place of a reply, "reply", "tokenize"
    change: Callable[[Any], None] | None = None


TRAPS = {
    "bos": Mistake("a start token is put before the prompt, and shown"),
    "hidden-bos": Mistake("a start token is put before the prompt, and not shown"),
    "cut": Mistake("only the second half of the prompt is computed"),
    "shifted": Mistake("each token of a prompt has the values of the next position"),
    "last-row": Mistake("each token of a prompt has the values of the last position"),
    "another": Mistake("values of the request before"),
    "order": Mistake("values depend on the number of requests before"),
    "drift": Mistake("values of another model"),
    "mixed": Mistake("plain log-probabilities are lost beside named ones"),
    "refused": Mistake("log-probabilities of prompts are refused", "reply"),
    "empty": Mistake("no log-probabilities", "reply", changes.empty),
    "short": Mistake("one entry fewer", "reply", changes.short),
    "quiet": Mistake("ids are not shown", "reply", changes.quiet),
    "positive": Mistake("a log-probability above zero", "reply", changes.value(0.5)),
    "nan": Mistake("a log-probability is NaN", "reply", changes.value(np.nan)),
    "null": Mistake("a log-probability is null", "reply", changes.value(None)),
    "floor": Mistake("a log-probability is absent", "reply", changes.value(-9999.0)),
    "tokenizer": Mistake("`/tokenize` gives other ids", "tokenize", changes.other_tokens),
    "texts": Mistake("tokens are named by their text, so that some coincide"),
    "length": Mistake("only half of the stated length is accepted"),
    "html": Mistake("a page with status 200", "sent"),
    "html-502": Mistake("a page with status 502", "sent"),
    "503": Mistake("overloaded", "sent"),
    "429": Mistake("too many requests", "sent"),
    "hang": Mistake("no reply at all", "sent"),
    "broken": Mistake("the connection is cut within a reply", "sent"),
}
