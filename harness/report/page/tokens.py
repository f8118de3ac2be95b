"""Token traces as the page's script reads them, shortened to what fits a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from harness.records.trace import RequestTrace, TokenTrace
from harness.report.page.columns import clip

PROMPT = 400  # tokens of an item's first prompt that are shown, its last ones
BEFORE = 12  # the same of every run and request, before the first token that is scored
SCORED = 150  # scored tokens of a request
REQUESTS = 12  # of an item
LONGEST_PROMPT = 8000  # characters
LONGEST = 1000  # characters of an output or of one token
BYTES = 3_000_000  # of all traces on the page

Key = tuple[int, int, str]
"""Group, column and id of an item."""
Traces = Mapping[Key, Sequence[RequestTrace]]


@dataclass
class Budget:
    """How many bytes of traces a page has left; what does not fit is left out."""

    left: int

    def takes(self, size: int) -> bool:
        """Take so many bytes, if they are there."""
        if size > self.left:
            return False
        self.left -= size
        return True


def as_json(requests: Sequence[RequestTrace]) -> list[dict[str, Any]]:
    """The requests of one item: a few tokens before the scored ones, and the first of these."""
    found = [_request(request) for request in requests[:REQUESTS]]
    if len(requests) > REQUESTS:
        found[-1]["note"] = f"{len(requests) - REQUESTS} more requests are left out"
    return found


def prompt(requests: Sequence[RequestTrace]) -> dict[str, str] | None:
    """The end of an item's first prompt, and the text whose probability is asked for behind it.

    None for a text that is scored as a whole.
    """
    request = requests[0]
    if request.kind == "rolling":
        return None
    tokens = request.tokens
    first = _first(tokens)
    start = max(0, first - PROMPT)
    asked = "".join(token.text for token in tokens[start:first])
    scored = tokens[first:] if request.kind == "loglikelihood" else ()
    return {
        "left": f"{start:,} tokens before it are left out" if start else "",
        "text": clip(asked, LONGEST_PROMPT),
        "marked": clip("".join(token.text for token in scored), LONGEST),
    }


def _first(tokens: Sequence[TokenTrace]) -> int:
    """Where the prompt ends: the place of the first scored token."""
    return next((i for i, token in enumerate(tokens) if token.scored), len(tokens))


def _request(request: RequestTrace) -> dict[str, Any]:
    tokens = request.tokens
    first = _first(tokens)
    start = max(0, first - BEFORE)
    end = min(len(tokens), first + SCORED)
    left = f"{len(tokens) - end:,} tokens after it are left out" if end < len(tokens) else ""
    return {
        "kind": request.kind,
        "tokens": list(_joined(tokens[start:end])),
        "output": None if request.output is None else clip(request.output, LONGEST),
        "logprob": request.logprob,
        "begins": start == 0,
        "left": left,
        "note": clip(request.note, LONGEST),
    }


def _joined(tokens: Sequence[TokenTrace]) -> Iterator[tuple[str, int, float | None, int | None]]:
    """(text, scored, log-probability, rank); neighbours that say nothing are one text."""
    for mute, run in groupby(tokens, lambda t: not t.scored and t.logprob is None):
        if mute:
            yield "".join(token.text for token in run), 0, None, None
            continue
        for token in run:
            rounded = None if token.logprob is None else round(token.logprob, 3)
            yield clip(token.text, LONGEST), int(token.scored), rounded, token.rank
