"""What this machine has: device, threads, memory in use, the speed of matrix products."""

import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from harness.engine.checkpoint.placement.device import pick_device

MATRIX_SIZE = 1024  # side of the matrices that are multiplied
ACCELERATOR_MATRIX_SIZE = 4096  # so that a product takes longer than starting it


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


def cpu_name() -> str:
    """What torch calls this CPU; empty where it does not know."""
    return str(torch.cpu.get_capabilities().get("cpu_name", ""))


def product_rate(device: str, seconds: float = 1.0) -> float:
    """GFLOP/s of float32 matrix products: the best of this time, since others can only slow it."""
    size = MATRIX_SIZE if device == "cpu" else ACCELERATOR_MATRIX_SIZE
    left = torch.randn(size, size, device=device)
    right = torch.randn(size, size, device=device)
    float((left @ right)[0, 0])  # the first product sets up threads and buffers
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        float((left @ right)[0, 0])  # waits for the device
        best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best / 1e9


def bfloat16_gain(seconds: float = 1.0) -> float:
    """How many times as fast as in float32 products are in bfloat16, on the CPU.

    Both take turns; the best of each counts, since others can only slow it.
    """
    matrices = {
        dtype: torch.randn(2, MATRIX_SIZE, MATRIX_SIZE).to(dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(matrices, float("inf"))
    for left, right in matrices.values():
        left @ right  # the first product sets up threads and buffers
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or float("inf") in best.values():
        for dtype, (left, right) in matrices.items():
            begun = time.perf_counter()
            left @ right
            best[dtype] = min(best[dtype], time.perf_counter() - begun)
    return best[torch.float32] / best[torch.bfloat16]


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
