"""A checkpoint's config: read, judged, and what follows from it for the engine."""

import copy
import sys
from pathlib import Path
from typing import Any

import torch

from harness.engine.checkpoint.from_pretrained import one_line
from harness.engine.checkpoint.weight_files import check_adapter, check_json
from harness.errors import CheckpointError

PAPER_CONTEXT = 1024  # Radford et al. 2019, section 2.3
_CONTEXT_NAMES = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len",
    "max_target_positions",
)  # fmt: skip


def read_config(folder: Path, name: str, *, trust_remote_code: bool) -> Any:
    """The config in a checkpoint's folder.

    Raises:
        CheckpointError: it cannot be read, is not that of a causal language model, or an adapter
            lies beside it.
    """
    from transformers import AutoConfig

    check_adapter(folder, name)
    check_json(folder, name)
    with one_line(name):
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"model {name!r} is an encoder-decoder ({config.model_type}); expected a causal "
            "language model"
        )
    masked = [a for a in getattr(config, "architectures", None) or () if "MaskedLM" in a]
    if masked:
        raise CheckpointError(
            f"model {name!r} is an encoder ({masked[0]}); expected a causal language model"
        )
    for part in (config, config.get_text_config()):
        part.return_dict = True  # the engine reads outputs by name
    return config


def context_length(config: Any, wish: int | None) -> int:
    """How many tokens are fed at most: the smaller of 1,024 and what the model has.

    Raises:
        CheckpointError: more is asked for than the model has.
    """
    text = config.get_text_config()
    sizes = [getattr(text, name, None) for name in _CONTEXT_NAMES]
    model = next((int(size) for size in sizes if isinstance(size, int) and size > 0), None)
    if model:
        model -= _first_position(text)
    if model is not None and model < 1:
        raise CheckpointError(f"the model's config leaves {model} positions; expected at least 1")
    if wish is None:
        return min(PAPER_CONTEXT, model) if model else PAPER_CONTEXT
    if model and wish > model:
        raise CheckpointError(f"--context {wish} is longer than the model's {model} positions")
    return wish


def _first_position(config: Any) -> int:
    """The number of a text's first position, which RoBERTa and its kin have beyond the padding's.

    Known by the function that gives out positions in the module of the model's class.
    """
    from transformers import AutoModelForCausalLM

    padding = getattr(config, "pad_token_id", None)
    if not isinstance(padding, int) or padding < 0:
        return 0
    known = AutoModelForCausalLM._model_mapping
    if type(config) not in known:
        return 0
    found = known[type(config)]
    kind = found[0] if isinstance(found, tuple) else found
    module = sys.modules[kind.__module__]
    skips = any(
        hasattr(part, "create_position_ids_from_input_ids")
        and isinstance(part, type)
        and issubclass(part, torch.nn.Module)
        for part in vars(module).values()
    )
    return padding + 1 if skips else 0


def with_fused_activation(config: Any) -> Any:
    """A config by which torch computes GPT-2's GELU in one kernel.

    `gelu_new` is the tanh approximation composed of seven tensor operations; the fused one is
    the same function and took a quarter off GPT-2's time on a CPU.
    """
    fused = copy.deepcopy(config)
    for name in ("activation_function", "hidden_act", "activation"):
        if getattr(fused, name, None) in ("gelu_new", "gelu_fast"):
            setattr(fused, name, "gelu_pytorch_tanh")
    return fused
