"""Corpus metrics: outcomes are summed over all examples and divided once.

An outcome is a tuple of sufficient statistics, such as (nats, words). A metric is a function of
their sums, so a mean of means cannot happen, and a resample is one matrix product
(`harness.stats.intervals`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Outcome = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """How summed outcomes become a number."""

    unit: str
    higher_is_better: bool
    compute: Callable[[Sequence[Any]], Any]
    """Sums of the statistics, each a float or an array -> value(s) in `unit`."""
    proportion: bool = False
    """Whether outcomes end in (right, 1) with right 0 or 1; the interval is then binomial."""
    select: Callable[[Any], Any] | None = None
    """All outcomes, an array (n, statistics) -> those that count, for scores of a subset."""


def _percent(sums: Sequence[Any]) -> Any:
    return 100 * sums[-2] / sums[-1]


def _mean(sums: Sequence[Any]) -> Any:
    return sums[-2] / sums[-1]


def _perplexity(sums: Sequence[Any]) -> Any:
    nats, units = sums
    return math.e ** (nats / units)


def _bits(sums: Sequence[Any]) -> Any:
    nats, units = sums
    return nats / units / math.log(2)


ACCURACY = Metric("%", higher_is_better=True, compute=_percent, proportion=True)
"""Share of right answers; outcomes are (right, 1)."""

MEAN = Metric("%", higher_is_better=True, compute=_percent)
"""Mean of values from 0 to 1, in percent; outcomes are (sum of the values, their number)."""


def mean(unit: str, *, higher_is_better: bool) -> Metric:
    """Mean of values in `unit`, such as nats; outcomes are (sum of the values, their number)."""
    return Metric(unit, higher_is_better, _mean)


def selective_accuracy(coverage: float) -> Metric:
    """Accuracy on the most confident answers; outcomes are (confidence, right, 1).

    `coverage` is the share of answers that counts, at least one. Answers of equal confidence count
    in the order of the examples.
    """

    def select(outcomes: Any) -> Any:
        count = max(1, math.floor(round(coverage * len(outcomes), 9)))  # 0.29 * 100 is below 29
        return outcomes[(-outcomes[:, 0]).argsort(kind="stable")[:count]]

    return Metric("%", True, _percent, proportion=True, select=select)


def mean_over_runs(runs: int, unit: str = "points") -> Metric:
    """100 * mean over runs of each run's mean; outcomes are (one value per run ..., 1)."""

    def compute(sums: Sequence[Any]) -> Any:
        return 100 * sum(sums[:-1]) / runs / sums[-1]

    return Metric(unit, higher_is_better=True, compute=compute)


def std_over_runs(runs: int, unit: str = "points") -> Metric:
    """Standard deviation of the runs' scores around `mean_over_runs`; outcomes are the same."""

    def compute(sums: Sequence[Any]) -> Any:
        scores = [100 * value / sums[-1] for value in sums[:-1]]
        mean = sum(scores) / runs
        return (sum((score - mean) ** 2 for score in scores) / (runs - 1)) ** 0.5

    return Metric(unit, higher_is_better=False, compute=compute)


def perplexity(unit: str) -> Metric:
    """exp(total nats / total units); outcomes are (nats, units).

    Radford et al. 2019, section 3.1: the log-probability of the text is divided by the number of
    *canonical* units before it is exponentiated.
    """
    return Metric(f"per {unit}", higher_is_better=False, compute=_perplexity)


def bits(unit: str) -> Metric:
    """Total nats / (ln 2 * total units), in bits per `unit`; outcomes are (nats, units)."""
    return Metric(f"bits per {unit}", higher_is_better=False, compute=_bits)
