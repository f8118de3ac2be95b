"""One benchmark under many protocols: which reading of the paper gives which number."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.paper import published
from harness.records.record import Record
from harness.task import Protocol


@dataclass(frozen=True, slots=True)
class GridRow:
    """One row of the grid: a protocol, and its record or why there is none."""

    protocol: Protocol
    differs: str  # from the defaults, as `name=value, ...`
    record: Record | None = None
    reason: str = ""


def columns(readings: Sequence[GridRow]) -> Mapping[str, str]:
    """Score -> what it is compared with: the paper's columns; all scores where none fills one."""
    scores = [score for reading in readings if reading.record for score in reading.record.scores]
    main = {s.column: s.unit for s in scores if s.column}
    return main or {s.metric: s.unit for s in scores if s.baseline is None}


def values(
    reading: GridRow, wanted: Mapping[str, str], size: str
) -> Iterator[tuple[float | None, float | None]]:
    """(ours, the paper's) of each column."""
    scores = {s.column or s.metric: s for s in reading.record.scores} if reading.record else {}
    for column in wanted:
        score = scores.get(column)
        beside = published.beside(column, size)[1] if score and score.column else None
        yield (score.value if score else None), beside
