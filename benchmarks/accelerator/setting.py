"""Where and how large the parts run, and what they have in common."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.accelerator import models

Row = dict[str, Any]
"""One row of a table: column -> text, number or verdict. A verdict is True or False."""
Rows = Iterator[Row]
TOLERANCE = 1e-4  # nats an item, in float32


@dataclass(frozen=True)
class Setting:
    """The device, and whether models and counts are tiny."""

    device: str
    small: bool

    @property
    def on_cuda(self) -> bool:
        """Whether NVIDIA's (or AMD's) own tools are there."""
        return self.device.startswith("cuda")

    def gpt2(self, dtype: torch.dtype = torch.float32, size: str = "124M") -> Any:
        """GPT-2 of random weights, made on the device."""
        with torch.device(self.device):
            model = models.gpt2("tiny" if self.small else size, **self._vocabulary)
        return model.to(dtype)

    def on_cpu(self) -> dict[str, Any]:
        """Models to compare devices with, by name, in float32 on the CPU."""
        size = "tiny" if self.small else "124M"
        return {
            "GPT-2": models.gpt2(size, **self._vocabulary),
            "Llama": models.llama(size, **self._vocabulary),
        }

    @property
    def _vocabulary(self) -> dict[str, int]:
        return {"vocabulary": 4096} if self.small else {}

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device != "cpu":
            torch.accelerator.synchronize(torch.device(self.device))

    def seconds(self, action: Callable[[], object]) -> float:
        """Wall time of an action until the device is done."""
        self.synchronize()
        begun = time.perf_counter()
        action()
        self.synchronize()
        return time.perf_counter() - begun

    def free(self) -> None:
        """Give memory that is cached but not in use back to the device."""
        if self.device != "cpu":
            torch.accelerator.empty_cache()


def short(dtype: torch.dtype) -> str:
    """`torch.float32` -> `float32`."""
    return str(dtype).removeprefix("torch.")
