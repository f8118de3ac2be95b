"""One JSON value an item, for `--dump`: the strings the tokenizer was given, the token ids that the
model was fed, and what came back.
"""  # noqa: D205

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from harness.core import (
    Generate,
    Generated,
    Loglikelihood,
    NextWord,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Scored,
    Word,
)
from harness.errors import RecordError
from harness.records.trace import EncodedRequest, context_of


class Writer:
    """A file of JSON lines, each on disk as soon as it is written.

    That the file can be written is known at once; what is in it goes when the first line comes,
    so that a run that never gets there leaves an older file alone.

    Raises:
        RecordError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = False
        self._new = not path.exists()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, value: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            RecordError: the disk is full, say.
        """
        try:
            if not self._begun:
                self._file.close()
                self._file = self._path.open("w", encoding="utf-8")
                self._begun = True
            self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._refusal(error) from error

    def close(self) -> None:
        """Close the file; one that was made for nothing goes."""
        with suppress(OSError):  # what could not be written was said when it was tried
            self._file.close()
        if self._new and not self._begun:
            self._path.unlink(missing_ok=True)

    def _refusal(self, error: OSError) -> RecordError:
        return RecordError(
            f"cannot write --dump {str(self._path)!r}: {error.strerror}; name a file that can be "
            "written"
        )


class Exchange(NamedTuple):
    """One request of an example, its tokens and the response to it."""

    request: Request
    encoded: EncodedRequest
    response: Response


def item(
    task: str,
    example: str,
    answered: Sequence[Exchange],
    outcomes: Mapping[str, float],
) -> dict[str, Any]:
    """The line of one example: its requests with their tokens and responses, and its statistics."""
    return {
        "task": task,
        "id": example,
        "requests": [
            {**_pair(request, response), "windows": _windows(encoded, response)}
            for request, encoded, response in answered
        ],
        "outcomes": dict(outcomes),
    }


def _windows(encoded: EncodedRequest, response: Response) -> list[dict[str, list[int]]]:
    """Token ids of each forward pass: `context`, start token included, and then `targets`.

    The log-probabilities of all targets sum to the request's; those of a text that was written are
    the tokens that it is made of.
    """
    written = response.tokens[: response.num_tokens] if isinstance(response, Generated) else ()
    return [
        {"context": list(context_of(span)), "targets": [*span.targets, *written]}
        for span in encoded.spans
    ]


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
        case Generate(), Generated():
            return {
                "kind": "generate",
                "prompt": request.prompt,
                "text": response.text,
                "logprob": response.logprob,
                "num_tokens": response.num_tokens,
                "ended": response.ended,
                **({"seed": list(request.seed)} if request.top_k > 1 else {}),
            }
        case NextWord(context), Word(text, skipped):
            return {
                "kind": "next_word",
                "context": context,
                "text": text,
                "skipped": list(skipped),
            }
    raise AssertionError(f"{type(response).__name__} answers {type(request).__name__}")


def request_text(request: Request) -> str:
    """The text before what is scored or written: context, prompt, or all of a rolling text."""
    match request:
        case RollingLoglikelihood():
            return _text(request)
        case Generate():
            return request.prompt
    return request.context


def _text(request: RollingLoglikelihood) -> str:
    r"""The joined text; bytes that are no UTF-8 are shown as \xNN."""
    whole = b"".join(p if isinstance(p, bytes) else p.encode() for p in request.pieces)
    return whole.decode("utf-8", "backslashreplace")
