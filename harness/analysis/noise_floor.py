"""How far scores move on one machine although nothing has changed: the noise floor.

`harness jitter` measures it across token budgets, thread counts and number formats and saves it
in a JSON file; `harness check` takes it as the smallest tolerance.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.files.output import check_file, write_text
from harness.records import schema
from harness.records.record import Record


@dataclass(frozen=True, slots=True)
class Noise:
    """How far one score moves between variants of a run that should all agree."""

    task: str
    protocol: str
    metric: str
    unit: str
    value: float  # of the first variant
    largest: float  # distance between any two variants in the first one's number format
    formats: Mapping[str, float]  # number format -> distance of its first variant from `value`


def measure_noise(variants: Sequence[tuple[str, Record]]) -> list[Noise]:
    """The noise of each score over (number format, record) pairs of one benchmark."""
    first_format, first = variants[0]
    noise = []
    for score in first.scores:
        values: dict[str, list[float]] = {}
        for dtype, record in variants:
            values.setdefault(dtype, []).extend(
                s.value for s in record.scores if s.metric == score.metric
            )
        same_format = values.pop(first_format)
        noise.append(
            Noise(
                task=first.task,
                protocol=first.protocol,
                metric=score.metric,
                unit=score.unit,
                value=score.value,
                largest=max(same_format) - min(same_format),
                formats={dtype: abs(other[0] - score.value) for dtype, other in values.items()},
            )
        )
    return noise


def check(path: Path) -> None:
    """Check, before anything is computed, that noise can be added to a file."""
    check_file(path, "--file")
    if path.exists():
        _load(path)


def write(path: Path, noise: Sequence[Noise], about: Mapping[str, Any]) -> None:
    """Add noise to a file, in place of older noise of the same scores."""
    old = _load(path) if path.exists() else []
    new = {(n.task, n.protocol, n.metric) for n in noise}
    kept = [line for line in old if (line["task"], line["protocol"], line["metric"]) not in new]
    scores = [*kept, *({**asdict(n), **about} for n in noise)]
    value = {**schema.header("jitter"), "scores": scores}
    write_text(path, json.dumps(value, indent=1) + "\n")


def read(path: Path) -> dict[tuple[str, str], float]:
    """(benchmark, metric) -> the farthest that its score moved without a cause, in its unit."""
    floor: dict[tuple[str, str], float] = {}
    for line in _load(path):
        key = (line["task"], line["metric"])
        floor[key] = max(floor.get(key, 0.0), float(line["largest"]))
    return floor


def _load(path: Path) -> list[dict[str, Any]]:
    fields = schema.fields(schema.load(path), "jitter", repr(str(path)))
    with schema.malformed(repr(str(path)), "jitter"):
        scores: list[dict[str, Any]] = fields["scores"]
        for line in scores:
            if not all(isinstance(line[name], str) for name in ("task", "protocol", "metric")):
                raise ValueError("a name is not text")
            if float(line["largest"]) < 0:
                raise ValueError(f"a negative distance of {line['largest']}")
    return list(scores)
