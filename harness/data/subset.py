"""Choose the rows of a run: all, or `--limit` of them at random."""

import random
from collections.abc import Sequence

from harness.core import Row
from harness.errors import UsageError

BLOCK_CHARS = 5000  # of neighbouring rows that --limit keeps together; about 1,024 tokens


def choose(
    rows: Sequence[Row], limit: int | None, *, seed: int, stream: bool
) -> list[Sequence[Row]]:
    """Choose sequences of neighbouring rows: all, or `limit` rows at random, in file order.

    From running text (`stream`), blocks of neighbouring rows are drawn.
    """
    if limit is None or limit >= len(rows) > 0:
        return [rows]
    if limit < 1:
        raise UsageError(f"--limit {limit}: expected at least 1")
    rng = random.Random(seed)
    if not stream:
        return [[rows[i] for i in sorted(rng.sample(range(len(rows)), limit))]]
    blocks = _blocks(rows)
    rng.shuffle(blocks)
    taken: list[Sequence[Row]] = []
    while limit > 0 and blocks:
        taken.append(blocks.pop(0)[:limit])
        limit -= len(taken[-1])
    return sorted(taken, key=lambda block: block[0].number)


def _blocks(rows: Sequence[Row]) -> list[Sequence[Row]]:
    blocks: list[Sequence[Row]] = []
    start = size = 0
    for i, row in enumerate(rows):
        size += sum(len(v) for v in row.fields.values() if isinstance(v, str | bytes)) + 1
        if size >= BLOCK_CHARS or i == len(rows) - 1:
            blocks.append(rows[start : i + 1])
            start, size = i + 1, 0
    return blocks
