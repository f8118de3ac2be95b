"""The plain causal path through `torch.compile`, for `--compile`.

A compiled pass, and the CUDA graph recorded of it, serves one shape. Rows are therefore padded on
the right, where no token sees the padding, to one of eight lengths per octave, and batches to all
the rows that the budget allows of that length.
"""

from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from harness.errors import CheckpointError

_STEPS = 8  # lengths per octave; padding adds a sixteenth on average
_MAX_SHAPES = 256  # compiled passes that are kept; by default torch stops compiling after eight


class CompiledTrunk:
    """A function from ids (B, T) to hidden states (B, T, H), through compiled passes.

    Args:
        base: the trunk.
        budget: padded tokens per batch. It may be lowered, after running out of memory.
        context: tokens of the longest row.
        rope_limit: as in `Forward`: padding beyond it would rotate all positions differently.
    """

    def __init__(self, base: Any, budget: int, context: int, rope_limit: int | None) -> None:
        self.budget = budget
        self._context, self._rope_limit = context, rope_limit
        torch._dynamo.config.recompile_limit = _MAX_SHAPES
        torch._dynamo.config.accumulated_recompile_limit = _MAX_SHAPES
        mode = "reduce-overhead" if base.device.type == "cuda" else "default"  # CUDA graphs, or not
        self._pass: Any = torch.compile(base, dynamic=False, mode=mode)

    def __call__(self, ids: Tensor) -> Tensor:
        """Run one batch."""
        rows, width = ids.shape
        padded = ids.new_zeros(self._shape(rows, width))
        padded[:rows, :width] = ids
        try:
            output = self._pass(input_ids=padded, use_cache=False)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().split("\n")[0][:160]
            raise CheckpointError(
                f"--compile: this model's pass cannot be compiled ({reason}); leave out --compile"
            ) from error
        states: Tensor = output.last_hidden_state[:rows, :width]
        return states.clone()  # the next pass of a CUDA graph writes into the same memory

    def _shape(self, rows: int, width: int) -> tuple[int, int]:
        """Rows and columns that a batch is padded to."""
        count, length = static_shape(rows, width, self.budget)
        longest = max(width, self._context)
        if self._rope_limit is not None:
            longest = max(width, min(longest, self._rope_limit))
        return count, min(length, longest)


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
