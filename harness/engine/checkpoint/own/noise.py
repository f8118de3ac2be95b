"""Noise in the weights of a model: a checkpoint that is a little worse, and in no file."""

import copy
from typing import Any

import torch
from torch import nn

from harness.engine.checkpoint.own.adapter import owner_of
from harness.errors import CheckpointError, clipped_repr

_SEED = 0  # the same noise in every process, and in every worker


def noisy_name(name: str, share: float) -> str:
    """The name of a checkpoint with noise, which must not pass for the checkpoint itself."""
    return f"{name} with {100 * share:g} % noise" if share else name


def add_noise(model: nn.Module, share: float, name: str) -> None:
    """Add Gaussian noise to each matrix of a model, in proportion to the spread of its entries.

    Vectors, such as biases and the scales of norms, stay as they are. Matrices that are tied stay
    tied. Every matrix becomes a new tensor, because the old one may be mapped from a file.

    Args:
        model: whose weights are replaced.
        share: standard deviation of the noise, as a share of that of the matrix.
        name: of the model, for messages.

    Raises:
        CheckpointError: it has no matrix of floating-point numbers.
    """
    matrices = [p for p in model.parameters() if p.ndim > 1 and p.is_floating_point()]
    if not matrices:
        raise CheckpointError(
            f"model {clipped_repr(name)} has no matrix of floating-point numbers, to which noise "
            "could be added"
        )
    generator = torch.Generator().manual_seed(_SEED)
    for matrix in matrices:
        values = matrix.detach().float()
        # drawn on the CPU, so that the noise does not depend on the device
        noise = torch.randn(values.shape, generator=generator).to(values.device)
        noisy = values + share * values.std(correction=0) * noise
        matrix.data = noisy.to(matrix.dtype)


def noisy_copy(model: Any, share: float, name: str) -> Any:
    """A copy with noise of a model that a function returned, which may return it again.

    Raises:
        CheckpointError: the model is neither a module nor a method of one, or cannot be copied.
    """
    if owner_of(model) is None:
        raise CheckpointError(
            f"model {clipped_repr(name)} is a plain function, whose weights are not known; "
            "expected an nn.Module, to whose weights noise can be added"
        )
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # a module may hold anything
        raise CheckpointError(
            f"model {clipped_repr(name)} cannot be copied, and noise would change it "
            f"({type(error).__name__})"
        ) from error
    owner = owner_of(copied)
    assert owner is not None, "the copy of a module is a module"
    add_noise(owner, share, name)
    return copied
