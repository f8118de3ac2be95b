"""95 % intervals: Wilson for accuracies, bootstrap for everything else.

Outcomes are sufficient statistics, so a resample is a vector of counts times their matrix.
Lines of one text are not independent, so they are first pooled into equal blocks of neighbours.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.core import Score
from harness.errors import HarnessError, NumericsError, TaskError, in_one_line
from harness.metrics import Metric
from harness.metrics.hf_evaluate import ModuleMetric
from harness.task import Measure

RESAMPLES = 2000
LEVEL = 0.95
BATCH_DRAWS = 200_000  # whose counts fit the processor's cache


class Interval(NamedTuple):
    """Standard error and 95 % interval, in the metric's unit."""

    stderr: float | None = None
    low: float | None = None
    high: float | None = None


def score(measure: Measure, outcomes: Sequence[Any], seed: int) -> Score:
    """The score of all outcomes together, with its interval.

    Raises:
        NumericsError: there are no outcomes, no units to divide by, or the value is not finite.
    """
    metric = measure.metric
    ci = Interval()
    if isinstance(metric, ModuleMetric):  # computed from all texts, without an interval
        if not outcomes:
            raise NumericsError(f"{measure.name}: nothing to score; expected at least one text")
        value, totals = metric.compute(outcomes), {"items": float(len(outcomes))}
    else:
        table = np.array(outcomes, np.float64).reshape(len(outcomes), len(measure.statistics))
        if metric.select and len(table):
            table = metric.select(table)
        sums = table.sum(axis=0)
        if not outcomes or sums[-1] <= 0:
            raise NumericsError(f"{measure.name}: nothing to divide by; expected at least one unit")
        with np.errstate(over="ignore"):
            value = float(metric.compute(sums))
        totals = dict(zip(measure.statistics, sums.tolist(), strict=True))
        if np.isfinite(value):
            ci = interval(metric, table, blocks=measure.blocks, seed=seed)
    if not np.isfinite(value):
        raise NumericsError(f"{measure.name} is {value}, expected a finite number")
    return Score(
        metric=measure.name,
        value=value,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        **ci._asdict(),
        totals=totals,
        column=measure.column,
        baseline=measure.baseline,
    )


def score_of_task(task: str, measure: Measure, outcomes: Sequence[Any], seed: int) -> Score:
    """As `score`; raises a TaskError for an error of the task's own metric."""
    try:
        return score(measure, outcomes, seed)
    except HarnessError:
        raise
    except Exception as error:
        raise TaskError(
            f"task {task!r}: the metric of measure {measure.name!r} failed: {in_one_line(error)}"
        ) from error


def interval(
    metric: Metric, table: NDArray[np.float64], *, blocks: int | None, seed: int
) -> Interval:
    """Interval of a metric over outcomes (n, statistics); Wilson's for proportions."""
    if metric.proportion:
        from scipy.stats import binomtest  # imported here: it takes a second

        right, total = (round(x) for x in table[:, -2:].sum(axis=0))
        share = right / total
        ci = binomtest(right, total).proportion_ci(LEVEL, method="wilson")
        return Interval(100 * (share * (1 - share) / total) ** 0.5, 100 * ci.low, 100 * ci.high)
    pooled = pool(table, blocks) if blocks else table
    if len(pooled) < 2:
        return Interval()
    values = bootstrap(metric, pooled, seed=seed)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.std(ddof=1)), float(low), float(high))


def pool(table: NDArray[np.float64], blocks: int) -> NDArray[np.float64]:
    """Sums over at most `blocks` groups of consecutive outcomes with about equal units.

    The last statistic counts the units.
    """
    return np.add.reduceat(table, block_starts(table[:, -1], blocks), axis=0)


def block_starts(sizes: NDArray[np.float64], blocks: int) -> NDArray[np.int64]:
    """Where at most `blocks` groups of neighbours of about equal total size begin."""
    place = np.cumsum(sizes)
    edges = np.searchsorted(place, np.linspace(0, place[-1], blocks + 1)[1:-1], side="right")
    return np.unique(np.concatenate([[0], edges[edges < len(sizes)]]))


def bootstrap(
    metric: Metric, table: NDArray[np.float64], *, seed: int, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """The metric's finite values on resamples (with replacement) of the outcomes."""
    sums = resampled_sums(table, seed=seed, resamples=resamples)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values: NDArray[np.float64] = np.asarray(metric.compute([*sums.T]))
    return values[np.isfinite(values)]


def resampled_sums(table: NDArray[np.float64], *, seed: int, resamples: int) -> NDArray[np.float64]:
    """Sums over resamples (with replacement) of the outcomes, (resamples, statistics)."""
    rng = np.random.default_rng(seed)
    n = len(table)
    sums: list[NDArray[np.float64]] = []
    step = max(1, BATCH_DRAWS // n)
    for done in range(0, resamples, step):
        rows = min(step, resamples - done)
        draws = rng.integers(0, n, (rows, n))
        draws += n * np.arange(rows)[:, None]  # row r draws from r * n to r * n + n - 1
        counts = np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n)
        sums.append(counts.astype(np.float64) @ table)
    return np.concatenate(sums)
