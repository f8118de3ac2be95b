"""Expected calibration error: does the model's confidence match its accuracy?

Guo et al. 2017, arXiv:1706.04599, section 2: the mean distance between confidence and accuracy over
ten bins of equal width, weighted by the number of answers in each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.metrics import Metric, Outcome

BINS = 10
STATISTICS = tuple(f"{what}{b}" for b in range(BINS) for what in ("n", "confidence", "right"))


class Bin(NamedTuple):
    """One line of a reliability table."""

    low: float  # bounds of the confidences
    high: float
    answers: int
    confidence: float  # mean
    accuracy: float


def outcome(confidence: float, right: float) -> Outcome:
    """`STATISTICS` of one answer, then (1,); a confidence of 1 belongs to the last bin."""
    place = min(int(confidence * BINS), BINS - 1)
    counts = [0.0] * (3 * BINS)
    counts[3 * place : 3 * place + 3] = 1.0, confidence, right
    return (*counts, 1.0)


def _error(sums: Sequence[Any]) -> Any:
    gaps = [abs(sums[3 * b + 1] - sums[3 * b + 2]) for b in range(BINS)]
    return 100 * sum(gaps) / sums[-1]


CALIBRATION_ERROR = Metric("points", higher_is_better=False, compute=_error)
"""Expected calibration error, in points of accuracy; outcomes come from `outcome`."""


def table(totals: Mapping[str, float]) -> list[Bin]:
    """The bins that contain answers, from the totals of a score."""
    bins = []
    for b in range(BINS):
        n = totals[f"n{b}"]
        if n:
            confidence, accuracy = totals[f"confidence{b}"] / n, totals[f"right{b}"] / n
            bins.append(Bin(b / BINS, (b + 1) / BINS, round(n), confidence, accuracy))
    return bins
