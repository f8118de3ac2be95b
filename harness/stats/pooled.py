"""One decision over many scores: the sign-flip test of their mean standardised loss.

For the checkpoint that is a little worse everywhere (Kübler et al. 2026, arXiv:2602.10144). The
loss of each score is divided by its standard error under no difference, which does not depend on
which run is which. Scores of one benchmark share examples, so the runs are swapped example by
example in all of them together.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics import Metric
from harness.stats.limits import subset_sums
from harness.stats.losses import losses
from harness.stats.paired import ROUNDING, Table


class PooledScore(NamedTuple):
    """The outcomes of one score in two runs; the same examples in the same order."""

    metric: Metric
    benchmark: str  # whose scores share examples
    keys: Sequence[tuple[str, int]]  # example and part of each outcome, (n,)
    a: Table
    b: Table
    blocks: int | None = None  # of neighbours that are not independent


class Pooled(NamedTuple):
    """The result of the test."""

    loss: float  # mean over the scores, each in standard errors; positive where b is worse
    p: float  # two-sided
    p_worse: float  # one-sided: small where b is worse
    units: int  # that are swapped: examples or blocks, of all benchmarks


def pooled_test(scores: Sequence[PooledScore]) -> Pooled:
    """Test whether b is worse than a, on average over the scores.

    Raises:
        NumericsError: a score has no examples, or outcomes that are not finite.
    """
    units = _joint_units(scores)
    total = np.zeros(1 + max(int(unit.max(initial=0)) for unit in units))
    for score, unit in zip(scores, units, strict=True):
        values = losses(score.metric, score.a, score.b).values
        by_unit = np.bincount(unit, values, len(total))
        if scale := math.sqrt(by_unit @ by_unit):  # the standard error of the sum if signs are fair
            total += by_unit / scale / len(scores)
    p, p_worse = _sign_flips(total[total != 0])
    return Pooled(float(total.sum()), p, p_worse, len(total))


def _joint_units(scores: Sequence[PooledScore]) -> list[NDArray[np.int64]]:
    """The unit that each outcome of each score is swapped with, numbered over all scores.

    Units are the blocks of a benchmark if one of its scores has any, else its examples.
    """
    blocks: dict[str, Mapping[Hashable, int]] = {}
    for score in scores:
        if score.blocks and score.benchmark not in blocks:
            blocks[score.benchmark] = _blocks(score, score.blocks)
    numbers: dict[Hashable, int] = {}
    units = []
    for score in scores:
        known = blocks.get(score.benchmark, {})
        # An example outside the blocks is a unit of its own, as where there are none.
        places = (known.get(key, known.get(key[0], key[0])) for key in score.keys)
        names = ((score.benchmark, place) for place in places)
        units.append(np.array([numbers.setdefault(n, len(numbers)) for n in names], np.int64))
    return units


def _blocks(score: PooledScore, blocks: int) -> dict[Hashable, int]:
    """The block of each key, cut as for the test of the score alone; of an example its first."""
    place = np.cumsum(score.a[:, -1])
    cuts = np.linspace(0, place[-1], blocks + 1)[1:-1]
    found: dict[Hashable, int] = {}
    for key, block in zip(score.keys, np.searchsorted(cuts, place).tolist(), strict=True):
        found[key] = block
        found.setdefault(key[0], block)
    return found


def _sign_flips(values: NDArray[np.float64]) -> tuple[float, float]:
    """P and p_worse of a sum, by all signs or random ones."""
    observed = values.sum()
    flipped = observed - 2 * subset_sums(values[:, None])[:, 0]
    near = ROUNDING * np.abs(values).sum()
    p = (np.abs(flipped) >= abs(observed) - near).mean()
    return float(p), float((flipped >= observed - near).mean())
