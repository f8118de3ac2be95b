"""Token traces as the page's script reads them, shortened to what fits a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from harness.report.page.sides import clip
from harness.report.trace import RequestTrace, TokenTrace

BEFORE = 160  # tokens of the prompt that are kept before the first one that is scored
AGAIN = 12  # the same for an item's further requests, which mostly share the prompt
SCORED = 150  # scored tokens of a request
REQUESTS = 12  # of an item
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
    """The requests of one item; texts keep their ends before what is scored, and its beginning."""
    found = [_request(r, BEFORE if i == 0 else AGAIN) for i, r in enumerate(requests[:REQUESTS])]
    if len(requests) > REQUESTS:
        found[-1]["note"] = f"{len(requests) - REQUESTS} more requests are left out"
    return found


def _request(request: RequestTrace, before: int) -> dict[str, Any]:
    tokens = request.tokens
    first = next((i for i, token in enumerate(tokens) if token.scored), len(tokens))
    start = max(0, first - before)
    end = min(len(tokens), first + SCORED)
    left = [f"{start:,} tokens before it are left out"] * (start > 0)
    left += [f"{len(tokens) - end:,} tokens after it are left out"] * (end < len(tokens))
    return {
        "kind": request.kind,
        "tokens": list(_joined(tokens[start:end])),
        "output": None if request.output is None else clip(request.output, LONGEST),
        "logprob": request.logprob,
        "left": ", ".join(left),
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
