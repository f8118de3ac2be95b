"""The device that a checkpoint is loaded on."""

import torch

from harness.errors import CheckpointError, short_reason


def pick_device(requested: str | None) -> torch.device:
    """The requested device; by default the accelerator if there is one, else the CPU.

    Raises:
        CheckpointError: torch does not know the device, or the machine does not have it.
    """
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    if requested is None:
        return accelerator or torch.device("cpu")
    available = f"this machine has: cpu{f', {accelerator}' if accelerator else ''}"
    try:
        device = torch.device(requested)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CheckpointError(
            f"device {requested!r} cannot be used ({short_reason(error)}); {available}"
        ) from error
    if device.type == "meta":
        raise CheckpointError(f"device {requested!r} holds no numbers; {available}")
    return device
