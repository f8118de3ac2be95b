"""The number of examples that a comparison needs, from the spread of their differences.

Normal approximation of a one-sided paired test. The spread is measured on two runs, or
estimated from one. An example's share in a score is its jackknife influence (Efron and Tibshirani
1993, chapter 11), which treats every metric in the same way.
"""

import math
from collections.abc import Sequence

import numpy as np

from harness.errors import NumericsError, UsageError
from harness.metrics import Metric
from harness.stats.paired import ROUNDING, Table, selected, units, values


def detectable(sd: float, n: int, *, alpha: float, power: float) -> float:
    """The smallest drop that n examples detect with the given power, in the unit of `sd`.

    `sd` is that of one example's difference, as from `sd_of_difference`; `alpha` is one-sided.
    """
    return _quantiles(alpha, power) * sd / math.sqrt(n)


def needed(sd: float, drop: float, *, alpha: float, power: float) -> int:
    """How many examples (2 or more) detect a drop, in the unit of `sd`, with the given power."""
    if drop <= 0:
        raise UsageError(f"a drop of {drop:g} cannot be detected; expected a positive number")
    examples = (_quantiles(alpha, power) * sd / drop) ** 2
    return max(2, math.ceil(examples * (1 - ROUNDING)))


def difference(metric: Metric, a: Table, b: Table) -> float:
    """The value of b minus that of a, in the metric's unit; 0 for a difference by rounding."""
    counted = (metric.select(table) if metric.select else table for table in (a, b))
    before, after = (float(values(metric, table.sum(axis=0))) for table in counted)
    near = ROUNDING * max(abs(before), abs(after))
    return after - before if abs(after - before) > near else 0.0


def sd_of_difference(
    metric: Metric, a: Table, b: Table, *, blocks: int | None = None, seed: int = 0
) -> float:
    """Standard deviation of one example's share in the difference, in the metric's unit.

    Divided by the root of the number of examples it is the standard error of the difference. For
    means it is that of the differences in points. With `blocks` it allows for dependence between
    neighbours.
    """
    first, second = _parts(metric, (a, b), blocks, seed).T
    return _sd(second - first)


def sd_guess(
    metric: Metric, a: Table, correlation: float, *, blocks: int | None = None, seed: int = 0
) -> float:
    """`sd_of_difference` of a run and a similar one, with the given correlation of examples."""
    [part] = _parts(metric, (a,), blocks, seed).T
    return math.sqrt(2 * (1 - correlation)) * _sd(part)


def sd_of_flips(discordance: float, drop: float) -> float:
    """`sd_of_difference`, in points, of runs that differ on a share of right/wrong examples.

    `discordance` is the share of the examples that only one of the runs gets right, from 0 to 1,
    and `drop` is the difference of the two accuracies, in points.
    """
    if not abs(drop) / 100 <= discordance <= 1:
        raise UsageError(
            f"a drop of {drop:g} points needs at least {abs(drop) / 100:g} of the examples (and at "
            f"most 1) to be right in one run only, got {discordance:g}"
        )
    return 100 * math.sqrt(discordance - (drop / 100) ** 2)


def _influence(metric: Metric, table: Table) -> Table:
    """Each example's jackknife influence on the value, (n,) in the metric's unit.

    It is (n - 1) times what the example adds. For a mean it is the distance from the mean; for
    perplexity, about perplexity * (nats - mean nats * units) / mean units.
    """
    total = table.sum(axis=0)
    return (len(table) - 1) * (values(metric, total) - values(metric, total - table))


def _parts(metric: Metric, runs: Sequence[Table], blocks: int | None, seed: int) -> Table:
    """Draws, (count, runs), whose standard deviation is that of one example's share."""
    n = len(runs[0])
    if metric.select:
        return math.sqrt(n) * selected(metric, runs, seed)
    pooled = units(metric, runs, blocks)
    per_unit = np.stack([_influence(metric, run) for run in pooled], axis=1)
    return math.sqrt(n / len(per_unit)) * per_unit


def _sd(drawn: Table) -> float:
    sd = float(drawn.std(ddof=1)) if len(drawn) > 1 else math.nan
    if not math.isfinite(sd):
        raise NumericsError(
            f"the standard deviation of the examples is {sd}; expected two or more examples"
        )
    return sd


def _quantiles(alpha: float, power: float) -> float:
    """Standard errors between no drop and a drop that is detected with the given power."""
    from scipy.special import ndtri  # quantiles of the normal distribution

    if not 0 < alpha < power < 1:
        raise UsageError(f"expected 0 < alpha < power < 1, got alpha {alpha:g}, power {power:g}")
    return float(ndtri(1 - alpha) + ndtri(power))
