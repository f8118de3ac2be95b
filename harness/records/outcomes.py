"""The outcomes of every example of a run, in a file next to its record, for paired comparisons.

A record stays small and quick to read. Its outcomes are in `<record>.<checksum>.items.json.gz`:

    {"kind": "outcomes", "schema": 2, "ids": ["0", ...],
     "shown": [["prompt", "reference", "response"], ...],
     "metrics": {"ppl": {"examples": [0, ...], "values": [[2.31, 1.0], ...]}, ...}}

A run that was stopped may have only some of the outcomes of a text; `"parts": [7, 8, ...]` then
says which.
"""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.core import (
    Example,
    Generated,
    Request,
    Response,
    RollingLoglikelihood,
    Scored,
    Word,
    request_text,
)
from harness.errors import RecordError
from harness.files import strict_json
from harness.records import schema

MAX_SHOWN_CHARS = 160


class Shown(NamedTuple):
    """The texts of an example, shortened for a person to read."""

    prompt: str  # the end of the first request
    reference: str
    response: str


class MetricOutcomes(NamedTuple):
    """All outcomes of one measure."""

    examples: tuple[int, ...]  # the example that each outcome belongs to, by position
    values: tuple[tuple[float, ...], ...]  # the statistics
    parts: tuple[int, ...] | None = None
    """The place of each outcome among those of its example; None: every example has all of its
    outcomes, in order."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The examples of one run and their outcomes."""

    ids: tuple[str, ...]
    shown: tuple[Shown, ...]
    metrics: Mapping[str, MetricOutcomes]  # by measure, without measures whose outcomes are texts

    def has(self, measure: str) -> bool:
        """Whether the measure has any outcome."""
        return measure in self.metrics and bool(self.metrics[measure].examples)

    def keys(self, measure: str) -> list[tuple[str, int]]:
        """(example, part) of each outcome of a measure, which are the same in every run."""
        examples, _, places = self.metrics[measure]
        if places is not None:
            return [(self.ids[e], place) for e, place in zip(examples, places, strict=True)]
        parts: dict[int, int] = {}
        keys = []
        for example in examples:
            part = parts[example] = parts.get(example, -1) + 1
            keys.append((self.ids[example], part))
        return keys


NO_OUTCOMES = Outcomes((), (), {})


def show(example: Example, pairs: Sequence[tuple[Request, Response]]) -> Shown:
    """The texts of an example, from its requests and responses."""
    if not pairs:
        return Shown("", "", "")
    request, response = pairs[0]
    text = request_text(request)
    if isinstance(request, RollingLoglikelihood):
        return Shown(_start(text), "", f"{response.logprob:.2f} nats")  # type: ignore[union-attr]
    reference = " | ".join(example.references)
    return Shown(_end(text), _start(reference), _start(_answer(pairs)))


def _answer(pairs: Sequence[tuple[Request, Response]]) -> str:
    """The last text that the model wrote, and the continuation that it finds most probable."""
    answer = [r.text.strip() for _, r in pairs if isinstance(r, Word | Generated)][-1:]
    scored = [(r.logprob, r.is_greedy, q) for q, r in pairs if isinstance(r, Scored)]
    if scored:
        logprob, is_greedy, request = max(scored, key=lambda option: option[0])
        mark = ", argmax" if is_greedy else ""
        text = getattr(request, "continuation", "").strip()
        answer.append(f"{text} ({logprob:.2f} nats{mark})")
    return "; ".join(answer)


def _end(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"...{text[-MAX_SHOWN_CHARS:]}"


def _start(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def to_json(outcomes: Outcomes) -> dict[str, Any]:
    """The outcomes as plain JSON values."""
    return {
        **schema.header("outcomes"),
        "ids": outcomes.ids,
        "shown": outcomes.shown,
        "metrics": {
            name: {k: v for k, v in metric._asdict().items() if v is not None}
            for name, metric in outcomes.metrics.items()
        },
    }


def from_json(value: Any, name: str) -> Outcomes:
    """The outcomes in a parsed JSON value that came from the file `name`."""
    fields = schema.fields(value, "outcomes", name)
    with schema.malformed(name, "outcomes"):
        metrics = {measure: _metric(part) for measure, part in fields["metrics"].items()}
        shown = tuple(Shown(*(str(text) for text in texts)) for texts in fields["shown"])
        outcomes = Outcomes(tuple(str(i) for i in fields["ids"]), shown, metrics)
        count = len(outcomes.ids)
        places = (place for metric in metrics.values() for place in metric.examples)
        if len(shown) != count or not all(0 <= place < count for place in places):
            raise ValueError("an outcome of no example")
    return outcomes


def pack(value: Any) -> bytes:
    """A JSON value as a gzip file; the same value gives the same bytes."""
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return gzip.compress(plain.encode("utf-8", "surrogatepass"), mtime=0)


def unpack(data: bytes, name: str) -> Any:
    """The JSON value in the bytes of a gzip file called `name`."""
    try:
        text = gzip.decompress(data).decode("utf-8", "surrogatepass")
        return strict_json.loads(text, allow_surrogates=True)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RecordError(f"{name} is damaged or not written by the harness ({error})") from error


def _metric(value: Mapping[str, Any]) -> MetricOutcomes:
    values = tuple(tuple(_number(x) for x in outcome) for outcome in value["values"])
    examples = tuple(int(_number(place)) for place in value["examples"])
    parts = None
    if value.get("parts") is not None:
        parts = tuple(int(_number(part)) for part in value["parts"])
    counts = {len(values), len(examples), len(values if parts is None else parts)}
    if len(counts) > 1 or len({len(outcome) for outcome in values}) > 1:
        raise ValueError("outcomes of different lengths")
    return MetricOutcomes(examples, values, parts)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
