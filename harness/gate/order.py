"""The random order of a benchmark's parts, and how many of them make a slice."""

import math
import random
from collections.abc import Sequence

SLICES = 50  # into which the whole run is cut


def shuffled(parts: Sequence[int], seed: int, *names: str) -> tuple[int, ...]:
    """The parts in the order in which they are answered; `names` are of the benchmark."""
    order = list(parts)
    random.Random("|".join([str(seed), *names])).shuffle(order)
    return tuple(order)


def slice_size(parts: int, seconds: float, total_seconds: float) -> int:
    """How many parts of a benchmark take 1/50 of the whole run.

    Args:
        parts: of the benchmark.
        seconds: that all of them take.
        total_seconds: that all benchmarks take.
    """
    if seconds <= 0:
        return parts
    return max(1, min(parts, math.ceil(parts * total_seconds / SLICES / seconds)))


def batch_size(parts: int, tokens: int, batch_tokens: int) -> int:
    """How many parts of a benchmark fill a batch; fewer would waste the machine.

    Args:
        parts: of the benchmark.
        tokens: that are fed for all of them.
        batch_tokens: of one batch.
    """
    return max(1, min(parts, math.ceil(parts * batch_tokens / max(tokens, 1))))


def look(parts: int, done: int, looks: int) -> int:
    """How many parts are left until the next of `looks` equally spaced looks."""
    return next(
        end - done for k in range(1, looks + 1) if (end := math.ceil(parts * k / looks)) > done
    )
