"""The loss of each unit between two runs, so that tests of means serve every score.

A score is a function of summed outcomes. To first order its change is a sum over the units
(examples, or blocks of neighbours): the gradient of the metric at the middle of the two runs, times
what changed in the unit. The middle stays where it is if the outcomes of a unit are swapped, so
that a swap only changes the sign of the unit's loss, and tests that swap units can work on these
numbers alone.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import NumericsError
from harness.metrics import Metric
from harness.stats.paired import Table, values

FINE = 1024.0  # by which sums are multiplied


class Losses(NamedTuple):
    """What each unit adds to the loss of run b against run a."""

    values: NDArray[np.float64]  # (n,), in the metric's unit; positive where b is worse
    weights: NDArray[np.float64]  # (n,), share of each unit in a loss common to all; mean 1


def losses(metric: Metric, a: Table, b: Table) -> Losses:
    """The losses of units, (n, statistics) in each run; their mean is the loss of the score.

    For means it is exact; otherwise it is exact up to the third order of the change.

    Raises:
        NumericsError: there are no units, or a loss is not finite.
    """
    require_comparable(metric, a, b)
    change = b - a
    middle = (a.sum(axis=0) + b.sum(axis=0)) / 2
    worse = -1 if metric.higher_is_better else 1
    with np.errstate(invalid="ignore"):
        found = worse * len(a) * (change @ gradient(metric, middle, np.abs(change).max(axis=0)))
    counts = (a[:, -1] + b[:, -1]) / 2
    weights = counts / counts.mean()
    if not (np.isfinite(found).all() and np.isfinite(weights).all()):
        raise NumericsError("the loss of an example is not a finite number")
    return Losses(found, weights)


def losses_so_far(metric: Metric, a: Table, b: Table, whole: NDArray[np.float64]) -> Losses:
    """The losses of some of the units of two runs, drawn at random.

    A loss of the whole score may be smaller or larger on these units: the same nats cost less
    perplexity where the text is easy. The weights allow for it; they say what a loss of 1 of the
    whole score is on each unit.

    Args:
        metric: of the score.
        a: outcomes of the units in the first run.
        b: outcomes in the second run.
        whole: the summed outcomes of all units in the first run.

    Raises:
        NumericsError: as `losses`.
    """
    found = losses(metric, a, b)
    change = b - a
    share = whole[-1] / a[:, -1].sum()  # how often these units fit into the whole
    middle = whole + share * change.sum(axis=0) / 2
    slopes = gradient(metric, middle, np.abs(change).max(axis=0))
    of_whole = np.linalg.norm(len(a) * share * (change @ slopes))
    size = np.linalg.norm(found.values)
    if not 0 < of_whole < math.inf:
        return found
    return found._replace(weights=found.weights * (size / of_whole))


def require_comparable(metric: Metric, a: Table, b: Table) -> None:
    """Refuse runs without examples, and outcomes that are not finite numbers."""
    assert a.shape == b.shape, f"outcomes of the same units, got {a.shape} and {b.shape}"
    assert metric.select is None, "with `select` each run has other examples"
    if not len(a):
        raise NumericsError("there are no examples to compare; expected at least one")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise NumericsError("an example has an outcome that is not a finite number")


def gradient(
    metric: Metric, sums: NDArray[np.float64], steps: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Derivatives of the metric by its sums, by central differences; 0 where the step is 0.

    Steps are as large as an outcome. BLEU rounds its counts, so that smaller steps would vanish;
    scores do not change if all sums are multiplied, and against larger sums the steps are small.
    """
    whole, fine = values(metric, np.stack([sums, FINE * sums]))
    same = math.isclose(whole, fine, rel_tol=1e-3)  # not for BLEU without a match of four words
    scale = FINE if same else 1.0
    sums = scale * sums
    # Counts stay positive. The middle of whole numbers may end in .5; both ends of a whole step
    # then round in the same direction.
    steps = np.where((sums > 0) & (sums < steps), sums, steps)
    moved = np.flatnonzero(steps)
    slopes = np.zeros(len(sums))
    if len(moved):
        shifts = np.zeros((len(moved), len(sums)))
        shifts[np.arange(len(moved)), moved] = steps[moved]
        above, below = np.split(values(metric, np.concatenate([sums + shifts, sums - shifts])), 2)
        with np.errstate(invalid="ignore"):  # beyond all numbers
            slopes[moved] = scale * (above - below) / (2 * steps[moved])
    return slopes
