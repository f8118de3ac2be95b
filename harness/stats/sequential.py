"""Tests that may stop early: evidence that grows while a candidate is being evaluated.

Two hypotheses are tested: that nothing is lost (its rejection is a regression), and that as much as
the margin is lost (its rejection proves that the candidate is fine). The p-values never rise and
hold whenever one stops, so that those of several scores may go through Holm 1979 at any time.
"""

import math

import numpy as np

from harness.stats.bets import (
    DRAWS,
    ROUNDING,
    Aim,
    Bets,
    MeanBets,
    RightWrongBets,
    SignBets,
)
from harness.stats.losses import Losses
from harness.stats.right_wrong import tango
from harness.stats.spending import alpha_spending, beta_spending, smallest_level

PERCENT = 100.0  # the loss of a right answer that became wrong
SMALLEST_AIM = 0.25  # of the margin
LARGEST_LOG = 700.0  # whose exponential is a float


class Martingale:
    """Bets on the losses of each slice; may be looked at after any of them.

    Against no loss, the bets are exact on any scale by the hypothesis of a sign-flip test. Against
    the margin they are exact for right/wrong answers, and for other losses unless a few units have
    losses far beyond any seen before.
    """

    def __init__(
        self,
        margin: float | None,
        min_loss: float = 0.0,
        *,
        proportion: bool = False,
        items: int | None = None,
    ) -> None:
        """No evidence yet.

        Args:
            margin: the loss that must not be missed, in the score's unit; None: never proved fine.
            min_loss: no regression up to this loss.
            proportion: whether answers are right or wrong.
            items: the units at hand, so that the bets suit what they can show; needed without a
                margin.
        """
        assert margin or items, "expected a margin or the number of items"
        aim = Aim(margin and max(margin - min_loss, SMALLEST_AIM * margin), items or 0)
        self._worse = _bets(1, min_loss, aim, proportion)
        within = Aim(margin, items or 0)
        self._within = _bets(-1, margin, within, proportion) if margin else None

    @property
    def p_worse(self) -> float:
        """P-value of `no more is lost than min_loss`, at any time."""
        return self._worse.p

    @property
    def p_within(self) -> float:
        """P-value of `as much as the margin is lost`, at any time; 1 without a margin."""
        return self._within.p if self._within else 1.0

    @property
    def e_worse(self) -> float:
        """The capital after bets against `no more is lost than min_loss`."""
        return _capital(self._worse)

    @property
    def e_within(self) -> float:
        """The capital after bets against `as much as the margin is lost`; 1 without a margin."""
        return _capital(self._within) if self._within else 1.0

    def add(self, losses: Losses) -> None:
        """Bet on the units of one slice, drawn at random from those left."""
        self._worse.add(losses)
        if self._within:
            self._within.add(losses)

    def finish(self, draws: int = DRAWS) -> None:
        """All units have been used: what the bets have left of the error rates goes to a test."""
        self._worse.finish(draws)
        if self._within:
            self._within.finish(draws)


def _bets(side: int, shift: float, aim: Aim, proportion: bool) -> Bets:
    if proportion:
        shares = aim._replace(mean=aim.mean and aim.mean / PERCENT)
        return RightWrongBets(side, shift / PERCENT, shares)
    return MeanBets(side, shift, aim) if shift else SignBets(aim)


def _capital(bets: Bets) -> float:
    return math.exp(min(bets.log_capital, LARGEST_LOG))


class GroupSequential:
    """At most `looks` looks, at equal shares of the items; in between nothing can be decided."""

    def __init__(
        self,
        margin: float | None,
        min_loss: float = 0.0,
        *,
        proportion: bool = False,
        looks: int,
        items: int,
    ) -> None:
        """No evidence yet; `items` are the units at hand, the other arguments as for Martingale."""
        assert looks > 0, looks
        assert items > 0, items
        self._looks, self._items = looks, items
        self._worse = _sum(1, min_loss, proportion)
        self._within = _sum(-1, margin, proportion) if margin else None
        self._used, self._due = 0, 0
        self._shares: tuple[float, ...] = ()
        self.p_worse = 1.0
        self.p_within = 1.0

    def add(self, losses: Losses) -> None:
        """Take in one slice, and look if the next share of the items is complete."""
        self._used += len(losses.values)
        for found in (self._worse, self._within):
            if found:
                found.add(losses)
        due = math.floor(self._looks * self._used / self._items + ROUNDING)
        if self._due < due < self._looks:
            self._look(last=False)
        self._due = due

    def finish(self) -> None:
        """All units have been used: the last look spends what is left of the error rates."""
        if self._used:
            self._look(last=True)

    def _look(self, *, last: bool) -> None:
        share = self._used / self._items
        looks = self._shares = (*(s for s in self._shares if s < share), share)
        p = smallest_level(self._worse.z, alpha_spending, looks, last=last)
        self.p_worse = min(self.p_worse, p)
        if self._within:
            p = smallest_level(self._within.z, beta_spending, looks, last=last)
            self.p_within = min(self.p_within, p)


class _Sums:
    """Sums of x = side * (loss - shift * weight), of its squares and of its cubes."""

    def __init__(self, side: int, shift: float) -> None:
        self._side, self._shift = side, shift
        self._units, self._powers = 0, np.zeros(3)

    def add(self, losses: Losses) -> None:
        x = self._side * (losses.values - self._shift * losses.weights)
        self._units += len(x)
        self._powers += x.sum(), (x**2).sum(), (x**3).sum()

    @property
    def z(self) -> float:
        """With given sizes and random signs if the shift is 0, else t corrected for skewness."""
        from scipy.special import ndtri, stdtr

        n, (total, squares, cubes) = self._units, self._powers
        if not squares:
            return 0.0
        if not self._shift:
            return float(total / math.sqrt(squares))
        mean = total / n
        variance = max(squares / n - mean**2, ROUNDING * squares / n)
        skewness = (cubes / n - 3 * mean * squares / n + 2 * mean**3) / variance**1.5
        t = mean / math.sqrt(variance / max(n - 1, 1))
        a = skewness / (3 * math.sqrt(n))  # Hall 1992, JRSS-B 54, 221
        t += a * t**2 + a**2 * t**3 / 3 + a / 2
        p = max(stdtr(max(n - 1, 1), -t), 0.5**n)  # units that are alike: as by flipped signs
        return -float(ndtri(p))


class _Counts:
    """How many right answers were lost, how many won."""

    def __init__(self, side: int, shift: float) -> None:
        self._side, self._shift = side, shift
        self._lost = self._won = self._units = 0

    def add(self, losses: Losses) -> None:
        self._lost += int((losses.values > 0).sum())
        self._won += int((losses.values < 0).sum())
        self._units += len(losses.values)

    @property
    def z(self) -> float:
        """By the exact test if the shift is 0, else by the score test."""
        if self._shift:
            z = tango(self._lost, self._won, self._units, self._shift / PERCENT)
            return self._side * float(z)
        from scipy.special import bdtr, ndtri

        return -float(ndtri(bdtr(self._won, self._lost + self._won, 0.5)))


def _sum(side: int, shift: float, proportion: bool) -> "_Sums | _Counts":
    return _Counts(side, shift) if proportion else _Sums(side, shift)
