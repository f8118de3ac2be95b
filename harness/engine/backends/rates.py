"""How fast a model runs on this machine: seconds per token, measured on made-up tokens.

Measuring takes a few seconds; the result is kept in `rates.json` in the cache folder.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.engine.checkpoint.digest import cache_root, cached_entries, store_entry
from harness.engine.model.forward import Forward
from harness.engine.model.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

FILE = "rates.json"
MAX_SECONDS = 3600.0  # per token; a larger value in the file is not a rate
SHORT_ROW, LONG_ROW = 85, 1024  # tokens: a passage of LAMBADA, a window
HEAD_POSITIONS = 256  # positions whose logits are computed to time the head
STEP_ROWS, STEP_TOKENS = 8, 8  # a small batch, like a decoding step


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds, for one checkpoint on one machine."""

    token: float  # matrix products, per token of a batch
    path: float  # attention, per (query, key) pair of a row without a mask
    tree: float  # attention, per pair of a row with a mask
    head: float  # per position whose logits are computed
    step: float  # per token that is decoded in a batch


def rates(forward: Forward, key: str) -> Rates:
    """The rates stored under a key, or measured now and stored."""
    path = cache_root() / FILE
    stored = cached_entries(path, _valid)
    if key in stored:
        return Rates(**stored[key])
    measured = measure(forward)
    store_entry(path, key, asdict(measured), _valid)
    return measured


def _valid(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != Rates.__dataclass_fields__.keys():
        return False
    return all(type(n) in (int, float) and 0 <= n <= MAX_SECONDS for n in entry.values())


def measure(forward: Forward) -> Rates:
    """Time the trunk on short and long rows, with a mask and on a small batch, and the head."""
    width = min(LONG_ROW, forward.context)
    narrow, step = max(1, min(SHORT_ROW, width // 4)), min(STEP_TOKENS, width)
    rows = width // narrow
    with forward.inference():
        _seconds(forward, rows=1, width=step)  # warm-up
        short = _seconds(forward, rows=rows, width=narrow)
        long = _seconds(forward, rows=1, width=width)
        masked = _masked_seconds(forward, width)
        small = _seconds(forward, rows=STEP_ROWS, width=step)
        states = forward.trunk(_ids(forward, 1, min(HEAD_POSITIONS, forward.context)))[0]
        head = _timed(lambda: forward.head(states), forward)
    # Two kinds of rows give two equations: tokens * token + pairs * path = seconds.
    path = max((long / width - short / (rows * narrow)) / max(width - narrow, 1), 0.0)
    if path * width >= long / width:  # noise leaves nothing for the matrix products
        path = 0.0
    token = long / width - path * width
    tree = path if masked is None else max((masked - token * width) / width**2, path)
    return Rates(token, path, tree, head / len(states), small / (STEP_ROWS * step))


def _masked_seconds(forward: Forward, width: int) -> float | None:
    """Time of a row with a mask; None for a model that is never given one."""
    if forward.sharing(1)[0] is None:
        return None
    try:
        return _seconds(forward, rows=1, width=width, mask=True)
    except Exception as error:  # code of the model may raise anything
        if is_out_of_memory(error):
            raise
        log.debug("rows with a mask cannot be timed: %s", error)
        return None


def _seconds(forward: Forward, *, rows: int, width: int, mask: bool = False) -> float:
    """Time of one pass over rows of made-up tokens."""
    tree: dict[str, Any] = {}
    if mask:
        seen = torch.ones(rows, width, width, dtype=torch.bool, device=forward.device).tril()
        positions = torch.arange(width, device=forward.device).expand(rows, width)
        tree = {
            "attention_mask": forward.mask(seen, positions, positions),
            "position_ids": positions,
        }
    ids = _ids(forward, rows, width)
    return _timed(lambda: forward.trunk(ids, **tree), forward)


def _timed(action: Callable[[], object], forward: Forward) -> float:
    on_cpu = forward.device.type == "cpu"
    if not on_cpu:  # the first call of a shape chooses its kernels and allocates memory
        action()
        torch.accelerator.synchronize(forward.device)
    begun = time.perf_counter()
    action()
    if not on_cpu:
        torch.accelerator.synchronize(forward.device)  # of several, the last in a pass
    return time.perf_counter() - begun


def _ids(forward: Forward, rows: int, width: int) -> torch.Tensor:
    count = rows * width
    return (torch.arange(count, device=forward.device) % forward.vocabulary).view(rows, width)
