"""Exact tests and limits for the loss of accuracy between two runs on the same examples.

The tests are unconditional: of n examples, the numbers that only run a (lost) or only run b (won)
got right are trinomial. All tables of the two numbers are ordered by the score statistic of Tango
1998 (doi:10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B), and p is the largest
probability, over the unknown discordance, of a table at least as extreme as the one observed. The
discordance is kept in an interval that misses it with probability `MISSED`, which is added to p
(Berger and Boos 1994, doi:10.1080/01621459.1994.10476836). Limits are the inversion of the tests.

Losses and discordances are shares of the examples here, not percentages.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

MISSED = 1e-6
CELLS = 8_000  # probabilities for a first grid of discordances, of
POINTS = (17, 129)  # so many, and then
CLOSER = 7  # around the best, twice
WIDE = 7.0  # standard deviations of the discordant number that are summed over
EQUAL = 1e-9  # scores this close count as equal
PRECISION = 1e-6  # of limits

Array = NDArray[np.float64]


def p_within(lost: int, won: int, n: int, loss: float) -> float:
    """How probable so small an observed loss is if the true loss is `loss` or more, at most."""
    low, high = _discordance(lost + won, n)
    low = max(low, abs(loss))  # which a loss implies
    if low > high:
        return MISSED
    z = float(tango(lost, won, n, loss)) + EQUAL
    spread = WIDE * math.sqrt(n / 4 if low < 0.5 < high else n * max(_var(low), _var(high))) + 20
    m = np.arange(max(0, int(n * low - spread)), min(n, int(n * high + spread)) + 1)
    most = _most_lost(m, n, loss, z)
    points = min(max(POINTS[0], CELLS // len(m)), POINTS[1])
    peak = _maximum(lambda d: _probability(m, most, n, loss, d), low, high, points)
    return min(1.0, peak + MISSED)


def p_worse(lost: int, won: int, n: int, loss: float) -> float:
    """How probable so large an observed loss is if the true loss is `loss` or less, at most."""
    return p_within(won, lost, n, -loss)


def upper_limit(lost: int, won: int, n: int, alpha: float) -> float:
    """The loss above which `p_within` is at most alpha."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    def excess(loss: float) -> float:  # nearly straight, so that few steps are needed
        p = min(p_within(lost, won, n, loss), 1 - PRECISION)
        return float(ndtri(p) - ndtri(alpha))

    inside = (lost - won) / n
    if excess(inside) <= 0:  # for an alpha of one half or more
        return inside
    step = 2 * math.sqrt(lost + won + 2) / n
    outside = inside + step
    while outside < 1 and excess(outside) > 0:
        inside, outside = outside, outside + step
    if outside >= 1 and (inside >= 1 or excess(1 - PRECISION) > 0):
        return 1.0
    return float(brentq(excess, inside, min(outside, 1 - PRECISION), xtol=PRECISION, rtol=1e-6))


def lower_limit(lost: int, won: int, n: int, alpha: float) -> float:
    """The loss below which `p_worse` is at most alpha."""
    return -upper_limit(won, lost, n, alpha)


def tango(lost: ArrayLike, won: ArrayLike, n: int, loss: float) -> Array:
    """The score statistic of a loss: observed minus supposed, in standard deviations under it."""
    lost, won = np.asarray(lost, np.float64), np.asarray(won, np.float64)
    variance = n * np.maximum(2 * likeliest_won(lost, won, n, loss) + loss * (1 - loss), 0)
    distance = lost - won - n * loss
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(distance) < EQUAL, 0.0, distance / np.sqrt(variance))


def likeliest_won(lost: ArrayLike, won: ArrayLike, n: int, loss: float) -> Array:
    """The likeliest share of won examples under a loss."""
    lost, won = np.asarray(lost, np.float64), np.asarray(won, np.float64)
    # It solves 2n x^2 + linear x + constant = 0.
    linear = (2 * n - lost + won) * loss - lost - won
    constant = -won * loss * (1 - loss)
    root = np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0))
    return np.asarray(np.clip((root - linear) / (4 * n), max(0.0, -loss), (1 - loss) / 2))


def _most_lost(m: NDArray[np.int64], n: int, loss: float, z: float) -> NDArray[np.int64]:
    """For each number m of discordant examples, the most lost ones with a score up to z, or -1.

    Among tables of the same m, the score grows with the lost ones.
    """
    low, high = np.full(len(m), -1), m.copy()
    while (low < high).any():
        middle = (low + high + 1) // 2
        fits = tango(middle, m - middle, n, loss) <= z
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    return low


def _probability(
    m: NDArray[np.int64], most: NDArray[np.int64], n: int, loss: float, discordance: Array
) -> Array:
    """The probability of at most `most` lost examples, for each discordance."""
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    d = discordance[:, None]
    ways = gammaln(n + 1) - gammaln(m + 1) - gammaln(n - m + 1)
    of_m = np.exp(ways + xlogy(m, d) + xlog1py(n - m, -d))
    lost_share = np.clip((d + loss) / np.maximum(2 * d, 1e-300), 0, 1)
    up_to = np.where(most < 0, 0.0, bdtr(np.maximum(most, 0).astype(np.float64), m, lost_share))
    return np.asarray((of_m * up_to).sum(axis=1), np.float64)


def _maximum(of: Callable[[Array], Array], low: float, high: float, first: int) -> float:
    """The largest value on a grid that is refined twice around its best point."""
    best = 0.0
    for points in (first, CLOSER, CLOSER):
        grid = np.linspace(low, high, points)
        found = of(grid)
        k = int(found.argmax())
        best = max(best, float(found[k]))
        low, high = grid[max(k - 1, 0)], grid[min(k + 1, points - 1)]
    return best


def _discordance(m: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of the discordance, which misses it with prob. `MISSED`."""
    from scipy.special import betaincinv

    low = float(betaincinv(m, n - m + 1, MISSED / 2)) if m else 0.0
    high = float(betaincinv(m + 1, n - m, 1 - MISSED / 2)) if m < n else 1.0
    return low, high


def _var(share: float) -> float:
    return share * (1 - share)
