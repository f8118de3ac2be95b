"""One benchmark under many protocols: which protocol gives which number."""

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


def columns(grid: Sequence[GridRow]) -> Mapping[str, str]:
    """Column -> unit: the paper's columns, or all scores if none fills one."""
    scores = [score for row in grid if row.record for score in row.record.scores]
    main = {s.column: s.unit for s in scores if s.column}
    return main or {s.metric: s.unit for s in scores if s.baseline is None}


def values(
    row: GridRow, columns: Mapping[str, str], size: str
) -> Iterator[tuple[float | None, float | None]]:
    """(ours, the paper's) for each column."""
    scores = {s.column or s.metric: s for s in row.record.scores} if row.record else {}
    for column in columns:
        score = scores.get(column)
        paper = published.nearest(column, size)[1] if score and score.column else None
        yield (score.value if score else None), paper
