"""Does a model know what it knows? Reliability by bins of confidence.

Expected calibration error as in Guo et al. 2017, arXiv:1706.04599, section 2: the mean distance
between confidence and accuracy over ten equal bins, weighted by how many answers each holds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.metrics import Metric, Outcome

BINS = 10
STATISTICS = tuple(f"{what}{b}" for b in range(BINS) for what in ("n", "confidence", "right"))


class Bin(NamedTuple):
    """One line of a reliability table."""

    low: float  # of the confidences in it
    high: float
    answers: int
    confidence: float  # mean
    accuracy: float


def outcome(confidence: float, right: float) -> Outcome:
    """`STATISTICS` of one answer, then (1,); a confidence of 1 is in the last bin."""
    place = min(int(confidence * BINS), BINS - 1)
    counts = [0.0] * (3 * BINS)
    counts[3 * place : 3 * place + 3] = 1.0, confidence, right
    return (*counts, 1.0)


def _error(sums: Sequence[Any]) -> Any:
    gaps = [abs(sums[3 * b + 1] - sums[3 * b + 2]) for b in range(BINS)]
    return 100 * sum(gaps) / sums[-1]


CALIBRATION_ERROR = Metric("points", higher_is_better=False, compute=_error)
"""Expected calibration error, in points of accuracy; outcomes are those of `outcome`."""


def table(totals: Mapping[str, float]) -> list[Bin]:
    """The bins that hold answers, from a score's totals."""
    found = []
    for b in range(BINS):
        n = totals[f"n{b}"]
        if n:
            mean, right = totals[f"confidence{b}"] / n, totals[f"right{b}"] / n
            found.append(Bin(b / BINS, (b + 1) / BINS, round(n), mean, right))
    return found
