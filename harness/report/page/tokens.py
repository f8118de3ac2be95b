"""Token traces for the script of the page, shortened to fit a page."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from harness.records.trace import RequestTrace, TokenTrace
from harness.report.page.columns import clip

PROMPT_TOKENS = 400  # shown of an example's first prompt, its last ones
CONTEXT_TOKENS = 12  # shown of each run and request, before the first scored token
SCORED_TOKENS = 150  # shown per request
MAX_REQUESTS = 12  # per example
MAX_PROMPT_CHARS = 8000
MAX_TEXT_CHARS = 1000  # of an output or of one token
PAGE_BYTES = 3_000_000  # of all traces

Traces = Mapping[tuple[int, int, str], Sequence[RequestTrace]]
"""By group, column and id of an example."""


def as_json(requests: Sequence[RequestTrace]) -> list[dict[str, Any]]:
    """The requests of one example: the first scored tokens and a few tokens before them."""
    shown = [_request(request) for request in requests[:MAX_REQUESTS]]
    if len(requests) > MAX_REQUESTS:
        shown[-1]["note"] = f"{len(requests) - MAX_REQUESTS} more requests are left out"
    return shown


def prompt(requests: Sequence[RequestTrace]) -> dict[str, str] | None:
    """The end of an example's first prompt, and the text that is scored after it.

    None if the text is scored as a whole.
    """
    request = requests[0]
    if request.kind == "rolling":
        return None
    tokens = request.tokens
    first = _first_scored(tokens)
    start = max(0, first - PROMPT_TOKENS)
    scored = tokens[first:] if request.kind == "loglikelihood" else ()
    return {
        "left": f"{start:,} tokens before it are left out" if start else "",
        "text": clip("".join(token.text for token in tokens[start:first]), MAX_PROMPT_CHARS),
        "marked": clip("".join(token.text for token in scored), MAX_TEXT_CHARS),
    }


def _first_scored(tokens: Sequence[TokenTrace]) -> int:
    return next((i for i, token in enumerate(tokens) if token.scored), len(tokens))


def _request(request: RequestTrace) -> dict[str, Any]:
    tokens = request.tokens
    first = _first_scored(tokens)
    start = max(0, first - CONTEXT_TOKENS)
    end = min(len(tokens), first + SCORED_TOKENS)
    return {
        "kind": request.kind,
        "tokens": list(_joined(tokens[start:end])),
        "output": None if request.output is None else clip(request.output, MAX_TEXT_CHARS),
        "logprob": request.logprob,
        "begins": start == 0,
        "left": f"{len(tokens) - end:,} tokens after it are left out" if end < len(tokens) else "",
        "note": clip(request.note, MAX_TEXT_CHARS),
    }


def _joined(tokens: Sequence[TokenTrace]) -> Iterator[tuple[str, int, float | None, int | None]]:
    """(text, scored, log-probability, rank); neighbours without numbers are joined."""
    for plain, run in groupby(tokens, lambda t: not t.scored and t.logprob is None):
        if plain:
            yield "".join(token.text for token in run), 0, None, None
            continue
        for token in run:
            logprob = None if token.logprob is None else round(token.logprob, 3)
            yield clip(token.text, MAX_TEXT_CHARS), int(token.scored), logprob, token.rank
