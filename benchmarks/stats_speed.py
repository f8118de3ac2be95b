"""Time 10,000 resamples of 10,000 examples with two statistics, on one core.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.stats_speed

Prints medians: the bootstrap of one run, and a comparison of two (bootstrap and sign-flip).
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from harness.metrics import perplexity
from harness.stats.intervals import bootstrap
from harness.stats.paired import RESAMPLES, difference

ITEMS = 10_000
REPEATS = 5


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    words = rng.integers(5, 40, ITEMS)
    a, b = (np.stack([words * rng.gamma(2, 1, ITEMS), words], axis=1) for _ in "ab")
    metric = perplexity("word")
    print("| what | seconds |")
    print("|---|--:|")
    for name, work in (
        ("bootstrap", lambda: bootstrap(metric, a, seed=0, resamples=RESAMPLES)),
        ("difference", lambda: difference(metric, a, b)),
    ):
        print(f"| {name} | {statistics.median(_seconds(work) for _ in range(REPEATS)):.2f} |")


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
