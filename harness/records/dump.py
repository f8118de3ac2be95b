"""The file that `--dump` writes: one JSON line per example.

A line has the strings that were tokenized, the token ids that the model read, and the responses.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from harness.core import Generate, Generated, Request, Response, Rolled, Scored, Word
from harness.errors import RecordError
from harness.files.output import check_file
from harness.metrics import Outcome
from harness.metrics.hf_evaluate import ModuleMetric
from harness.records.trace import context_of
from harness.task import Measure

if TYPE_CHECKING:
    from harness.engine.queries.encode import Encoded

_REQUEST_FIELDS = {
    "loglikelihood": ("context", "continuation"),
    "rolling": ("text",),
    "generate": ("prompt",),
    "next_word": ("context",),
}
_RESPONSE_FIELDS: dict[type, tuple[str, ...]] = {
    Scored: ("logprob", "num_tokens", "is_greedy"),
    Rolled: ("logprob", "num_tokens"),
    Generated: ("text", "logprob", "num_tokens", "ended"),
    Word: ("text", "skipped"),
}


class Writer:
    """A file of JSON lines, flushed after every line.

    The constructor checks that the file can be written. The first line overwrites an older file,
    so a run that fails before that leaves it unchanged.
    """

    def __init__(self, path: Path) -> None:
        check_file(path, "--dump")
        self._path = path
        self._file: TextIO | None = None

    def write(self, value: Mapping[str, Any]) -> None:
        """Append one line."""
        try:
            self._file = self._file or self._path.open("w", encoding="utf-8")
            self._file.write(json.dumps(value, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:  # for example a full disk
            raise RecordError(
                f"cannot write --dump {str(self._path)!r}: {error.strerror}; name a file that can "
                "be written"
            ) from error

    def close(self) -> None:
        """Close the file, if anything was written."""
        with suppress(OSError):  # `write` has already reported what could not be written
            if self._file:
                self._file.close()


class Exchange(NamedTuple):
    """One request of an example, its tokens and the response to it."""

    request: Request
    encoded: "Encoded"
    response: Response


def sums(measures: Sequence[Measure], outcomes: Sequence[Sequence[Outcome]]) -> dict[str, float]:
    """Statistics of one example by name, from its outcomes by measure; those of texts have none."""
    return {
        name: sum(outcome[s] for outcome in own)
        for measure, own in zip(measures, outcomes, strict=True)
        if own and not isinstance(measure.metric, ModuleMetric)
        for s, name in enumerate(measure.statistics)
    }


def item(
    task: str, example: str, answered: Sequence[Exchange], outcomes: Mapping[str, float]
) -> dict[str, Any]:
    """One example as a line: its requests with tokens and responses, and its outcomes."""
    return {
        "task": task,
        "id": example,
        "requests": [
            {**_pair(request, response), "windows": _windows(encoded, response)}
            for request, encoded, response in answered
        ],
        "outcomes": dict(outcomes),
    }


def _windows(encoded: "Encoded", response: Response) -> list[dict[str, list[int]]]:
    """Token ids of each forward pass: `context`, start token included, then `targets`.

    The log-probabilities of all targets sum to the request's. The targets of a generated text are
    its tokens.
    """
    generated = response.tokens[: response.num_tokens] if isinstance(response, Generated) else ()
    return [
        {"context": list(context_of(span)), "targets": [*span.targets, *generated]}
        for span in encoded.spans
    ]


def _pair(request: Request, response: Response) -> dict[str, Any]:
    value = {name: getattr(request, name) for name in ("kind", *_REQUEST_FIELDS[request.kind])}
    value |= {name: getattr(response, name) for name in _RESPONSE_FIELDS[type(response)]}
    if isinstance(request, Generate) and request.top_k > 1:
        value["seed"] = list(request.seed)
    return value
