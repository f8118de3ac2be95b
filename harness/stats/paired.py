"""Paired tests of two runs on the same examples: McNemar, sign flips, paired bootstrap, Holm.

Right/wrong outcomes: McNemar's exact test (McNemar 1947, doi:10.1007/BF02295996), on the examples
that only one of the runs got right. Everything else: the sign-flip permutation test, which swaps
the runs example by example (Noreen 1989, "Computer-Intensive Methods for Testing Hypotheses",
chapter 2), on the score itself, not on a mean of differences. Intervals: percentiles of the paired
bootstrap (Efron and Tibshirani 1993, chapter 13). Several tasks: Holm 1979.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import NumericsError
from harness.metrics import Metric
from harness.stats.intervals import LEVEL, pool, resampled_sums

RESAMPLES = 10_000
EXACT_PAIRS = 12  # up to this many pairs, all 2^n swaps are tried
SELECTIONS = 500  # resamples of metrics with `select`, which sort the examples in each
MAX_CELLS = 16  # distinct outcomes up to which one multinomial draw counts them
BATCH_SWAPS = 1_000_000  # 8 MB
ROUNDING = 1e-10  # relative; differences this close to the observed one count as equal

Table = NDArray[np.float64]
"""Outcomes, (n, statistics)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Run b minus run a on the same examples."""

    value: float  # in the metric's unit, as low and high
    low: float | None  # 95 % interval; None for fewer than two pairs
    high: float | None
    p: float | None  # two-sided; None if there is no test
    p_worse: float | None  # one-sided: small where b is worse than a
    test: str  # "mcnemar", "sign-flip" or "none"
    pairs: int  # resampling units: examples, or blocks of neighbours
    lost: int | None  # examples that a got right and b wrong; None unless right/wrong
    won: int | None  # examples that b got right and a wrong
    a: float  # the runs' own values
    b: float


def difference(
    metric: Metric,
    a: Table,
    b: Table,
    *,
    blocks: int | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """The difference of two runs, with interval and test.

    The outcomes are of the same examples in the same order. With `blocks`, blocks of neighbours
    are swapped and resampled instead of examples, except for right/wrong outcomes. A metric with
    `select` has an interval but no test: each run chooses its own examples, so there are no pairs
    to swap.

    Raises:
        NumericsError: a run has no finite value, for instance because there are no examples.
    """
    assert a.shape == b.shape, f"outcomes of the same examples, got {a.shape} and {b.shape}"
    before, after = _score(metric, a), _score(metric, b)
    if not math.isfinite(before) or not math.isfinite(after):
        raise NumericsError(f"cannot compare {before} with {after}; expected finite numbers")
    flips = metric.proportion and not metric.select
    lost, won = lost_and_won(a, b) if flips else (None, None)
    a, b = units(metric, (a, b), blocks)
    low, high = _interval(metric, a, b, seed, resamples)
    test, p, p_worse = "none", None, None
    if lost is not None and won is not None and len(a) > 1:
        test = "mcnemar"
        p, p_worse = _mcnemar(lost, won) if metric.higher_is_better else _mcnemar(won, lost)
    elif not metric.select and len(a) > 1:
        test = "sign-flip"
        p, p_worse = _sign_flip(metric, a, b, seed, resamples)
    return Difference(
        value=after - before,
        low=low,
        high=high,
        p=p,
        p_worse=p_worse,
        test=test,
        pairs=len(a),
        lost=lost,
        won=won,
        a=before,
        b=after,
    )


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The p-values adjusted for their number, in the order given; None stays None.

    The smallest of m is multiplied by m, the next by m - 1 and so on. None falls below the one
    before it, and none exceeds 1 (Holm 1979, Scandinavian Journal of Statistics 6).

    >>> holm([0.04, None, 0.01])
    [0.04, None, 0.02]
    """
    tested = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, i) in enumerate(tested):
        least = max(least, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = least
    return adjusted


def values(metric: Metric, sums: Table) -> Table:
    """The metric on sums, (statistics,) or (resamples, statistics); NaN or inf if undefined."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(metric.compute([*sums.T]), np.float64)


def _score(metric: Metric, table: Table) -> float:
    """The metric on all outcomes, or on those that `select` chooses; NaN for none."""
    if not len(table):
        return math.nan
    counted = metric.select(table) if metric.select else table
    return float(values(metric, counted.sum(axis=0)))


def lost_and_won(a: Table, b: Table) -> tuple[int, int]:
    """How many right answers (second to last statistic) became wrong, and wrong ones right."""
    change = b[:, -2] - a[:, -2]
    return int((change < 0).sum()), int((change > 0).sum())


def units(metric: Metric, runs: Sequence[Table], blocks: int | None) -> Sequence[Table]:
    """The units that are swapped and resampled: examples, or blocks of the same examples.

    Blocks have about equal units as counted by the first run. Another tokenizer may count other
    units in the second run, but the blocks must be the same.
    """
    if not blocks or metric.proportion or metric.select:
        return runs
    pooled = pool(np.hstack([*runs[::-1]]), blocks)  # cuts by the last statistic
    return np.hsplit(pooled, len(runs))[::-1]


def _mcnemar(lost: int, won: int) -> tuple[float, float]:
    """P and p_worse; under the null hypothesis, lost is binomial(lost + won, 1/2)."""
    from scipy.special import bdtr  # the binomial's distribution function

    as_many_lost = float(bdtr(won, lost + won, 0.5))  # lost or more, that is: won or fewer
    as_many_won = float(bdtr(lost, lost + won, 0.5))
    return min(1.0, 2 * min(as_many_lost, as_many_won)), as_many_lost


def _sign_flip(
    metric: Metric, a: Table, b: Table, seed: int, resamples: int
) -> tuple[float, float]:
    """P and p_worse: how often runs with randomly swapped examples differ as much as these do.

    Unless all swaps are tried, the observed assignment is counted with those drawn, so that p is
    valid and never 0 (Phipson and Smyth 2010, arXiv:1603.05766).
    """
    exact = len(a) <= EXACT_PAIRS
    swaps = all_swaps(len(a)) if exact else _random_swaps(len(a), seed, resamples)
    moved = np.concatenate([chosen @ (b - a) for chosen in swaps])
    first = a.sum(axis=0) + moved
    second = b.sum(axis=0) - moved
    changes = values(metric, second) - values(metric, first)
    before, after = _score(metric, a), _score(metric, b)
    near = ROUNDING * max(abs(before), abs(after))
    better = 1 if metric.higher_is_better else -1
    # negated, so that a swap whose value is not finite counts against significance
    extreme = ~(np.abs(changes) < abs(after - before) - near)
    worse = ~(better * changes > better * (after - before) + near)
    as_is = 0 if exact else 1
    p, p_worse = ((as_is + int(hits.sum())) / (as_is + len(changes)) for hits in (extreme, worse))
    return p, p_worse


def all_swaps(n: int) -> Iterator[Table]:
    """Every choice of n examples to swap, as one (2^n, n) array of 0 and 1."""
    yield (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.float64)


def _random_swaps(n: int, seed: int, resamples: int) -> Iterator[Table]:
    """Random choices of n examples to swap, `resamples` in all, in (batch, n) arrays of 0 and 1."""
    rng = np.random.default_rng(seed)
    step = max(1, BATCH_SWAPS // n)
    for done in range(0, resamples, step):
        rows = min(step, resamples - done)
        octets = rng.integers(0, 256, (rows, -(-n // 8)), np.uint8)
        yield np.unpackbits(octets, axis=1, count=n).astype(np.float64)


def _interval(
    metric: Metric, a: Table, b: Table, seed: int, resamples: int
) -> tuple[float | None, float | None]:
    """95 % interval of the difference: percentiles over resamples of the pairs."""
    if len(a) < 2:
        return None, None
    if metric.select:
        first, second = selected(metric, (a, b), seed).T
    else:
        sums = _paired_sums(np.hstack([a, b]), seed, resamples)
        first, second = (values(metric, half) for half in np.hsplit(sums, 2))
    changes = second - first
    changes = changes[np.isfinite(changes)]
    low, high = np.quantile(changes, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _paired_sums(pairs: Table, seed: int, resamples: int) -> Table:
    """Sums over resamples of the rows, (resamples, statistics of both runs)."""
    cells, counts = np.unique(pairs, axis=0, return_counts=True)
    if len(cells) > MAX_CELLS:
        return resampled_sums(pairs, seed=seed, resamples=resamples)
    # right/wrong pairs have four kinds of rows: drawing the count of each is 1,000 times faster
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(pairs), counts / len(pairs), resamples)
    return np.asarray(drawn @ cells, np.float64)


def selected(metric: Metric, runs: Sequence[Table], seed: int) -> Table:
    """Values of a metric with `select` on resamples of the examples, (SELECTIONS, runs)."""
    rng = np.random.default_rng(seed)
    n = len(runs[0])
    drawn = []
    for _ in range(SELECTIONS):
        draw = np.sort(rng.integers(0, n, n))  # in order: ties are broken by position
        drawn.append([_score(metric, run[draw]) for run in runs])
    return np.array(drawn)
