"""How large the loss of a score may be: one-sided limits, and the tests that they invert.

Right/wrong scores have an exact test (`harness.stats.right_wrong`). For all others, the loss of the
score is a mean over units (examples, or blocks of neighbours). If the true loss is d, what is left
of each unit's loss without its share of d is as likely positive as negative, so that its sign may
be flipped: p is how often random signs give a sum at least as extreme. To invert this test takes no
search: the limits are quantiles of the loss over random subsets of the units (Hartigan 1969,
doi:10.1080/01621459.1969.10501057).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import NumericsError
from harness.metrics import Metric
from harness.stats import right_wrong
from harness.stats.losses import gradient, losses, require_comparable
from harness.stats.paired import (
    EXACT_PAIRS,
    RESAMPLES,
    ROUNDING,
    Table,
    all_swaps,
    lost_and_won,
    units,
    values,
)
from harness.stats.power import needed, sd_of_difference, sd_of_flips

EXACT = "exact unconditional test"
SIGNS = "sign flips"
SEED = 0
BATCH_SUMS = 1_000_000  # 8 MB
OCTET = np.arange(256)[:, None] >> np.arange(8) & 1  # the subsets of eight units

Array = NDArray[np.float64]


class Limits(NamedTuple):
    """The loss of run b against run a, in the metric's unit; positive where b is worse."""

    loss: float
    upper: float  # one-sided limits at level alpha; infinite if the units are too few to set one
    lower: float
    p_within: float | None  # of a loss of the margin or more; None without a margin
    p_worse: float  # of a loss of `min_loss` or less
    method: str  # EXACT or SIGNS


def limits(  # noqa: PLR0913
    metric: Metric,
    a: Table,
    b: Table,
    *,
    blocks: int | None = None,
    alpha: float,
    margin: float | None = None,
    min_loss: float = 0.0,
) -> Limits:
    """Limits of the loss, and the p-values of a loss of at least a margin, or at most `min_loss`.

    The outcomes are of the same examples in the same order, of a metric without `select`.

    Raises:
        NumericsError: there are no examples, or an outcome is not a finite number.
    """
    require_comparable(metric, a, b)
    if metric.proportion:
        lost, won = _worse_and_better(metric, a, b)
        return Limits(
            100 * (lost - won) / len(a),
            100 * right_wrong.upper_limit(lost, won, len(a), alpha),
            100 * right_wrong.lower_limit(lost, won, len(a), alpha),
            None if margin is None else right_wrong.p_within(lost, won, len(a), margin / 100),
            right_wrong.p_worse(lost, won, len(a), min_loss / 100),
            EXACT,
        )
    shares = _shares(metric, *units(metric, (a, b), blocks))
    sums, common = subset_sums(np.stack(shares, axis=1)).T
    positive = common > ROUNDING  # shares may sum to less; then the subset counts against a limit
    of_subsets = sums / np.where(positive, common, 1.0)
    high = np.where(positive, of_subsets, math.inf)
    low = np.where(positive, of_subsets, -math.inf)
    near = ROUNDING * float(np.abs(shares.losses).max())
    return Limits(
        float(shares.losses.mean()),
        _upper(high, alpha),
        -_upper(-low, alpha),
        None if margin is None else float((high >= margin - near).mean()),
        float((low <= min_loss + near).mean()),
        SIGNS,
    )


def more_items(  # noqa: PLR0913
    metric: Metric,
    a: Table,
    b: Table,
    *,
    blocks: int | None = None,
    alpha: float,
    margin: float | None,
    min_loss: float = 0.0,
    power: float = 0.9,
) -> int | None:
    """How many more examples would decide with this power, if the true loss is the one observed.

    To decide is to prove the loss to be below the margin or above `min_loss`, whichever takes fewer
    examples. Normal approximation. None if no number decides.
    """
    n, counted = len(a), len(units(metric, (a, b), blocks)[0])
    if counted < 2:
        return None
    loss = _loss(metric, a, b)
    least = math.ceil(math.log2(1 / alpha)) * n / counted  # fewer units cannot reach alpha
    bounds = [(min_loss, loss - min_loss)]
    if margin is not None:
        bounds.append((margin, margin - loss))
    totals = []
    for bound, distance in bounds:
        if distance > 0:
            sd = _sd(metric, a, b, blocks, bound)
            totals.append(max(least, needed(sd, distance, alpha=alpha, power=power)))
    return max(1, math.ceil(min(totals)) - n) if totals else None


