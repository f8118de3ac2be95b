"""Corpus metrics: statistics are summed over all items and divided once.

An item's outcome is a tuple of sufficient statistics, for instance (nats, words). A metric is
a function of their sums, so that a mean of means cannot happen and resampling is one matrix
product (`harness.stats`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Outcome = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """How summed statistics become a number."""

    unit: str
    higher_is_better: bool
    compute: Callable[[Sequence[Any]], Any]
    """Sums of the statistics, each a float or an array, -> value(s) in `unit`."""
    proportion: bool = False
    """Whether an outcome is (right, 1) with right 0 or 1: then the interval is binomial."""


def _percent(sums: Sequence[Any]) -> Any:
    right, total = sums
    return 100 * right / total


def _perplexity(sums: Sequence[Any]) -> Any:
    nats, units = sums
    return math.e ** (nats / units)


def _bits(sums: Sequence[Any]) -> Any:
    nats, units = sums
    return nats / units / math.log(2)


ACCURACY = Metric("%", higher_is_better=True, compute=_percent, proportion=True)
"""Share of right answers; outcomes are (right, 1)."""


def perplexity(unit: str) -> Metric:
    """exp(total nats / total units); outcomes are (nats, units).

    Radford et al. 2019, section 3.1: the log-probability of the whole text is divided by the
    number of *canonical* units and then exponentiated.
    """
    return Metric(f"per {unit}", higher_is_better=False, compute=_perplexity)


def bits(unit: str) -> Metric:
    """Total nats / (ln 2 * total units), in bits per `unit`; outcomes are (nats, units)."""
    return Metric(f"bits per {unit}", higher_is_better=False, compute=_bits)
