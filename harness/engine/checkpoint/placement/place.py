"""Where the weights of a checkpoint are: on one device, on several, or in parts in processes.

A checkpoint that no single device holds is spread over the accelerators of this machine, layer by
layer, with accelerate (`--device-map`), or every matrix is cut into parts that processes hold, by
the plan that its class in transformers has (`--tensor-parallel`).
"""

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.engine.checkpoint.from_pretrained import one_line_errors
from harness.engine.checkpoint.placement.device_map import (
    Place,
    check_accelerate,
    memory_in_words,
    spread,
    without_numbers,
)
from harness.engine.checkpoint.placement.parts import part_arguments
from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError

_OFFLOADED = ("cpu", "disk")  # where accelerate keeps the weights that no accelerator holds


@dataclass(frozen=True, slots=True)
class Placement:
    """How the weights of one checkpoint are placed.

    Attributes:
        device: of a model that is on one; else where it computes.
        arguments: further ones of `from_pretrained`.
        by_module: places of the modules of a model that is on several devices.
        folder: temporary, of what is kept on disk.
    """

    device: torch.device
    arguments: Mapping[str, Any] = field(default_factory=dict)
    by_module: Mapping[str, Place] = field(default_factory=dict)
    folder: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether one process has the whole model on one device."""
        return not self.arguments

    def finish(self, model: Any) -> Any:
        """The loaded model in its place."""
        if self.is_whole:
            return model.to(self.device)
        if self.folder:
            weakref.finalize(model, shutil.rmtree, self.folder, ignore_errors=True)
        return model

    def devices(self) -> str:
        """The devices that hold the weights, for records."""
        if not self.by_module:
            return str(self.device)
        return ", ".join(dict.fromkeys(str(_device(place)) for place in self.by_module.values()))

    def computing_device(self, model: Any) -> torch.device:
        """Where the logits of a model appear; ids and masks are put there as well.

        accelerate moves them to each layer, and computes with offloaded weights on the first
        accelerator, if there is one.
        """
        if not self.by_module:
            return self.device
        head = model.get_output_embeddings()
        name = next((name for name, module in model.named_modules() if module is head), "")
        prefixes = [p for p in self.by_module if p in ("", name) or name.startswith(f"{p}.")]
        place = self.by_module[max(prefixes, key=len)] if prefixes else "cpu"
        return self.device if place in _OFFLOADED else torch.device(place)


def place(
    config: Any, settings: Settings, device: torch.device, dtype: torch.dtype, name: str
) -> Placement:
    """Where the weights of a checkpoint go; `device` is where they go if it holds all of them.

    Raises:
        CheckpointError: the devices do not hold it, or its class has no plan for processes.
    """
    if settings.tensor_parallel > 1:
        return Placement(device, part_arguments(settings.tensor_parallel, name))
    if settings.device_map is None:
        return Placement(device)
    check_accelerate("--device-map")
    if getattr(config, "quantization_config", None):
        raise CheckpointError(
            f"model {name!r} is quantised; --device-map is for plain weights: leave it out"
        )
    with one_line_errors(name):
        model = without_numbers(config, dtype, settings)
        by_module = spread(model, dtype, device)
        size = sum(p.numel() * p.element_size() for p in model.parameters())
    if by_module is None:
        return Placement(device)
    places = set(by_module.values())
    offloaded = places & ({"disk"} if device.type == "cpu" else {*_OFFLOADED})
    if offloaded and settings.device_map == "auto":
        smaller = ", or --dtype bfloat16" if dtype == torch.float32 else ""
        raise CheckpointError(
            f"model {name!r} has {size / 1e9:.1f} GB of weights, and {memory_in_words(device)}; "
            f"give --device-map offload to keep the rest elsewhere, which is slow{smaller}"
        )
    if offloaded and settings.copied:
        raise CheckpointError(
            f"model {name!r} would be read from its files during the run, and they may be written "
            "meanwhile; expected devices that hold it"
        )
    folder = tempfile.mkdtemp(prefix="harness-offload-") if "disk" in places else None
    arguments = {"device_map": by_module, "offload_folder": folder}
    return Placement(device, arguments, by_module, folder)


def _device(place: Place) -> Place | torch.device:
    """A place of accelerate as torch writes it."""
    return torch.device(place) if isinstance(place, int) else place
