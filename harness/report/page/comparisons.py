"""The first column of runs against each of the others, score by score."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.compare import Comparison, compare
from harness.analysis.compare import ScoreComparison as Pair
from harness.report.number_format import number, p_value, signed, signed_interval
from harness.report.page.columns import Column

MOST = 5  # columns that are held against the first one
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Line:
    """One score in two columns."""

    task: str
    metric: str
    a: str
    b: str
    difference: str
    interval: str
    p: str
    adjusted: str
    items: str
    flips: str  # lost / won; empty for scores that are not right or wrong
    flipped: bool  # whether any item did
    significant: bool
    better: bool


@dataclass(frozen=True, slots=True)
class Change:
    """Two columns."""

    a: str
    b: str
    lines: tuple[Line, ...]
    marks: tuple[str, ...]  # where their signatures differ
    refused: tuple[str, ...]


def changes(sides: Sequence[Column]) -> list[Change]:
    """Each of the next columns against the first; pairs with nothing in common are left out."""
    if not sides or not sides[0].runs:
        return []
    first, *others = sides
    found = []
    for other in others[:MOST]:
        compared = compare(first.runs, other.runs)
        if compared.scores:
            found.append(_change(first, other, compared))
    return found


def _change(a: Column, b: Column, found: Comparison) -> Change:
    return Change(
        a.label, b.label, tuple(map(_line, found.scores)), found.notes, found.not_compared
    )


def _line(pair: Pair) -> Line:
    d = pair.difference
    p = d.p if pair.adjusted is None else pair.adjusted
    return Line(
        task=pair.task,
        metric=pair.metric,
        a=number(d.a, pair.unit),
        b=number(d.b, pair.unit),
        difference=signed(d.value, pair.unit),
        interval=signed_interval(d.low, d.high, pair.unit),
        p=p_value(d.p),
        adjusted=p_value(pair.adjusted),
        items=f"{pair.examples:,}",
        flips="" if d.lost is None else f"{d.lost} / {d.won}",
        flipped=bool(d.lost or d.won),
        significant=p is not None and p < SIGNIFICANT,
        better=(d.value > 0) == pair.higher_is_better,
    )