def _loss(metric: Metric, a: Table, b: Table) -> float:
    before, after = values(metric, np.stack([a.sum(axis=0), b.sum(axis=0)]))
    return float(before - after if metric.higher_is_better else after - before)


def _sd(metric: Metric, a: Table, b: Table, blocks: int | None, bound: float) -> float:
    """Standard deviation of one example's loss; for right/wrong, under a loss of `bound`."""
    if not metric.proportion:
        return sd_of_difference(metric, a, b, blocks=blocks)
    discordance = sum(lost_and_won(a, b)) / len(a)
    return sd_of_flips(max(discordance, abs(bound) / 100), bound)


class _Shares(NamedTuple):
    """The losses of units; `losses - d * common` is what is left if the true loss is d."""

    losses: Array  # (n,); their mean is the loss of the score
    common: Array  # (n,), how each follows a loss of the score; mean 1


def _worse_and_better(metric: Metric, a: Table, b: Table) -> tuple[int, int]:
    lost, won = lost_and_won(a, b)
    return (lost, won) if metric.higher_is_better else (won, lost)


def _shares(metric: Metric, a: Table, b: Table) -> _Shares:
    """The losses of units, as from `losses`, but with the variation of the runs' own levels.

    If b is worse by a factor, its loss in perplexity also depends on how hard the text is, and a
    sample of texts varies in that: the more, the larger the loss.
    """
    first = losses(metric, a, b)
    total = (b - a).sum(axis=0)
    at_observed = _pulls(metric, a, b, total)
    common = first.weights
    step = math.sqrt(first.values @ first.values) / len(a)  # about a standard error
    if step > 0:
        # how the sums change with the loss of the score, by regression over the units
        direction = (b - a).T @ first.values / (step**2 * len(a))
        below = _pulls(metric, a, b, total - step * direction)
        common = 1 - (at_observed - below) / step
    return _Shares(at_observed + _loss(metric, a, b) * common, common)


def _pulls(metric: Metric, a: Table, b: Table, change: Array) -> Array:
    """By how much each unit moves the loss from its mean, if the sums of the runs were this apart.

    The sums of both together stay what they are.
    """
    middle = (a.sum(axis=0) + b.sum(axis=0)) / 2
    steps = np.abs(b - a).max(axis=0)
    steps = np.where(steps > 0, steps, np.abs(a).max(axis=0))
    before, after = (gradient(metric, middle + half, steps) for half in (-change / 2, change / 2))
    worse = -1 if metric.higher_is_better else 1
    pulls = worse * len(a) * (b @ after - a @ before)
    if not np.isfinite(pulls).all():
        raise NumericsError("the loss of an example is not a finite number")
    return np.asarray(pulls - pulls.mean(), np.float64)


def subset_sums(columns: Array) -> Array:
    """Sums of rows over subsets, (subsets, columns): all 2^n, or the empty one and random ones.

    The empty one stands for the signs as they are: a p-value is never 0.
    """
    if len(columns) <= EXACT_PAIRS:
        return np.concatenate([chosen @ columns for chosen in all_swaps(len(columns))])
    return np.concatenate([np.zeros((1, columns.shape[1])), _random_sums(columns)])


def _random_sums(columns: Array) -> Array:
    """Sums over random halves of the rows, (RESAMPLES, columns).

    Eight rows at a time: their 256 sums are looked up.
    """
    octets = -(-len(columns) // 8)
    padded = np.zeros((8 * octets, columns.shape[1]))
    padded[: len(columns)] = columns
    tables = [(column.reshape(octets, 8) @ OCTET.T).ravel() for column in padded.T]
    rng = np.random.default_rng(SEED)
    step = max(1, BATCH_SUMS // octets)
    found = []
    for done in range(0, RESAMPLES, step):
        drawn = rng.integers(0, 256, (min(step, RESAMPLES - done), octets), np.uint8)
        place = drawn + 256 * np.arange(octets)
        found.append(np.stack([table[place].sum(axis=1) for table in tables], axis=1))
    return np.concatenate(found)


def _upper(losses_of_subsets: Array, alpha: float) -> float:
    """The smallest loss that at most a share alpha of the subsets reaches."""
    beyond = math.floor(alpha * len(losses_of_subsets) * (1 + ROUNDING))
    return float(-np.partition(-losses_of_subsets, beyond)[beyond])
