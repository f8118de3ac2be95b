"""A model's own steps from hidden states to logits, whatever they are.

Many families cap or scale their logits, or transform the states before the last product. Instead
of reimplementing each, the model's own forward pass runs with its trunk replaced by the states that
are read, so that no other logits are computed.
"""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


class OwnHead:
    """Hidden states (N, H) -> the model's logits (N, V), in its dtype.

    Args:
        model: a causal language model.
        trunk: the module inside it whose last hidden states become logits.
        output: something that the trunk returned, as a template.
    """

    def __init__(self, model: Any, trunk: Any, output: Any) -> None:
        self._model, self._trunk, self._output = model, trunk, output
        takes_cache = "use_cache" in inspect.signature(model.forward).parameters
        self._options = {"use_cache": False} if takes_cache else {}

    def __call__(self, states: Tensor) -> Tensor:
        """The model's logits."""
        ids = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
        if hasattr(self._output, "last_hidden_state"):
            output = type(self._output)(last_hidden_state=states[None])
        else:
            output = (states[None], *[None] * (len(self._output) - 1))
        with _replaced(self._trunk, output):
            logits: Tensor = self._model(input_ids=ids, **self._options).logits[0]
        return logits


def last_states(output: Any) -> Tensor | None:
    """The hidden states (B, T, H) in what a trunk returned, if it has any."""
    states = getattr(output, "last_hidden_state", None)
    if states is None and isinstance(output, tuple) and output:
        states = output[0]
    return states if isinstance(states, Tensor) and states.dim() == 3 else None


def watch(model: Any, ids: Tensor) -> tuple[Tensor, list[tuple[Any, Any]]]:
    """A model's logits (B, T, V), and (trunk, output) of each trunk inside it, outermost first."""
    trunks: list[tuple[Any, Any]] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        if last_states(output) is not None:
            trunks.insert(0, (module, output))

    with ExitStack() as handles:
        for module in model.modules():
            if module is not model and isinstance(module, PreTrainedModel):
                handles.callback(module.register_forward_hook(note).remove)
        logits: Tensor = model(input_ids=ids).logits
    return logits, trunks


@contextmanager
def _replaced(module: Any, output: Any) -> Iterator[None]:
    """Let a module return an output without running."""
    before = module.__dict__.get("forward")
    module.forward = lambda *args, **named: output
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
