"""What all self-tests of a model share: made-up tokens, tolerances and comparisons.

`capabilities` tests how a model splits into trunk and head, `scoring.verify_prefix_sharing` rows
that share prefixes, and `decoding.verify_decoding` decoding over a KV cache.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engine.model.forward import Forward
from harness.errors import short_reason

log = logging.getLogger(__name__)


class Tolerance(NamedTuple):
    """The largest difference that counts as rounding, relative to a scale that the test chooses."""

    full: float  # float32 and float64
    half: float  # bfloat16, which has 8 significant bits, and float16

    def of(self, forward: Forward) -> float:
        """The tolerance for a model's dtype."""
        return self.full if forward.model.dtype in (torch.float32, torch.float64) else self.half


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
