"""What tasks with example pairs before the question share: drawing them."""

import random
from collections.abc import Sequence

from harness.core import Row


def draw(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows in random order; the same for the same seed."""
    return random.Random(seed).sample(list(rows), min(count, len(rows)))
