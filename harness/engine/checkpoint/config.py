"""Read and check a checkpoint's config, and derive from it what the engine needs."""

import copy
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.engine.checkpoint.formats.nanochat.config import MODEL_TYPE
from harness.engine.checkpoint.from_pretrained import one_line_errors
from harness.engine.checkpoint.weight_files import all_are, read_json, tensor_names
from harness.errors import CheckpointError, clipped_repr

PAPER_CONTEXT = 1024  # Radford et al. 2019, section 2.3
_CONTEXT_FIELDS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "max_seq_len",
    "max_target_positions",
)  # fmt: skip
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_POSITIVE_FIELDS = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
_LAYER_FIELD = re.compile(r"((n|num)_(\w+_)?(layers?|blocks)|(en|de)coder_layers|depth)")
_MAX_UNCHECKED_LAYERS = 512  # building a model of so many layers takes little time


def read_config(folder: Path, name: str, *, trust_remote_code: bool) -> Any:
    """Read the config in a checkpoint's folder; refuse adapters and models that are not causal."""
    from transformers import AutoConfig

    if adapter := next((file for file in _ADAPTER_FILES if (folder / file).exists()), None):
        # Neither the base model nor the tuned one is meant.
        raise CheckpointError(
            f"model {name!r} has an adapter next to its weights ({adapter}), which would not be "
            "applied; merge it into them (peft: merge_and_unload(), then save_pretrained), or "
            "take it out of the folder to score the base model"
        )
    _check_json(folder, name)
    if read_json(folder, "config.json", name).get("model_type") == MODEL_TYPE:
        from harness.engine.checkpoint.formats.nanochat.model import register  # takes a second

        register()
    with one_line_errors(name):
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    kinds = [f"encoder-decoder ({config.model_type})"] if config.is_encoder_decoder else []
    kinds += [f"encoder ({a})" for a in config.architectures or () if "MaskedLM" in a]
    if kinds:
        raise CheckpointError(f"model {name!r} is an {kinds[0]}; expected a causal language model")
    for part in (config, config.get_text_config()):
        part.return_dict = True  # the engine reads outputs by name
    return config


def _check_json(folder: Path, name: str) -> None:
    """Refuse values of a wrong type that end in a traceback inside transformers."""
    classes = read_json(folder, "config.json", name).get("architectures")
    if not (classes is None or (isinstance(classes, list) and all_are(str, classes))):
        raise CheckpointError(
            f"model {name!r}: architectures in config.json is {clipped_repr(classes)}; expected a "
            "list of class names"
        )
    ends = read_json(folder, "generation_config.json", name).get("eos_token_id")
    check_end_tokens(ends, "eos_token_id in generation_config.json", name)


def check_end_tokens(value: Any, field: str, name: str) -> frozenset[int]:
    """End tokens in a config; refuses what is not a token id, a list of them, or None."""
    tokens = value if isinstance(value, list) else [] if value is None else [value]
    if not all_are(int, tokens):
        raise CheckpointError(
            f"model {name!r}: {field} is {clipped_repr(value)}; expected a token id or a list of "
            "them"
        )
    return frozenset(tokens)


def check_sizes(config: Any, files: Sequence[Path], name: str) -> None:
    """Refuse sizes that are not positive, and more layers than tensors, before a model is built."""
    text = config.get_text_config()
    for field in _POSITIVE_FIELDS:
        try:
            value = getattr(text, field, None)
        except Exception:  # some configs have one value per layer and raise
            continue
        if isinstance(value, int) and value < 1:
            raise CheckpointError(
                f"model {name!r}: {field} is {value} in config.json; expected at least 1"
            )
    if _stated_layers(config)[0] > _MAX_UNCHECKED_LAYERS:
        check_layers(config, len(tensor_names(files)), name)


def check_layers(config: Any, tensors: int, name: str) -> None:
    """Refuse a config with more layers than there are tensors, before a model is built."""
    layers, field = _stated_layers(config)
    if layers > tensors:
        raise CheckpointError(
            f"model {name!r}: {field} is {layers} in config.json, but there are only {tensors} "
            "tensors in its files; weights and config do not belong together"
        )


def _stated_layers(config: Any) -> tuple[int, str]:
    """The largest number of layers in a config, with its field."""
    return max(_layer_counts(config.to_dict()), default=(0, ""))


def _layer_counts(stated: dict[str, Any]) -> list[tuple[int, str]]:
    """Numbers of layers in a config and its parts, with their fields."""
    counts: list[tuple[int, str]] = []
    for field, value in stated.items():
        if isinstance(value, dict):
            counts += _layer_counts(value)
        elif isinstance(value, int) and _LAYER_FIELD.fullmatch(field):
            counts.append((value, field))
    return counts


def context_length(config: Any, requested: int | None) -> int:
    """The number of tokens fed at most; by default the smaller of 1,024 and the model's maximum."""
    text = config.get_text_config()
    sizes = [getattr(text, field, None) for field in _CONTEXT_FIELDS]
    size = next((size for size in sizes if isinstance(size, int) and size > 0), None)
    if size is None:
        return PAPER_CONTEXT if requested is None else requested
    maximum = size - _first_position(text)
    if maximum < 1:
        raise CheckpointError(f"the model's config leaves {maximum} positions; expected at least 1")
    if requested is None:
        return min(PAPER_CONTEXT, maximum)
    if requested > maximum:
        raise CheckpointError(
            f"--context {requested} is longer than the model's {maximum} positions"
        )
    return requested


def _first_position(config: Any) -> int:
    """The number of a text's first position; RoBERTa and its like count from the padding token on.

    They are recognised by the function that numbers positions, in the module of their class.
    """
    from transformers import AutoModelForCausalLM

    padding = getattr(config, "pad_token_id", None)
    models = AutoModelForCausalLM._model_mapping
    if not isinstance(padding, int) or padding < 0 or type(config) not in models:
        return 0
    model: Any = models[type(config)]
    model = model[0] if isinstance(model, tuple) else model
    counts_from_padding = any(
        hasattr(part, "create_position_ids_from_input_ids")
        and isinstance(part, type)
        and issubclass(part, torch.nn.Module)
        for part in vars(sys.modules[model.__module__]).values()
    )
    return padding + 1 if counts_from_padding else 0


def with_fused_activation(config: Any) -> Any:
    """A copy of a config with which torch computes GPT-2's GELU in one kernel.

    `gelu_new` composes the tanh approximation of seven tensor operations. The fused kernel computes
    the same function and makes GPT-2 a quarter faster on a CPU.
    """
    fused = copy.deepcopy(config)
    for field in ("activation_function", "hidden_act", "activation"):
        if getattr(fused, field, None) in ("gelu_new", "gelu_fast"):
            setattr(fused, field, "gelu_pytorch_tanh")
    return fused
