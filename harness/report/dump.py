"""One JSON value an item, for `--dump`: the strings the tokenizer was given, and what came back."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.core import (
    Loglikelihood,
    NextWord,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Scored,
    Word,
)


def item(
    task: str,
    example: str,
    pairs: Sequence[tuple[Request, Response]],
    outcomes: Mapping[str, float],
) -> dict[str, Any]:
    """The line of one example: its requests with their responses, and its statistics."""
    return {
        "task": task,
        "id": example,
        "requests": [_pair(request, response) for request, response in pairs],
        "outcomes": dict(outcomes),
    }


def _pair(request: Request, response: Response) -> dict[str, Any]:
    match request, response:
        case Loglikelihood(context, continuation), Scored():
            return {
                "kind": "loglikelihood",
                "context": context,
                "continuation": continuation,
                "logprob": response.logprob,
                "num_tokens": response.num_tokens,
                "is_greedy": response.is_greedy,
            }
        case RollingLoglikelihood(), Rolled():
            return {
                "kind": "rolling",
                "text": _text(request),
                "logprob": response.logprob,
                "num_tokens": response.num_tokens,
            }
        case NextWord(context), Word(text, skipped):
            return {
                "kind": "next_word",
                "context": context,
                "text": text,
                "skipped": list(skipped),
            }
    raise AssertionError(f"{type(response).__name__} answers {type(request).__name__}")


def _text(request: RollingLoglikelihood) -> str:
    r"""The joined text; bytes that are no UTF-8 are shown as \xNN."""
    whole = b"".join(p if isinstance(p, bytes) else p.encode() for p in request.pieces)
    return whole.decode("utf-8", "backslashreplace")
