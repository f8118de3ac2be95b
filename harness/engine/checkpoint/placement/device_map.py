"""Which device of several holds which layers of a checkpoint, as accelerate plans it."""

from importlib.util import find_spec
from typing import Any

import torch

from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError

_WEIGHTS_SHARE = 0.85  # of a device's free memory; the rest is for activations, caches and logits
Place = str | int  # a device of accelerate: the number of an accelerator, "cpu" or "disk"


def spread(model: Any, dtype: torch.dtype, device: torch.device) -> dict[str, Place] | None:
    """Module -> place of a model on several devices; None if `device` holds it alone."""
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    free = {place: int(_WEIGHTS_SHARE * size) for place, size in free_memory().items()}
    needed = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    if needed <= free.get("cpu" if device.type == "cpu" else device.index or 0, 0):
        return None
    undivided = [*(model._no_split_modules or ())]
    balanced = get_balanced_memory(model, free, undivided, dtype)
    return dict(infer_auto_device_map(model, balanced, undivided, dtype=dtype))


def free_memory() -> dict[Place, int]:
    """Bytes that are free on each accelerator, by its number, and in this machine's memory."""
    from accelerate.utils import get_max_memory

    return dict(get_max_memory())


def memory_in_words(device: torch.device) -> str:
    """How much memory there is for weights."""
    free = free_memory()
    sizes = [size for place, size in free.items() if (place == "cpu") == (device.type == "cpu")]
    where = "memory has" if device.type == "cpu" else "accelerators have"
    share = f"of which {_WEIGHTS_SHARE:.0%} may hold weights"
    return f"this machine's {where} {sum(sizes) / 1e9:.1f} GB free, {share}"


def without_numbers(config: Any, dtype: torch.dtype, settings: Settings) -> Any:
    """The model that a config describes, with shapes instead of weights."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM
    with torch.device("meta"):
        return model.from_config(config, dtype=dtype, trust_remote_code=settings.trust_remote_code)


def check_accelerate(flag: str) -> None:
    """Refuse an option for which transformers needs accelerate if it is not installed."""
    if find_spec("accelerate") is None:
        raise CheckpointError(f"{flag} needs accelerate; pip install 'zero-shot-harness[large]'")
