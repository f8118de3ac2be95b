"""The plain causal path through `torch.compile`, for `--compile`.

A compiled pass, and the CUDA graph recorded of it, serves one shape. Rows are therefore padded on
the right, where no token sees the padding, to one of eight lengths per octave, and batches to all
the rows that the budget allows of that length.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from harness.errors import CheckpointError

_STEPS = 8  # lengths per octave; padding adds a sixteenth on average
_MAX_SHAPES = 256  # compiled passes that are kept; by default torch stops compiling after eight


def compiled_trunk(base: Any, budget: int, context: int) -> Callable[[Tensor], Tensor]:
    """A function from ids (B, T) to hidden states (B, T, H), through compiled passes of `base`.

    `budget` is in padded tokens per batch, `context` the longest row in tokens.
    """
    torch._dynamo.config.recompile_limit = _MAX_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = _MAX_SHAPES
    mode = "reduce-overhead" if base.device.type == "cuda" else "default"  # the former: CUDA graphs
    compiled: Any = torch.compile(base, dynamic=False, mode=mode)

    def run(ids: Tensor) -> Tensor:
        rows, width = ids.shape
        shape = static_shape(rows, width, budget)
        padded = ids.new_zeros(shape[0], min(shape[1], max(width, context)))
        padded[:rows, :width] = ids
        try:
            output = compiled(input_ids=padded, use_cache=False)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().split("\n")[0][:160]
            raise CheckpointError(
                f"--compile: this model's pass cannot be compiled ({reason}); leave out --compile"
            ) from error
        states: Tensor = output.last_hidden_state[:rows, :width]
        return states.clone()  # the next pass of a CUDA graph writes into the same memory

    return run


def static_shape(rows: int, width: int, budget: int) -> tuple[int, int]:
    """The shape (rows, width) that serves all batches of about this width within a budget."""
    length = padded_length(width)
    shortest = length - _step(length - 1) + 1  # that is padded to this length
    return max(rows, budget // shortest), length


def padded_length(length: int) -> int:
    """The nearest length, upwards, that passes are compiled for."""
    step = _step(length)
    return -(-length // step) * step


def _step(length: int) -> int:
    """The distance between the lengths in an octave."""
    return max(1, (1 << length.bit_length()) // (2 * _STEPS))
