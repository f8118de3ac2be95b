"""Measure the machine's rate of float32 products, and how many products a run needs."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from benchmarks.common import seconds
from harness.engine.checkpoint.onednn import Packed

ROWS = 2048  # of a product, as a batch has


@dataclass(slots=True)
class Products:
    """Products that were computed, in floating-point operations."""

    operations: int = 0


@contextmanager
def counted(model: Any) -> Iterator[Products]:
    """Count the products of all linear layers while a model runs."""
    found = Products()

    def count(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        width = inputs[0].shape[-1]
        found.operations += 2 * module.weight.numel() * (inputs[0].numel() // width)

    linear = [m for m in model.modules() if isinstance(m, Packed | nn.Linear | Conv1D)]
    handles = [module.register_forward_pre_hook(count) for module in linear]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def product_rates(model: Any, rounds: int = 5) -> tuple[float, float]:
    """Operations a second on the shapes of one block: packed, and as plain torch does them.

    Args:
        model: a checkpoint's, packed.
        rounds: of each; both kinds take turns, and the medians count.
    """
    layers = next(m for m in model.base_model.children() if isinstance(m, nn.ModuleList))
    packed = [m for m in layers[0].modules() if isinstance(m, Packed)]
    plain = [m.weight.to_dense().t().contiguous() for m in packed]
    fed = [torch.randn(ROWS, m.weight.shape[1]) for m in packed]
    operations = 2 * ROWS * sum(m.weight.numel() for m in packed)
    ours: list[float] = []
    theirs: list[float] = []
    with torch.inference_mode():
        for _ in range(rounds):
            ours.append(seconds(lambda: [m(x) for m, x in zip(packed, fed, strict=True)]))
            theirs.append(seconds(lambda: [x @ w for w, x in zip(plain, fed, strict=True)]))
    return operations / statistics.median(ours), operations / statistics.median(theirs)
