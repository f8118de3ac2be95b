"""The tensors of a model whose weights are elsewhere, or in parts in several processes."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor


def whole_tensors(model: Any) -> Callable[[str, Tensor], Tensor]:
    """A function from the name and value of a tensor to the tensor itself, whole and in memory.

    Parts that other processes have are collected: all processes must call it in the same order.
    """
    offloaded = dict(_offloaded(model))

    def whole(name: str, value: Tensor) -> Tensor:
        if hasattr(value, "full_tensor"):
            part: Any = value
            collected: Tensor = part.full_tensor()
            # One process says what the digest is.
            return collected if torch.distributed.get_rank() == 0 else collected.new_empty(0)
        is_elsewhere = isinstance(value, Tensor) and value.is_meta and name in offloaded
        return offloaded[name]() if is_elsewhere else value

    return whole


def _offloaded(model: Any) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Name of every parameter that accelerate keeps elsewhere, and a function that reads it."""
    for prefix, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        for part in getattr(hook, "hooks", (hook,)):
            weights = getattr(part, "weights_map", None)
            if weights is not None:
                for name, _ in module.named_parameters(recurse=False):
                    whole_name = f"{prefix}.{name}" if prefix else name
                    yield whole_name, partial(weights.__getitem__, name)
