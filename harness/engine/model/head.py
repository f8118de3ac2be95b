"""A model's own steps from hidden states to logits, whatever they are.

Many families cap or scale their logits, or transform the states before the last product. Instead
of knowing each, the model's own forward pass runs with its trunk left out: in the trunk's place
stand the states that are read, so that no logits are computed for any others.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


class OwnHead:
    """Hidden states (N, H) -> the model's logits (N, V).

    Args:
        model: a causal language model.
        trunk: the module of it whose last hidden states become logits.
        output: something that the trunk returned; all but its states is left out.
    """

    def __init__(self, model: Any, trunk: Any, output: Any) -> None:
        self._model, self._trunk, self._output = model, trunk, output
        takes = inspect.signature(model.forward).parameters
        self._more = {"use_cache": False} if "use_cache" in takes else {}

    def __call__(self, states: Tensor) -> Tensor:
        """Logits (N, V) in the model's dtype."""
        ids = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
        output = with_states(self._output, states[None])
        with _instead(self._trunk, output):
            logits: Tensor = self._model(input_ids=ids, **self._more).logits[0]
        return logits


def last_states(output: Any) -> Tensor | None:
    """The hidden states (B, T, H) in what a trunk returned, if it has any."""
    states = getattr(output, "last_hidden_state", None)
    if states is None and isinstance(output, tuple) and output:
        states = output[0]
    return states if isinstance(states, Tensor) and states.dim() == 3 else None


def with_states(output: Any, states: Tensor) -> Any:
    """A copy of what a trunk returned with these states and nothing else."""
    if hasattr(output, "last_hidden_state"):
        return type(output)(last_hidden_state=states)
    return (states, *[None] * (len(output) - 1))


def watch(model: Any, ids: Tensor) -> tuple[Tensor, list[tuple[Any, Any]]]:
    """A model's logits (B, T, V), and the trunks inside it that ran with what each returned.

    The outermost comes first.
    """
    seen: list[tuple[Any, Any]] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        if last_states(output) is not None:
            seen.insert(0, (module, output))

    with ExitStack() as handles:
        for module in model.modules():
            if module is not model and isinstance(module, PreTrainedModel):
                handles.callback(module.register_forward_hook(note).remove)
        logits: Tensor = model(input_ids=ids).logits
    return logits, seen


@contextmanager
def _instead(module: Any, output: Any) -> Iterator[None]:
    """Let a module return something without running."""
    before = module.__dict__.get("forward")
    module.forward = lambda *args, **named: output
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
