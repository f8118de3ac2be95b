"""Prefill rows of prompts: which of those that wait run next, and what is read of them."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from harness.engine.decoding.plan import PromptRow
from harness.engine.model.forward import Forward
from harness.engine.scoring.logprobs import batch_states, to_device_batch

Fits = Callable[[int, int, int], bool]
"""(rows, padded tokens, completions) of a batch -> whether there is room for it."""


class Prefilled(NamedTuple):
    """A batch of rows whose keys and values are kept."""

    cache: Any
    positions: Tensor  # (B, T)
    states: Tensor  # (N, H), from which the first token of each completion is chosen


def take_rows(waiting: deque[PromptRow], limit: int, fits: Fits, *, idle: bool) -> list[PromptRow]:
    """Take the first waiting rows, of one kind and for which there is room.

    Args:
        waiting: from which they are taken.
        limit: padded tokens.
        fits: whether there is room.
        idle: whether nothing is being decoded. A row that exceeds the limits then runs alone.
    """
    batch: list[PromptRow] = []
    width = completions = 0
    while waiting:
        planned = waiting[0]
        width = max(width, len(planned.row))
        padded = width * (len(batch) + 1)
        completions += len(planned.all_queries())
        if (batch or not idle) and not fits(len(batch) + 1, padded, completions):
            break
        if batch and (padded > limit or batch[0].row.branches != planned.row.branches):
            break
        batch.append(waiting.popleft())
    return batch


def prefill(forward: Forward, batch: Sequence[PromptRow]) -> Prefilled:
    """Run a batch of rows, all of them trees or all of them paths."""
    rows = [planned.row for planned in batch]
    width = max(map(len, rows))
    reads = [b * width + end for b, planned in enumerate(batch) for end in planned.ends()]
    cache = forward.full_cache()
    device_batch, _ = to_device_batch(forward, rows, np.array(reads))
    states = batch_states(forward, device_batch, cache)
    return Prefilled(cache, device_batch.positions, states)
