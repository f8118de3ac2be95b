"""Free memory back to the system, where the C library keeps it.

glibc holds on to freed blocks of up to 32 MB. Batches of ever other shapes leave holes that the
next cannot use, and a long run grows by a gigabyte of them though nothing is in use.
"""

import ctypes
from functools import cache
from typing import Any


@cache
def _trim() -> Any:
    """The `malloc_trim` of glibc; None elsewhere."""
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # no such library to look into, as on Windows
        return None


def give_back() -> None:
    """Return what is free to the system; does nothing without glibc."""
    trim = _trim()
    if trim is not None:
        trim(0)
