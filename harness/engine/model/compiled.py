"""The plain causal path through `torch.compile`, for `--compile`: a pass for each of few shapes.

Compiled passes, and the graphs that CUDA records of them, hold for one shape. Lengths are padded
to one of eight sizes an octave, and the number of rows to all that the budget allows of that
size, so that a run has a shape for each size of its rows. Right padding is what no token sees.
"""

from typing import Any

import torch
import torch._dynamo
from torch import Tensor

from harness.errors import CheckpointError

STEPS = 8  # sizes between a length and its double; padding adds a sixteenth on average
_SHAPES = 256  # passes that are kept; torch would go back to plain ones after eight


class Compiled:
    """A model without its head, compiled; called as the model is, with token ids alone.

    Args:
        base: the model.
        budget: padded tokens a batch.
        context: the longest row, in tokens.
    """

    def __init__(self, base: Any, budget: int, context: int) -> None:
        torch._dynamo.config.recompile_limit = _SHAPES
        torch._dynamo.config.accumulated_recompile_limit = _SHAPES
        self._budget, self._context = budget, context
        mode = "reduce-overhead" if base.device.type == "cuda" else "default"  # the first: graphs
        self._run: Any = torch.compile(base, dynamic=False, mode=mode)

    def __call__(self, ids: Tensor) -> Tensor:
        """Hidden states (B, T, H) of `ids` (B, T).

        Raises:
            CheckpointError: the model cannot be compiled, or there is no compiler.
        """
        rows, width = ids.shape
        shape = static_shape(rows, width, self._budget)
        padded = ids.new_zeros(shape[0], min(shape[1], max(width, self._context)))
        padded[:rows, :width] = ids
        try:
            output = self._run(input_ids=padded, use_cache=False)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().split("\n")[0][:160]
            raise CheckpointError(
                f"--compile: this model's pass cannot be compiled ({reason}); leave out --compile"
            ) from error
        states: Tensor = output.last_hidden_state[:rows, :width]
        return states.clone()  # the next pass of a graph writes into the same memory


def static_shape(rows: int, width: int, budget: int) -> tuple[int, int]:
    """(rows, width) that stand for all batches of about this width within a budget.

    Args:
        rows: of the batch.
        width: tokens of its longest row.
        budget: padded tokens a batch.
    """
    size = bucket(width)
    return max(rows, budget // (bucket(size - 1, down=True) + 1)), size


def bucket(length: int, *, down: bool = False) -> int:
    """The nearest size that is no shorter than a length, or no longer."""
    step = max(1, 1 << max(0, length.bit_length() - 1 - (STEPS.bit_length() - 1)))
    return (length if down else length + step - 1) // step * step
