"""Checkpoints in parts: each of several processes holds a part of every weight matrix."""

from typing import Any

import torch

from harness.engine.checkpoint.from_pretrained import one_line_errors
from harness.engine.checkpoint.placement.device_map import check_accelerate, without_numbers
from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError


def check_parts(config: Any, settings: Settings, name: str) -> None:
    """Refuse a model that cannot be divided among `settings.tensor_parallel` processes.

    Raises:
        CheckpointError: its class has no plan for it, or its heads cannot be divided evenly.
    """
    count = settings.tensor_parallel
    check_accelerate("--tensor-parallel")
    with one_line_errors(name):
        model = without_numbers(config, torch.float32, settings)
    if not model.tp_plan:
        raise CheckpointError(
            f"model {name!r}: {type(model).__name__} of transformers has no plan for tensor "
            "parallelism; leave out --tensor-parallel, or spread it by --device-map auto"
        )
    text = config.get_text_config()
    for field_name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(text, field_name, None)
        if isinstance(heads, int) and heads % count:
            raise CheckpointError(
                f"model {name!r}: {field_name} is {heads}, which {count} processes cannot divide "
                "evenly; give --tensor-parallel a number that divides it"
            )


def part_arguments(count: int, name: str) -> dict[str, Any]:
    """Arguments of `from_pretrained` with which this process, one of `count`, loads its part.

    Raises:
        CheckpointError: this process is alone.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise CheckpointError(
            f"model {name!r}: one process cannot hold a part of it; expected a command with "
            f"--tensor-parallel {count}, which starts the others"
        )
    from transformers.distributed.configuration_utils import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_size=count)}
