"""By how much scores move on a machine although nothing has changed: the noise floor.

Measured by `harness jitter` between token budgets, thread counts and number formats, and kept in
a JSON file; `harness check` takes it as the least tolerance.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RecordError
from harness.files import strict_json
from harness.records.record import Record, check_file, write_text

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Noise:
    """How far one score moved between variants of a run that should all agree."""

    task: str
    protocol: str
    metric: str
    unit: str
    value: float  # of the first variant
    largest: float  # distance between any two variants of the first one's number format
    formats: Mapping[str, float]  # number format -> distance of its first variant from `value`


def movements(variants: Sequence[tuple[str, Record]]) -> list[Noise]:
    """Movement of each score over (number format, record) pairs of one benchmark."""
    first_format, first = variants[0]
    found = []
    for score in first.scores:
        values: dict[str, list[float]] = {}
        for dtype, record in variants:
            values.setdefault(dtype, []).extend(
                s.value for s in record.scores if s.metric == score.metric
            )
        own = values[first_format]
        found.append(
            Noise(
                first.task,
                first.protocol,
                score.metric,
                score.unit,
                score.value,
                max(own) - min(own),
                {d: abs(v[0] - score.value) for d, v in values.items() if d != first_format},
            )
        )
    return found


def check(path: Path) -> None:
    """Make sure, before anything is computed, that movements can be added to a file.

    Raises:
        RecordError: it is none of ours, or cannot be written.
    """
    check_file(path, "--file")
    if path.exists():
        _load(path)


def write(path: Path, found: Sequence[Noise], about: Mapping[str, Any]) -> None:
    """Add movements to a file, in place of older ones of the same scores.

    Raises:
        RecordError: the file is none of ours, or cannot be written.
    """
    old = _load(path)["movements"] if path.exists() else []
    new = {(m.task, m.protocol, m.metric) for m in found}
    kept = [m for m in old if (m["task"], m["protocol"], m["metric"]) not in new]
    lines = [
        {
            "task": m.task,
            "protocol": m.protocol,
            "metric": m.metric,
            "unit": m.unit,
            "value": m.value,
            "largest": m.largest,
            "formats": dict(m.formats),
            **about,
        }
        for m in found
    ]
    value = {"schema": SCHEMA, "movements": [*kept, *lines]}
    write_text(path, json.dumps(value, indent=1) + "\n")


def read(path: Path | None) -> dict[tuple[str, str], float]:
    """(benchmark, score) -> the most that it moved on its own, in its unit; empty for no file.

    Raises:
        RecordError: the file cannot be read, or is no such file.
    """
    if path is None:
        return {}
    floor: dict[tuple[str, str], float] = {}
    for line in _load(path)["movements"]:
        key = (line["task"], line["metric"])
        floor[key] = max(floor.get(key, 0.0), float(line["largest"]))
    return floor


def _load(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = strict_json.loads(path.read_text("utf-8"))
        if value["schema"] != SCHEMA:
            raise ValueError(f"schema {value['schema']!r}")
        for line in value["movements"]:
            if not all(isinstance(line[name], str) for name in ("task", "protocol", "metric")):
                raise ValueError("a name is no text")
            if float(line["largest"]) < 0:
                raise ValueError(f"a movement of {line['largest']}")
    except OSError as error:
        raise RecordError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(
            f"{str(path)!r} was not written by harness jitter ({type(error).__name__}: {error})"
        ) from error
    return value
