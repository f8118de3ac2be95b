"""Draw the rows of the example pairs at the beginning of a prompt."""

import random
from collections.abc import Sequence

from harness.core import Row


def draw(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Draw `count` rows in random order; a seed always gives the same ones."""
    return random.Random(seed).sample(list(rows), min(count, len(rows)))
