"""Recognise errors that mean that a device or the machine ran out of memory."""

import torch

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
