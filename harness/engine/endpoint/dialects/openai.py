"""Any other server with `/v1/completions`: log-probabilities of a prompt by `echo`.

Its tokens are decoded texts, and `top_logprobs` is keyed by them, so that two ids with the same
text are one key. What else needs token ids is there only if the server takes
`return_tokens_as_token_ids`, as servers that are built on vLLM do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.engine.endpoint.call import Ask, Call
from harness.engine.endpoint.dialects.check import (
    ROUNDING,
    counted,
    equal,
    items,
    keyed_token,
    logprob,
    optional,
    part,
    refuse,
    text,
    whole,
)
from harness.engine.endpoint.dialects.completions import (
    Choice,
    generated_tokens,
    next_token,
    only_choice,
)
from harness.engine.endpoint.dialects.dialect import Get, Next, Prompted, Server, Written
from harness.engine.endpoint.dialects.distribution import (
    BESIDE,
    Position,
    at_most_one,
    best_of,
    following,
    prompted,
)
from harness.engine.endpoint.dialects.generation import generated, stop_strings
from harness.engine.queries.query import GenerationQuery

MAX_STOPS = 4


@dataclass(frozen=True, slots=True)
class OpenAi:
    """How a server with OpenAI's completions is asked; `keyed` says whether it shows token ids."""

    server: Server
    keyed: bool

    def prompted(self, tokens: Sequence[int], first: int) -> Ask[Prompted] | None:
        """Log-probabilities of `tokens[first:]` by `echo`."""
        call = self._call(tokens, {"echo": True, "logprobs": BESIDE, "max_tokens": 1})
        return Ask(call, partial(_prompted, tuple(tokens), first, self.keyed))

    def named(self, prompt: Sequence[int], ids: Sequence[int]) -> Ask[Next] | None:
        """None: there is no field for it."""
        return None

    def top(self, prompt: Sequence[int], count: int) -> Ask[Next] | None:
        """The best tokens by `logprobs`, if the server shows token ids."""
        if not self.keyed:
            return None
        call = self._call(prompt, {"logprobs": count, "max_tokens": 1})
        return Ask(call, partial(_top, len(prompt), count))

    def written(self, query: GenerationQuery, ends: frozenset[int]) -> Ask[Written] | None:
        """Greedily generated tokens, if the server shows token ids: there is no `top_k`."""
        if not self.keyed or query.top_k > 1:
            return None
        fields: dict[str, Any] = {"logprobs": 1, "max_tokens": query.max_new_tokens}
        if stop := stop_strings(query, MAX_STOPS):
            fields["stop"] = stop
        return Ask(self._call(query.prompt, fields), partial(_written, query, ends))

    def tokenized(self, text: str) -> Ask[tuple[int, ...]] | None:
        """None: there is no such call."""
        return None

    def _call(self, prompt: Sequence[int], fields: Mapping[str, Any]) -> Call:
        """A call for one completion of a prompt."""
        body = {"model": self.server.model, "prompt": list(prompt), "temperature": 0, **fields}
        if self.keyed:
            body["return_tokens_as_token_ids"] = True
        return Call("v1/completions", body)


def openai(get: Get, model: Mapping[str, Any]) -> OpenAi:
    """The dialect of a model in the list of any server."""
    longest = optional(model, "max_model_len")
    server = Server(
        kind="openai",
        version="",
        model=str(model["id"]),
        source=text(optional(model, "root")),
        longest=longest if isinstance(longest, int) else None,
        config="",
    )
    trial = {
        "model": server.model,
        "prompt": [0],
        "max_tokens": 1,
        "logprobs": 1,
        "return_tokens_as_token_ids": True,
    }
    shown = optional(get(Call("v1/completions", trial)), "choices")
    tokens = optional(shown[0], "logprobs", "tokens") if isinstance(shown, list) and shown else None
    keyed = isinstance(tokens, list) and all(str(t).startswith("token_id:") for t in tokens)
    return OpenAi(server, keyed)


def _reply(sent: int, reply: Any) -> tuple[Choice, int | None]:
    """The only choice of a reply to a prompt of `sent` tokens."""
    equal(part(reply, "usage", "prompt_tokens"), sent, "usage.prompt_tokens")
    cached = optional(reply, "usage", "prompt_tokens_details", "cached_tokens")
    return only_choice(reply), counted(cached, "cached_tokens")


def _prompted(sent: Sequence[int], first: int, keyed: bool, reply: Any) -> Prompted:
    choice, cached = _reply(len(sent), reply)
    made = whole(part(reply, "usage", "completion_tokens"), "usage.completion_tokens")
    count = len(sent) + made
    names, values, best = (
        items(part(choice, "logprobs", what), count, what)
        for what in ("tokens", "token_logprobs", "top_logprobs")
    )
    equal(values[0], None, "token_logprobs[0]")
    equal(best[0], None, "top_logprobs[0]")
    if keyed:
        for at, token in enumerate(sent):
            equal(names[at], f"token_id:{token}", f"tokens[{at}]")
    positions = []
    for at in range(first, len(sent)):
        value = logprob(values[at], f"token_logprobs[{at}]")
        positions.append(_position(names[at], value, best[at], keyed, f"top_logprobs[{at}]"))
    return prompted(positions, cached)


def _position(name: Any, value: float, entries: Any, keyed: bool, what: str) -> Position:
    """A token among the best at its place, by their values: texts may stand for several tokens."""
    if not isinstance(name, str) or not isinstance(entries, dict) or not entries:
        refuse(what, f"the best tokens beside {name!r}", entries)
    shown = {key: logprob(entry, what) for key, entry in entries.items()}
    most = max(shown.values())
    if value > most + ROUNDING or (keyed and abs(shown.get(name, value) - value) > ROUNDING):
        refuse(what, f"{value} of {name!r}, or more", most)
    if value < most:
        at_most_one((value, most), what)
        return Position(value, greedy=False, tie=False, best=most)
    if len(shown) < BESIDE:
        refuse(what, f"{BESIDE} different tokens beside {name!r}", list(shown))
    equals = [key for key in shown if shown[key] == most]
    if name not in shown and len(equals) < len(shown):
        refuse(what, f"{name!r} among the best tokens", list(shown))
    order = sorted({*equals, name}, key=lambda key: keyed_token(key, what)) if keyed else equals
    return Position(value, greedy=order[0] == name, tie=len(equals) > 1, best=most)


def _top(sent: int, count: int, reply: Any) -> Next:
    choice, cached = _reply(sent, reply)
    chosen, shown = next_token(choice)
    # A tie may leave the chosen token out of the best `count`; it then comes in addition.
    if not count <= len(shown) <= count + 1:
        refuse("top_logprobs[0]", f"{count} tokens", len(shown))
    return best_of(following(shown, chosen, cached, "top_logprobs[0]"), count)


def _written(query: GenerationQuery, ends: frozenset[int], reply: Any) -> Written:
    choice, cached = _reply(len(query.prompt), reply)
    chosen, logprobs = generated_tokens(choice)
    stopped = choice.get("finish_reason") == "stop" and bool(query.stop or not ends)
    return generated(query, ends, chosen, logprobs, stopped=stopped, cached=cached)
