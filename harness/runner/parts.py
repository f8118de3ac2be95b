"""The parts of a run: what is drawn at random when not everything is computed.

A part is an example. Neighbouring lines of running text are not independent, so there it is a
stretch of neighbouring pieces or examples: one of at most `Measure.blocks` of about equal length.
Parts depend on the data and the protocol only, so that every checkpoint has the same ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.core import Example, Request, Rolled, RollingLoglikelihood, Scored, request_text
from harness.errors import RecordError
from harness.metrics.hf_evaluate import ModuleMetric
from harness.records.outcomes import Outcomes
from harness.stats.intervals import block_starts
from harness.task import Measure, Task

Table = NDArray[np.float64]
_WHOLE = range(1)


class Stretch(NamedTuple):
    """An example, or neighbouring pieces of its text."""

    example: int  # its position in the run
    id: str
    pieces: range  # of a text in pieces; range(1) for a whole example
    split: bool  # whether its text is answered in pieces, each with one outcome per measure


@dataclass(frozen=True, slots=True)
class Part:
    """What is drawn at once; the outcomes of a part are summed before they are compared."""

    stretches: tuple[Stretch, ...]


def parts_of(
    task: Task,
    measures: Sequence[Measure],
    examples: Sequence[Example],
    groups: Sequence[Sequence[Request]],
) -> tuple[Part, ...]:
    """The parts of a run, in the order of the data.

    Args:
        task: of the run.
        measures: of the run.
        examples: of the run.
        groups: the first requests of each example.
    """
    blocks = max((measure.blocks or 0 for measure in measures), default=0)
    if not blocks:
        return tuple(
            Part((Stretch(e, example.id, _WHOLE, False),)) for e, example in enumerate(examples)
        )
    units = [
        (unit, size)
        for e, (example, group) in enumerate(zip(examples, groups, strict=True))
        for unit, size in _units(e, example, group, can_be_split(task, measures, example, group))
    ]
    starts = block_starts(np.array([size for _, size in units], np.float64), blocks)
    bounds = [*starts.tolist(), len(units)]
    return tuple(
        Part(tuple(_joined([unit for unit, _ in units[start:stop]])))
        for start, stop in pairwise(bounds)
    )


def can_be_split(
    task: Task, measures: Sequence[Measure], example: Example, group: Sequence[Request]
) -> bool:
    """Whether an example is one text whose pieces each have one outcome in every measure.

    Measures that count blocks of neighbouring outcomes promise that the outcome of a piece depends
    on that piece alone; they are tried on a text without tokens.
    """
    if task.follow or len(group) != 1 or not isinstance(group[0], RollingLoglikelihood):
        return False
    count = len(group[0].pieces)
    if count < 2 or any(isinstance(m.metric, ModuleMetric) or not m.blocks for m in measures):
        return False
    empty = Rolled((Scored((), ()),) * count)
    try:
        return all(len(m.extract(example, [empty])) == count for m in measures)
    except Exception:  # an extractor that cannot do with less than the whole text
        return False


def _units(
    e: int, example: Example, group: Sequence[Request], split: bool
) -> Iterator[tuple[Stretch, int]]:
    """The smallest stretches of an example, with their length in characters or bytes."""
    if not split:
        yield Stretch(e, example.id, _WHOLE, False), sum(len(request_text(r)) for r in group)
        return
    [request] = group
    assert isinstance(request, RollingLoglikelihood), "only texts in pieces are split"
    for k, piece in enumerate(request.pieces):
        yield Stretch(e, example.id, range(k, k + 1), True), len(piece)


def _joined(units: Sequence[Stretch]) -> Iterator[Stretch]:
    """Neighbouring pieces of one example as one stretch."""
    last = units[0]
    for unit in units[1:]:
        if unit.example == last.example:
            last = last._replace(pieces=range(last.pieces.start, unit.pieces.stop))
        else:
            yield last
            last = unit
    yield last


def part_sums(
    parts: Sequence[Part], outcomes: Outcomes, measure: str, *, statistics: int = 1
) -> Table:
    """The summed outcomes of each part, (parts, statistics), in the order of the parts.

    A part to which the measure does not apply has zeros.

    Args:
        parts: of a run.
        outcomes: of that run, or of another one on the same rows.
        measure: its name.
        statistics: how many the measure has, where there is no outcome of it that says so.

    Raises:
        RecordError: there are no outcomes of the measure, or not all of a part.
    """
    if measure not in outcomes.metrics:
        available = ", ".join(outcomes.metrics) or "none"
        raise RecordError(f"there are no outcomes of {measure!r} (available: {available})")
    rows: dict[tuple[str, int | None], int] = {}  # example and piece, None for all -> part
    for number, part in enumerate(parts):
        for stretch in part.stretches:
            pieces = stretch.pieces if stretch.split else (None,)
            rows |= {(stretch.id, piece): number for piece in pieces}
    values = outcomes.metrics[measure].values
    sums = np.zeros((len(parts), len(values[0]) if values else statistics))
    ids = set(outcomes.ids)
    missing = {key for key in rows if key[1] is not None or key[0] not in ids}
    for (example, place), value in zip(outcomes.keys(measure), values, strict=True):
        key = (example, place) if (example, place) in rows else (example, None)
        if key in rows:
            sums[rows[key]] += value
            missing.discard(key)
    if missing:
        example, piece = min(missing, key=lambda key: rows[key])
        where = "" if piece is None else f", piece {piece + 1}"
        raise RecordError(
            f"there is no outcome of {measure!r} for example {example}{where}; expected those of a "
            "run on the same rows"
        )
    return sums
