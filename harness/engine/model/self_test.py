"""What all self-tests of a model share: made-up tokens, tolerances and comparisons.

`capabilities` tests how a model splits into trunk and head, `scoring.verify_prefix_sharing` rows
that share prefixes, `scoring.verify_states` copies of a model's state, and
`decoding.verify_decoding` decoding over a KV cache.
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engine.checkpoint.onednn import products_in_bfloat16
from harness.engine.model.forward import Forward
from harness.errors import short_reason

log = logging.getLogger(__name__)


class Tolerance(NamedTuple):
    """The largest difference that counts as rounding, relative to a scale that the test chooses."""

    full: float  # float32 and float64
    half: float  # bfloat16, which has 8 significant bits, and float16; or products in them

    def of(self, forward: Forward) -> float:
        """The tolerance for a model's dtype, or for that of its products."""
        is_full = forward.model.dtype in (torch.float32, torch.float64)
        return self.full if is_full and not products_in_bfloat16(forward.model) else self.half


def usable_tokens(forward: Forward) -> NDArray[np.int64]:
    """Token ids in ascending order, without special ones such as padding and images."""
    config = forward.model.config
    special = {
        value
        for part in (config, config.get_text_config())
        for name, value in vars(part).items()
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= 0
    }
    return np.delete(np.arange(forward.vocabulary), [t for t in special if t < forward.vocabulary])


def made_up_tokens(forward: Forward, count: int, seed: int = 0) -> tuple[int, ...]:
    """Random token ids from the whole vocabulary; the same seed gives the same ids."""
    return tuple(np.random.default_rng(seed).choice(usable_tokens(forward), count).tolist())


def full_pass(forward: Forward, rows: Sequence[Sequence[int]], begins: Sequence[int]) -> Tensor:
    """Log-probabilities (N, V) of what may follow tokens of rows, by one pass over padded rows.

    `begins` are the first tokens that count, one per row; all later ones of their row do.
    """
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    for r, row in enumerate(rows):
        ids[r, : len(row)] = torch.tensor(row)
    states = forward.trunk(ids.to(forward.device))
    return torch.cat(
        [
            logprobs(forward, states[r, begin : len(row)])
            for r, (row, begin) in enumerate(zip(rows, begins, strict=True))
        ]
    )


def logprobs(forward: Forward, states: Tensor) -> Tensor:
    """Log-probabilities (N, V) by hidden states (N, H)."""
    parts = torch.split(states, forward.chunk)
    return torch.cat([forward.head(part).log_softmax(-1) for part in parts])


def largest(tensor: Tensor) -> float:
    """The largest absolute value, the usual scale of a tolerance."""
    return float(tensor.float().nan_to_num().abs().max())


def largest_difference(one: Tensor, two: Tensor) -> float:
    """The largest absolute difference; infinite for different shapes.

    NaN equals NaN here: it is reported with its example when scores are checked.
    """
    if one.shape != two.shape:
        return float("inf")
    one, two = one.float(), two.float()
    difference = (one - two).abs().masked_fill(one.isnan() & two.isnan() | (one == two), 0.0)
    return float(difference.nan_to_num(nan=torch.inf).max())


def all_close(one: Tensor, two: Tensor, tolerance: float) -> bool:
    """Whether tensors differ by rounding only, relative to the largest entry of the first."""
    return largest_difference(one, two) <= tolerance * largest(one)


def attempt(action: Callable[[], Tensor]) -> Tensor | None:
    """The result of an action, or None if the model's own code raises any error."""
    try:
        return action()
    except Exception as error:
        log.debug("the model cannot do this: %s", error)
        return None


def failure(error: Exception) -> str:
    """One line for an error that a model's own code raised."""
    return f"{type(error).__name__}: {short_reason(error)}"
