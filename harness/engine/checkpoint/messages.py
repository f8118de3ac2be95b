"""Other people's words and values in messages of one line."""

import re
from textwrap import shorten
from typing import Any

import torch

_LONGEST = 160  # characters
_NO_MEMORY = (
    "out of memory",  # accelerators that raise a plain RuntimeError
    "not enough memory",  # torch's CPU allocator on Windows and macOS
    "can't allocate memory",  # the same on Linux
    "alloc_failed",  # cuBLAS and cuDNN
)


def short(error: BaseException) -> str:
    """An error's text on one line: its first sentences, or as much as there is room for."""
    text = " ".join(str(error).split()) or "no reason given"
    if len(text) <= _LONGEST:
        return text
    sentences = [end.start() for end in re.finditer(r"(?<=[.!?]) ", text[:_LONGEST])]
    if sentences and sentences[-1] >= _LONGEST // 4:
        return text[: sentences[-1]]
    return shorten(text, width=_LONGEST, placeholder=" ...")


def clipped(value: Any, longest: int = 80) -> str:
    """A value as Python writes it, cut if it is longer than so many characters."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return any(words in text for words in _NO_MEMORY)
