"""How many items a comparison needs: from the spread of the items' differences.

Normal approximation of a one-sided paired test. The spread is measured on two runs, or guessed
from one; an item's part in a score is its jackknife influence (Efron and Tibshirani 1993,
chapter 11), so that every metric is treated in one way.
"""

import math
from collections.abc import Sequence

import numpy as np

from harness.errors import NumericsError, UsageError
from harness.metrics import Metric
from harness.stats.paired import ROUNDING, Table, selected, units, values


def detectable(sd: float, n: int, *, alpha: float, power: float) -> float:
    """The smallest drop that n items show with the given power, in the unit of `sd`.

    Normal approximation of a one-sided paired test at level alpha; `sd` is that of one item's
    difference, such as `sd_of_difference`.

    Raises:
        UsageError: it does not hold that 0 < alpha < power < 1.
    """
    return _quantiles(alpha, power) * sd / math.sqrt(n)


def needed(sd: float, drop: float, *, alpha: float, power: float) -> int:
    """How many items show a drop, given in the unit of `sd`, with the given power; at least 2.

    Raises:
        UsageError: as for `detectable`, or the drop is not positive.
    """
    if drop <= 0:
        raise UsageError(f"a drop of {drop:g} cannot be looked for; expected a positive number")
    items = (_quantiles(alpha, power) * sd / drop) ** 2
    return max(2, math.ceil(items * (1 - ROUNDING)))


def sd_of_difference(
    metric: Metric, a: Table, b: Table, *, blocks: int | None = None, seed: int = 0
) -> float:
    """Standard deviation of one item's part in the difference of two runs, in the metric's unit.

    Divided by the root of the number of items it is the standard error of the difference. For
    means it is that of the items' differences in points. With `blocks` it allows for neighbours
    that depend on each other.

    Raises:
        NumericsError: fewer than two items, or a run without a finite value.
    """
    first, second = _parts(metric, (a, b), blocks, seed).T
    return _sd(second - first)


def sd_guess(
    metric: Metric, a: Table, correlation: float, *, blocks: int | None = None, seed: int = 0
) -> float:
    """`sd_of_difference` of a run and another one like it, whose items correlate that much.

    Raises:
        NumericsError: fewer than two items, or no finite value.
    """
    [part] = _parts(metric, (a,), blocks, seed).T
    return math.sqrt(2 * (1 - correlation)) * _sd(part)


def sd_of_flips(discordance: float, drop: float) -> float:
    """`sd_of_difference`, in points, of runs that differ on a share of their right/wrong items.

    Args:
        discordance: share of the items that just one of the runs gets right, from 0 to 1.
        drop: the difference of the two accuracies, in points.

    Raises:
        UsageError: so few items that differ cannot make such a drop.
    """
    if not abs(drop) / 100 <= discordance <= 1:
        raise UsageError(
            f"a drop of {drop:g} points needs at least {abs(drop) / 100:g} of the items (and at "
            f"most 1) to be right in one run only, got {discordance:g}"
        )
    return 100 * math.sqrt(discordance - (drop / 100) ** 2)


def _influence(metric: Metric, table: Table) -> Table:
    """Each item's pull on the value, (n,) in the metric's unit: (n - 1) times what it adds.

    The jackknife (Efron and Tibshirani 1993, chapter 11). For a mean it is the item's distance
    from it; for perplexity, about perplexity * (nats - mean nats * units) / mean units.
    """
    total = table.sum(axis=0)
    return (len(table) - 1) * (values(metric, total) - values(metric, total - table))


def _parts(metric: Metric, runs: Sequence[Table], blocks: int | None, seed: int) -> Table:
    """Draws, (some, runs), whose standard deviation is that of one item's part in the value."""
    n = len(runs[0])
    if metric.select:
        return math.sqrt(n) * selected(metric, runs, seed)
    pooled = units(metric, runs, blocks)
    per_unit = np.stack([_influence(metric, run) for run in pooled], axis=1)
    return math.sqrt(n / len(per_unit)) * per_unit


def _sd(drawn: Table) -> float:
    sd = float(drawn.std(ddof=1)) if len(drawn) > 1 else math.nan
    if not math.isfinite(sd):
        raise NumericsError(f"the items' standard deviation is {sd}; expected two or more items")
    return sd


def _quantiles(alpha: float, power: float) -> float:
    """Standard errors between no drop and one that is detected with the given power."""
    from scipy.special import ndtri  # quantiles of the normal distribution

    if not 0 < alpha < power < 1:
        raise UsageError(f"expected 0 < alpha < power < 1, got alpha {alpha:g}, power {power:g}")
    return float(ndtri(1 - alpha) + ndtri(power))
