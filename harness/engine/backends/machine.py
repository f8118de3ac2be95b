"""What this machine is and does: device, threads, the rate of matrix products."""

import os
import time
from typing import NamedTuple

import torch

from harness.engine.checkpoint.load import pick_device

SIDE = 1024  # of the square matrices that are multiplied


class Machine(NamedTuple):
    """What a run would find here."""

    device: str
    threads: int  # that torch uses on the CPU
    cores: int  # that this process may use


def machine(wish: str | None, threads: int | None) -> Machine:
    """Device, threads and cores.

    Raises:
        CheckpointError: the device that was asked for cannot be used.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return Machine(str(pick_device(wish)), torch.get_num_threads(), cores)


def product_rate(device: str, seconds: float = 1.0) -> float:
    """GFLOP/s of float32 products of square matrices, the best of those made in that time.

    The best, since whatever else the machine does can only take away from it.
    """
    left = torch.randn(SIDE, SIDE, device=device)
    right = torch.randn(SIDE, SIDE, device=device)
    left @ right  # the first product sets up threads and buffers
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.perf_counter()
        float((left @ right)[0, 0])  # waits until the device is done
        best = max(best, 2 * SIDE**3 / (time.perf_counter() - begun))
    return best / 1e9
