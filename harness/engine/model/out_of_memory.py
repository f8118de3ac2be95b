"""Recognise out-of-memory errors, and free memory for a smaller attempt."""

import torch

from harness.errors import CheckpointError

_MESSAGES = (
    "out of memory",  # accelerators that raise a plain RuntimeError
    "not enough memory",  # torch's CPU allocator on Windows and macOS
    "can't allocate memory",  # the same on Linux
    "alloc_failed",  # cuBLAS and cuDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(message in text for message in _MESSAGES)


def recover(error: Exception, device: torch.device, smallest: str = "", processes: int = 1) -> None:
    """Free memory for another attempt with less; raise the error if memory is not its cause.

    Args:
        error: what ended the attempt.
        device: whose memory may have run out.
        smallest: what was attempted, if there is nothing less.
        processes: that compute together.

    Raises:
        CheckpointError: there is nothing less to attempt, or other processes wait for this one.
    """
    if not is_out_of_memory(error):
        raise error
    if processes > 1:
        raise CheckpointError(
            "out of memory in a process of --tensor-parallel, for which the others wait; give a "
            "smaller --batch-tokens or --context"
        ) from error
    if smallest:
        raise CheckpointError(
            f"out of memory on {smallest}; use a smaller --context, --dtype bfloat16 or another "
            "device"
        ) from error
    if device.type != "cpu":
        torch.accelerator.empty_cache()
