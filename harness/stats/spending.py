"""Group-sequential bounds: how much of an error rate each look may spend (Lan and DeMets 1983).

The bounds follow from the recursion of Armitage, McPherson and Rowe 1969: the density of the sum at
a look, among the paths that have not crossed a bound before.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Spending = Callable[[float, float], float]
"""(error rate, share of the information) -> what may have been spent by then."""

NODES = 64  # of the quadrature at each look
LOWEST = -8.0  # standard errors, below which no path comes
HIGHEST = 9.0
LEVELS = np.geomspace(1e-6, 0.5, 80)  # for which bounds are computed


def alpha_spending(alpha: float, share: float) -> float:
    """As the bounds of O'Brien and Fleming 1979: very little at early looks.

    >>> round(alpha_spending(0.05, 0.25), 6)
    8.9e-05
    """
    from scipy.special import ndtr, ndtri

    return float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(share)))


def beta_spending(beta: float, share: float) -> float:
    """The family of Hwang, Shih and De Cani 1990 with parameter -2."""
    return beta * math.expm1(2 * share) / math.expm1(2)


def bounds(
    level: float, spending: Spending, looks: Sequence[float], *, last: bool = True
) -> list[float]:
    """What z must reach at each look, given each look's share of the information.

    The last one spends all that is left, if it is the `last` of all, whatever its share.

    >>> [round(z, 2) for z in bounds(0.05, alpha_spending, [0.25, 0.5, 0.75, 1])]
    [3.75, 2.54, 2.02, 1.72]
    """
    found: list[float] = []
    nodes, masses = np.zeros(1), np.ones(1)  # where the paths are that go on; start at 0
    spent = before = 0.0
    for i, share in enumerate(looks):
        sd = math.sqrt(share - before)
        ends = last and i == len(looks) - 1
        now = level if ends else spending(level, min(share, 1.0))
        bound = _crossing(nodes, masses, sd, now - spent)
        found.append(bound / math.sqrt(share))
        x, widths = _quadrature(LOWEST * math.sqrt(share), bound)
        density = np.exp(-0.5 * ((x[:, None] - nodes) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))
        nodes, masses = x, (density @ masses) * widths
        spent, before = now, share
    return found


def smallest_level(z: float, spending: Spending, looks: tuple[float, ...], *, last: bool) -> float:
    """The smallest level at which z crosses the bound of the last look; 1 if it is above 1/2.

    This is a p-value that holds for all looks together, if the smallest of all looks is taken.
    """
    crossed = _bounds_of_levels(spending, looks, last)
    if z < crossed[-1]:
        return 1.0
    return float(np.exp(np.interp(-z, -crossed, np.log(LEVELS))))


@lru_cache(maxsize=256)
def _bounds_of_levels(spending: Spending, looks: tuple[float, ...], last: bool) -> Array:
    """The bound of the last look at each of the levels."""
    return np.array([bounds(level, spending, looks, last=last)[-1] for level in LEVELS])


def _crossing(nodes: Array, masses: Array, sd: float, spend: float) -> float:
    """The bound that the sum exceeds with probability `spend` at this look."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    def excess(bound: float) -> float:
        return float(masses @ ndtr((nodes - bound) / sd)) - spend

    low, high = nodes[0] + LOWEST * sd, nodes[-1] + HIGHEST * sd
    if excess(high) >= 0:  # next to nothing may be spent
        return float(high)
    return float(brentq(excess, low, high, xtol=1e-9))


def _quadrature(low: float, high: float) -> tuple[Array, Array]:
    """Nodes and widths of Gauss and Legendre."""
    nodes, widths = _unit_quadrature()
    return low + (high - low) * (nodes + 1) / 2, widths * (high - low) / 2


@lru_cache(maxsize=1)
def _unit_quadrature() -> tuple[Array, Array]:
    """From -1 to 1."""
    nodes, widths = np.polynomial.legendre.leggauss(NODES)
    return np.asarray(nodes), np.asarray(widths)
