"""Bring the model that a function returned to the device and number format of the run."""

from typing import Any

import torch
from torch import Tensor, nn

from harness.engine.checkpoint.own.prepare import Prepared
from harness.engine.checkpoint.own.restore import use_full_precision
from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError


def placed(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The model in evaluation mode, on a device and in a number format; functions stay as they are.

    Numbers that are not weights keep their format if the weights do: positions in float64, complex
    rotations.
    """
    use_full_precision()
    if not isinstance(model, nn.Module):
        return model
    formats = {p.dtype for p in model.parameters() if p.is_floating_point()}
    changes = bool(formats - {dtype})

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if changes and tensor.is_floating_point() else None)

    moved: Any = model
    return moved._apply(move).eval()


def check_place(prepared: Prepared, settings: Settings) -> None:
    """Refuse a device or number format that is not that of the model.

    Raises:
        CheckpointError: the model is a function, which cannot be moved.
    """
    identity = prepared.identity
    device = torch.device(settings.device or identity.device)
    actual = torch.device(identity.device)
    same_index = None in (device.index, actual.index) or device.index == actual.index
    if device.type != actual.type or not same_index:
        flag, wanted, has = "--device", settings.device, identity.device
    elif settings.dtype != identity.dtype:
        flag, wanted, has = "--dtype", settings.dtype, identity.dtype
    else:
        return
    raise CheckpointError(
        f"model {identity.name!r} computes in {identity.dtype} on {identity.device} and, as a "
        f"function, cannot be moved: {flag} {wanted} has no effect; expected {flag} {has}"
    )
