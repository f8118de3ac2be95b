"""What this machine has: device, threads, memory in use, the speed of matrix products."""

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from harness.engine.checkpoint.load import pick_device

MATRIX_SIZE = 1024  # side of the matrices that are multiplied


class Machine(NamedTuple):
    """Resources of a run."""

    device: str
    threads: int  # of torch on the CPU
    cores: int  # that this process may use


def machine(device: str | None, threads: int | None) -> Machine:
    """Choose the device (see `pick_device`), set the number of threads and count the cores."""
    if threads is not None:
        torch.set_num_threads(threads)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return Machine(str(pick_device(device)), torch.get_num_threads(), cores)


def product_rate(device: str, seconds: float = 1.0) -> float:
    """GFLOP/s of float32 matrix products: the best of this time, since others can only slow it."""
    left = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device)
    right = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device)
    left @ right  # the first product sets up threads and buffers
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        float((left @ right)[0, 0])  # waits for the device
        best = max(best, 2 * MATRIX_SIZE**3 / (time.perf_counter() - begun))
    return best / 1e9


def resident_bytes() -> int:
    """Memory of this process now, or at its peak where the system does not report it.

    0 on Windows, which reports neither.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except ImportError:
        return 0
    except (OSError, ValueError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
