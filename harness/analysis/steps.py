"""Scores over the steps of a training run, and steps that leave the curve of their neighbours.

A wrong or damaged file among the checkpoints of a run shows as a single step whose score is far
from those before and after it. A step is marked if its score is outside the range of the scores
next to it by more than

    3.5 times its standard error, as its 95 % interval states it,
    4.5 times the spread of the other steps around straight lines between their neighbours
        (more if there are only a few steps), and
    1.5 times the change of the curve just before or just after, whichever is smaller.

So a curve that only falls or only rises has no marks, however steep it is or sharp its bends, nor
has a jump that lasts. Marked steps are taken out one by one, the worst first, so that a wrong
neighbour neither hides a step nor makes one look wrong. The first and the last step have a
neighbour on one side only: they are never marked. Perplexities are compared by their logarithms.
`benchmarks/step_outliers.py` measures how often curves without a wrong step are marked.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.analysis.paper import published
from harness.analysis.scaling import metrics_of, rows_in_words, signature_differences
from harness.core import Score
from harness.engine.checkpoint.steps import run_of
from harness.records.record import Record

MIN_STEPS = 6  # fewer do not show a curve
OWN_ERRORS = 3.5
SPREADS = 4.5
CHANGES = 1.5
_Z = 1.959964  # half the width of a 95 % interval in standard errors
_MAD = 1.482602  # standard deviation of a normal distribution in median absolute deviations

Values = NDArray[np.float64]


class StepPoint(NamedTuple):
    """The score of one checkpoint of a training run."""

    name: str
    step: int
    value: float
    low: float | None
    high: float | None
    digest: str  # of the weights
    outlier: bool  # it leaves the curve of its neighbours


@dataclass(frozen=True, slots=True)
class StepCurve:
    """One score of the checkpoints of one training run that were measured alike."""

    task: str
    metric: str
    unit: str
    column: str | None  # of the paper's tables
    protocol: str
    rows: str  # which rows were scored, in words
    run: str  # what the names of the checkpoints share
    points: tuple[StepPoint, ...]  # by step
    differs: tuple[str, ...]  # parts of the signatures in which the checkpoints differ

    @property
    def name(self) -> str:
        """The paper's column, or benchmark and metric."""
        return self.column or f"{self.task} {self.metric}"


def step_curves(records: Iterable[Record], *, every: bool = False) -> list[StepCurve]:
    """One curve per training run and score, in the order of the paper's tables.

    Records share a curve if their checkpoints have the same number of parameters, and names that
    differ only in the step, and if they measure the same thing. The newest of several such records
    of a checkpoint counts. Records without a step are left out. `every` adds scores that fill no
    column of the paper's tables.
    """
    groups: dict[tuple[str, ...], dict[tuple[int, str], Record]] = {}
    for record in sorted(records, key=lambda record: record.created):
        model = record.model
        if (step := model.get("step")) is not None:
            measured = (*record.signature.identity(), rows_in_words(record))
            key = (run_of(model["name"]), str(model["parameters"]), *measured)
            groups.setdefault(key, {})[step, model["digest"]] = record
    result = [
        _curve(key[0], [group[place] for place in sorted(group)], metric)
        for key, group in groups.items()
        for metric in metrics_of(group.values(), every)
    ]
    order = published.in_order(dict.fromkeys(curve.task for curve in result))
    return sorted(result, key=lambda curve: (curve.run, order.index(curve.task)))


def _curve(run: str, records: Sequence[Record], metric: str) -> StepCurve:
    """The curve of one score; records by step."""
    pairs = [(r, s) for r in records for s in r.scores if s.metric == metric and not s.baseline]
    newest, score = max(pairs, key=lambda pair: pair[0].created)
    marked = outliers([(r.model["step"], s) for r, s in pairs])
    points = (
        StepPoint(m["name"], m["step"], s.value, s.low, s.high, m["digest"], m["step"] in marked)
        for m, s in ((record.model, score) for record, score in pairs)
    )
    return StepCurve(
        task=newest.task,
        metric=metric,
        unit=score.unit,
        column=score.column,
        protocol=newest.protocol,
        rows=rows_in_words(newest),
        run=run,
        points=tuple(points),
        differs=signature_differences(newest, [record for record, _ in pairs]),
    )


def outliers(points: Sequence[tuple[int, Score]]) -> set[int]:
    """The steps whose score leaves its neighbours' curve.

    Args:
        points: steps with one score each, all of the same task, protocol and measure.
    """
    ordered = sorted(points, key=lambda point: point[0])
    if len(ordered) < MIN_STEPS:
        return set()
    steps = np.array([step for step, _ in ordered], np.float64)
    values, errors = np.array([_value_and_error(score) for _, score in ordered]).T
    marked = leaving(steps, values, errors)
    return {step for (step, _), mark in zip(ordered, marked, strict=True) if mark}


def leaving(steps: Values, values: Values, errors: Values) -> list[bool]:
    """Whether each value leaves its neighbours' curve.

    Args:
        steps: ascending.
        values: on a scale on which their noise is about the same everywhere.
        errors: standard errors of the values; 0 where unknown.
    """
    left = np.arange(len(values))
    while len(left) >= MIN_STEPS:
        i = _worst(steps[left], values[left], errors[left])
        if i is None:
            break
        left = np.delete(left, i)
    return [i not in left for i in range(len(values))]


def _worst(steps: Values, values: Values, errors: Values) -> int | None:
    """The place of the value that is farthest outside its neighbours' range, if too far."""
    few = 1 + 2 / (len(values) - 3)  # the spread of few steps is uncertain
    found: dict[int, float] = {}
    for i in range(1, len(values) - 1):
        excess = max(values[i] - max(values[i - 1], values[i + 1]),
                     min(values[i - 1], values[i + 1]) - values[i])  # fmt: skip
        if excess > max(0, OWN_ERRORS * errors[i], CHANGES * _calmer_change(values, i)):
            others = np.delete(np.arange(len(values)), i)
            if excess > SPREADS * few * spread(steps[others], values[others]):
                found[i] = float(excess)
    return max(found, key=found.__getitem__, default=None)


def spread(steps: Values, values: Values) -> float:
    """Standard deviation of the values around straight lines between their neighbours.

    The lines are straight over the logarithm of the step. Robust: the median of all distances.
    """
    places = np.log1p(steps)
    gaps = places[2:] - places[:-2]
    right = np.divide(places[1:-1] - places[:-2], gaps, out=np.full(len(gaps), 0.5), where=gaps > 0)
    distances = values[1:-1] - (1 - right) * values[:-2] - right * values[2:]
    return _MAD * float(np.median(np.abs(distances) / np.sqrt(1 + right**2 + (1 - right) ** 2)))


def _calmer_change(values: Values, i: int) -> float:
    """The change between the two steps before a value, or after it: the smaller one."""
    changes = [abs(values[i - 1] - values[i - 2])] if i >= 2 else []
    changes += [abs(values[i + 2] - values[i + 1])] if i + 2 < len(values) else []
    return float(min(changes))


def _value_and_error(score: Score) -> tuple[float, float]:
    value, low, high = score.value, score.low, score.high
    if score.unit.startswith("per ") and value > 0:  # a perplexity
        value = math.log(value)
        low = math.log(low) if low is not None and low > 0 else None
        high = math.log(high) if high is not None and high > 0 else None
    error = 0.0 if low is None or high is None else (high - low) / (2 * _Z)
    return value, error
