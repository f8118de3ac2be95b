"""Bets against one hypothesis: a martingale whose growth is evidence, and a fixed test at the end.

A bettor starts with 1 and may stake a share of the capital on each unit. By hypothesis no bet gains
on average, so that the capital ever exceeds 1/alpha with probability at most alpha (Ville 1939;
Ramdas et al. 2023, doi:10.1214/23-STS894). The capital is split over multiples of the stake that
grows fastest if the alternative is true.

Ville's inequality is not sharp: the bets use up only a part of alpha. A fixed test at the end gets
the rest. How often either rejects by hypothesis is counted on random draws from it.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.losses import Losses

Array = NDArray[np.float64]

MULTIPLES = np.array([1.0, 2.0, 4.0, 16.0])  # of the stake that suits the alternative
SHARES = np.array([0.7, 0.2, 0.07, 0.03])  # of the capital
MOST = 0.95  # of the capital that one unit may take
QUANTILES = 2.93  # standard errors that a test at 0.05 finds with a power of 0.9
DRAWS = 1999
HIGHEST_LEVEL = 0.5  # p-values of the fixed test above are 1
ROUNDING = 1e-9  # relative; sums this close to the observed one count as equal
TINY = 1e-12
BATCH_SIGNS = 1_000_000
SEED = 0


class Aim(NamedTuple):
    """Which mean of x the bets should find soon."""

    mean: float | None  # None: what a fixed test of `items` units finds
    items: int = 0

    def stakes(self, squares: ArrayLike) -> Array:
        """The stakes (multiples, ...) that suit it, if the mean of x * x is `squares` (...)."""
        squares = np.maximum(np.asarray(squares, np.float64), TINY)
        mean = self.mean or QUANTILES * np.sqrt(squares / self.items)
        return np.asarray(np.multiply.outer(MULTIPLES, mean / squares))


class Bets(ABC):
    """Bets, slice by slice, that the mean of x is positive; by hypothesis it is not."""

    log_capital = 0.0
    p = 1.0  # valid at any time

    def add(self, losses: Losses) -> None:
        """Bet on the units of one slice."""
        self.log_capital = self._bet(losses)
        self.p = min(self.p, math.exp(-max(0.0, self.log_capital)))

    def finish(self, draws: int = DRAWS) -> None:
        """All units have been used: hold a fixed test as well.

        The p-value is the smallest level that is not exceeded by the share of the draws in which
        the bets reject at this level, or the sum is at least as extreme as the one observed.
        """
        highest, as_extreme = self._draw(draws, np.random.default_rng(SEED))
        levels = np.sort(np.exp(-highest[~as_extreme]))
        levels = np.append(0.0, levels[levels <= HIGHEST_LEVEL])
        shares = (1 + as_extreme.sum() + np.arange(len(levels))) / (1 + draws)
        p = float(shares[shares > levels].max(initial=0.0))
        if p <= HIGHEST_LEVEL:
            self.p = min(self.p, p)

    @abstractmethod
    def _bet(self, losses: Losses) -> float:
        """The log of the capital after this slice."""

    @abstractmethod
    def _draw(self, draws: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
        """Draws from the hypothesis: the log of the highest capital; is the sum as extreme?"""


class SignBets(Bets):
    """By hypothesis, x = side * (loss - shift * weight) is as often positive as negative.

    The capital is multiplied by exp(stake * x) / cosh(stake * x) for each unit (de la Pena 1999).
    Sizes of x are no evidence, so that the stake may depend on those of the present slice.
    """

    def __init__(self, side: int, shift: float, aim: Aim, largest: float = math.inf) -> None:
        """No bet yet; no stake will exceed `largest`."""
        self._side, self._shift, self._aim, self._largest = side, shift, aim, largest
        self._slices: list[Array] = []
        self._stakes: list[Array] = []
        self._fees: list[Array] = []
        self._squares, self._units = 0.0, 0
        self._logs = np.zeros(len(SHARES))

    def _bet(self, losses: Losses) -> float:
        x = self._side * (losses.values - self._shift * losses.weights)
        self._squares += float(x @ x)
        self._units += len(x)
        stakes = np.minimum(self._aim.stakes(self._squares / self._units), self._largest)
        if not self._squares:
            stakes = np.zeros_like(stakes)
        fees = _log_cosh(np.outer(stakes, x)).sum(axis=1)
        self._slices.append(x)
        self._stakes.append(stakes)
        self._fees.append(fees)
        self._logs = self._logs + stakes * x.sum() - fees
        return float(_log_sum(self._logs))

    def _draw(self, draws: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
        sums = np.stack([_flipped_sums(x, draws, rng) for x in self._slices], axis=1)
        logs = np.zeros((len(SHARES), draws))
        highest = np.zeros(draws)
        for at, stakes, fees in zip(sums.T, self._stakes, self._fees, strict=True):
            logs += np.outer(stakes, at) - fees[:, None]
            highest = np.maximum(highest, _log_sum(logs))
        observed = sum(float(x.sum()) for x in self._slices)
        near = ROUNDING * sum(float(np.abs(x).sum()) for x in self._slices)
        return highest, sums.sum(axis=1) >= observed - near


class RightWrongBets(Bets):
    """By hypothesis, right answers get lost more often than won by at most (at least) a margin.

    The capital is multiplied by 1 + stake * x for each unit, with x = side * (loss - shift) and a
    loss of 1, 0 or -1. Without a shift, which units differ is no evidence, so that the stake may
    depend on their number in the present slice; otherwise only on that in earlier slices.
    """

    def __init__(self, side: int, shift: float, aim: Aim) -> None:
        """No bet yet; `shift` is a share of the units."""
        self._shift, self._aim = shift, aim
        self._x = side * (np.array([1.0, -1.0, 0.0]) - shift)  # of a lost, a won, another answer
        self._side = side
        self._counts: list[tuple[int, int, int]] = []

    def _bet(self, losses: Losses) -> float:
        lost, won = int((losses.values > 0).sum()), int((losses.values < 0).sum())
        self._counts.append((lost, won, len(losses.values) - lost - won))
        counts = np.array(self._counts)
        return float(self._path(counts, self._stakes(counts))[-1])

    def _stakes(self, counts: NDArray[np.int64]) -> Array:
        """Counts (..., slices, 3) -> stakes (multiples, ..., slices)."""
        units = counts.sum(axis=-1)
        differ = units - counts[..., 2]
        seen, differing = np.cumsum(units, axis=-1), np.cumsum(differ, axis=-1)
        if self._shift:  # before this slice; one unit that differs makes the first stakes small
            seen, differing = seen - units + 1, differing - differ + 1
        squares = differing / seen + self._shift**2
        return np.minimum(self._aim.stakes(squares), MOST / (1 + self._shift))

    def _path(self, counts: NDArray[np.int64], stakes: Array) -> Array:
        """Log of the capital after each slice (..., slices)."""
        logs = counts[..., 0] * np.log1p(stakes * self._x[0])
        logs += counts[..., 1] * np.log1p(stakes * self._x[1])
        if self._shift:
            logs += counts[..., 2] * np.log1p(stakes * self._x[2])
        return _log_sum(np.cumsum(logs, axis=-1))

    def _draw(self, draws: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
        counts = np.array(self._counts)
        if self._shift:
            chances = chances_at(self._shift, counts.sum(axis=0))
            drawn = rng.multinomial(counts.sum(axis=1), chances, (draws, len(counts)))
            stakes = self._stakes(drawn)
        else:
            differ = counts[:, 0] + counts[:, 1]
            lost = rng.binomial(differ, 0.5, (draws, len(counts)))
            drawn = np.stack(np.broadcast_arrays(lost, differ - lost, counts[:, 2]), axis=-1)
            stakes = self._stakes(counts)[:, None]
        observed = self._side * score_z(self._shift, counts.sum(axis=0))
        totals = self._side * score_z(self._shift, drawn.sum(axis=1))
        highest = self._path(drawn, stakes).max(axis=-1, initial=0.0)
        return highest, totals >= observed - ROUNDING


def chances_at(loss: float, counts: NDArray[Any]) -> Array:
    """The most likely chances of a lost, a won and another answer if the loss is this share.

    Counts and chances are (..., 3). Tango 1998, Statistics in Medicine 17.
    """
    lost, won, same = np.moveaxis(counts, -1, 0)
    n = counts.sum(axis=-1)
    b = lost * (1 - loss) + won * (1 - 3 * loss) - 2 * loss * same
    p_won = (b + np.sqrt(b * b + 8 * n * won * loss * (1 - loss))) / (4 * n)
    chances = np.stack([p_won + loss, p_won, 1 - loss - 2 * p_won], axis=-1)
    return np.clip(chances, 0, 1)


def score_z(loss: float, counts: NDArray[Any]) -> Array:
    """Standard errors between the loss and what was observed, positive if more was lost."""
    n = counts.sum(axis=-1)
    differ = 1 - chances_at(loss, counts)[..., 2]
    away = counts[..., 0] - counts[..., 1] - n * loss
    return np.asarray(away / np.sqrt(np.maximum(n * (differ - loss**2), TINY)))


def _flipped_sums(x: Array, draws: int, rng: np.random.Generator) -> Array:
    """Sums of x with random signs, (draws,)."""
    sums = [np.empty(0)]
    step = max(1, BATCH_SIGNS // len(x))
    for done in range(0, draws, step):
        rows = min(step, draws - done)
        octets = rng.integers(0, 256, (rows, -(-len(x) // 8)), np.uint8)
        signs = np.unpackbits(octets, axis=1, count=len(x)).astype(np.float64)
        sums.append(2 * signs @ x - x.sum())
    return np.concatenate(sums)


def _log_cosh(x: Array) -> Array:
    size = np.abs(x)
    return np.asarray(size + np.log1p(np.exp(-2 * size)) - math.log(2))


def _log_sum(logs: Array) -> Array:
    """Log of the capital, given the logs of what became of its shares (multiples, ...)."""
    highest = logs.max(axis=0)
    return np.asarray(highest + np.log(np.tensordot(SHARES, np.exp(logs - highest), 1)))
