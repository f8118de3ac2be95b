"""Bets against one hypothesis: a martingale whose growth is evidence, and a fixed test at the end.

A bettor starts with 1 and may stake a share of the capital on each unit. By hypothesis no bet gains
on average, so that the capital ever exceeds 1/alpha with probability at most alpha (Ville 1939;
Ramdas et al. 2023, doi:10.1214/23-STS894). The capital is split over multiples of the stake that
grows fastest if the alternative is true; a part of it is never staked.

What the bets do not use up of alpha goes to a fixed test at the end: the part kept, and what
Ville's inequality leaves because it is not sharp. How often either of them rejects by hypothesis is
counted on random draws from it. `benchmarks/gate_simulation.py` has the shares that were chosen and
what they give.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.losses import Losses
from harness.stats.right_wrong import likeliest_won, tango

Array = NDArray[np.float64]

MULTIPLES = np.array([1.0, 2.5, 12.0])  # of the stake that suits the aim: for larger effects
SHARES = np.array([0.5, 0.07, 0.03])  # of the capital; the rest is kept, for the fixed test
MOST = 0.95  # of a share that one unit may take
QUANTILES = 2.93  # standard errors that a test at 0.05 finds with a power of 0.9
FAR = 3.0  # standard deviations
UNITS_AHEAD = 10  # of a spread that is assumed before any unit has been seen
LEAST_ITEMS = 50  # for which a spread is assumed
DRAWS = 1999
HIGHEST_LEVEL = 0.5  # p-values of the fixed test above are 1
ROUNDING = 1e-9  # relative; sums this close to the observed one count as equal
TINY = 1e-300
LARGEST = 1e200
BATCH = 1_000_000
SEED = 0


class Aim(NamedTuple):
    """Which mean of x the bets should find soon."""

    mean: float | None  # None: what a fixed test of `items` units finds
    items: int = 0

    def stakes(self, squares: ArrayLike) -> Array:
        """The stakes (multiples, ...) that suit it, if the mean of x * x is `squares` (...)."""
        squares = np.maximum(np.asarray(squares, np.float64), TINY)
        mean = self.mean or QUANTILES * np.sqrt(squares / self.items)
        with np.errstate(over="ignore"):  # of a loss that is next to nothing beside the mean
            stakes = np.minimum(mean / squares, LARGEST)
        return np.asarray(np.multiply.outer(MULTIPLES, stakes))


class Bets(ABC):
    """Bets, slice by slice, that the mean of x is positive; by hypothesis it is not."""

    log_capital = math.log(SHARES.sum())  # without the part that is kept
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
    """By hypothesis, a unit's loss is as often positive as negative.

    The capital is multiplied by exp(stake * loss) / cosh(stake * loss) for each unit (de la Pena
    1999). Sizes of losses are no evidence, so that the stake may depend on the present slice's.
    """

    def __init__(self, aim: Aim) -> None:
        """No bet yet."""
        self._aim = aim
        self._slices: list[Array] = []
        self._stakes: list[Array] = []
        self._fees: list[Array] = []
        self._squares, self._units = 0.0, 0
        self._logs = np.zeros(len(SHARES))

    def _bet(self, losses: Losses) -> float:
        x = losses.values
        self._squares += float(x @ x)
        self._units += len(x)
        stakes = self._aim.stakes(self._squares / self._units)
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


class Seen(NamedTuple):
    """What is known of the units before a bet."""

    units: int
    squares: float  # sum of x * x
    largest: float  # of the sizes of x


class MeanBets(Bets):
    """By hypothesis, the mean of x = side * (loss - shift * weight) is 0 or less.

    The capital is multiplied by 1 + stake * x for each unit (Waudby-Smith and Ramdas 2024,
    doi:10.1093/jrsssb/qkad009). The stake depends on earlier units only, and is small enough for x
    as far below 0 as any before, or three standard deviations. This is exact but for units still
    further away, whose factor is held above 0. The fixed test is a bootstrap of t.
    """

    def __init__(self, side: int, shift: float, aim: Aim) -> None:
        """No bet yet."""
        self._side, self._shift, self._aim = side, shift, aim
        self._slices: list[Array] = []
        # as if some units had been seen, with the spread for which the items suffice
        spread = ((aim.mean or 0.0) / QUANTILES) ** 2 * max(aim.items, LEAST_ITEMS)
        self._first = self._seen = Seen(UNITS_AHEAD, UNITS_AHEAD * spread, 0.0)
        self._logs = np.zeros(len(SHARES))

    def _bet(self, losses: Losses) -> float:
        x = self._side * (losses.values - self._shift * losses.weights)
        self._slices.append(x)
        self._logs = self._logs + self._growth(x, self._seen).sum(axis=-1)
        units, squares, largest = self._seen
        largest = max(largest, float(np.abs(x).max()))
        self._seen = Seen(units + len(x), squares + float(x @ x), largest)
        return float(_log_sum(self._logs))

    def _growth(self, x: Array, seen: Seen) -> Array:
        """What units add to the log of the shares: x (..., units) -> (multiples, ..., units)."""
        squares, largest = np.empty_like(x), np.empty_like(x)  # of earlier units
        squares[..., 0], largest[..., 0] = seen.squares, seen.largest
        np.cumsum(x[..., :-1] ** 2, axis=-1, out=squares[..., 1:])
        squares[..., 1:] += seen.squares
        np.maximum.accumulate(np.abs(x[..., :-1]), axis=-1, out=largest[..., 1:])
        np.maximum(largest, seen.largest, out=largest)
        means = squares / (seen.units + np.arange(x.shape[-1]))
        worst = np.maximum(largest, FAR * np.sqrt(means))
        stakes = np.minimum(self._aim.stakes(means), MOST / np.maximum(worst, TINY))
        return np.asarray(np.log(np.maximum(1 + np.where(worst > 0, stakes, 0) * x, 1 - MOST)))

    def _draw(self, draws: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.bool_]]:
        x = np.concatenate(self._slices)
        starts = np.cumsum([0, *(len(part) for part in self._slices[:-1])])
        centred, observed = x - x.mean(), _t(x)
        highest, as_extreme = [np.empty(0)], [np.empty(0, np.bool_)]
        step = max(1, BATCH // len(x))
        for done in range(0, draws, step):
            drawn = centred[rng.integers(0, len(x), (min(step, draws - done), len(x)))]
            slices = np.add.reduceat(self._growth(drawn, self._first), starts, axis=-1)
            highest.append(_log_sum(np.cumsum(slices, axis=-1)).max(axis=-1, initial=0.0))
            as_extreme.append(_t(drawn) >= observed - ROUNDING)
        extreme = np.concatenate(as_extreme)
        extreme[: int(draws * 0.5 ** len(x))] = True  # units that are alike: as by flipped signs
        return np.concatenate(highest), extreme


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
        lost, won, _ = (int(n) for n in counts.sum(axis=0))
        units = counts.sum(axis=1)
        n = int(units.sum())
        if self._shift:
            share = float(likeliest_won(lost, won, n, self._shift))
            chances = np.clip([share + self._shift, share, 1 - self._shift - 2 * share], 0, 1)
            drawn = rng.multinomial(units, chances, (draws, len(counts)))
            stakes = self._stakes(drawn)
        else:
            differ = counts[:, 0] + counts[:, 1]
            flipped = rng.binomial(differ, 0.5, (draws, len(counts)))
            drawn = np.stack(np.broadcast_arrays(flipped, differ - flipped, counts[:, 2]), axis=-1)
            stakes = self._stakes(counts)[:, None]
        observed = self._side * float(tango(lost, won, n, self._shift))
        totals = drawn.sum(axis=1)
        as_extreme = self._side * tango(totals[:, 0], totals[:, 1], n, self._shift) >= (
            observed - ROUNDING
        )
        return self._path(drawn, stakes).max(axis=-1, initial=0.0), as_extreme


def _t(x: Array) -> Array:
    """Means over the last axis, in standard errors."""
    mean, sd = x.mean(axis=-1), x.std(axis=-1)
    return np.asarray(mean / np.maximum(sd, ROUNDING * np.abs(mean) + TINY) * x.shape[-1] ** 0.5)


def _flipped_sums(x: Array, draws: int, rng: np.random.Generator) -> Array:
    """Sums of x with random signs, (draws,)."""
    sums = [np.empty(0)]
    step = max(1, BATCH // len(x))
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
