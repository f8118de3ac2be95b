"""Tensors of other programs as the weights of a transformers class: names, shapes, ties."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.engine.checkpoint.config import check_layers
from harness.engine.checkpoint.formats.format import Tensors
from harness.engine.checkpoint.formats.gpt2.convert import (
    Sizes,
    read_state,
    transformers_tensors,
)
from harness.engine.checkpoint.from_pretrained import check_report, one_line_errors
from harness.errors import CheckpointError, clipped_repr

STATES = ("model", "state_dict", "model_state_dict", "module")  # of a training, with the model
_OLD_HEAD = "embed_out.weight"  # the head of GPT-NeoX in transformers 4, and in saved models
_SHOWN_KEYS = 5


def state_dict(content: Any, path: Path) -> Tensors:
    """The state dict in a torch file: the tensors of the file's dict, or of one inside it.

    Raises:
        CheckpointError: the file has no such dict, or has an optimizer's state only.
    """
    if tensors := _found(content):
        return tensors
    if is_optimizer_state(content):
        raise CheckpointError(
            f"{path} is the state of an optimizer without a model; expected the file that the "
            "model's weights were saved to"
        )
    raise CheckpointError(f"{path} is {described(content)}; expected a state dict")


def is_state_dict(content: Any) -> bool:
    """Whether the content of a torch file has tensors where a state dict has them."""
    return bool(_found(content))


def is_optimizer_state(content: Any) -> bool:
    """Whether the content of a torch file is the state of an optimizer, or has only that."""
    values = [content, *content.values()] if isinstance(content, dict) else []
    return any(isinstance(v, dict) and {"state", "param_groups"} <= v.keys() for v in values)


def described(content: Any) -> str:
    """What a torch file holds, for a message."""
    if not isinstance(content, dict):
        return f"a torch file of a {type(content).__name__}"
    shown = ", ".join(clipped_repr(key, 40) for key in list(content)[:_SHOWN_KEYS])
    more = ", ..." if len(content) > _SHOWN_KEYS else ""
    return f"a torch file of a dict with {shown or 'no keys'}{more}"


def _found(content: Any) -> Tensors:
    if not isinstance(content, dict):
        return {}
    inner = [content[key] for key in STATES if isinstance(content.get(key), dict)]
    for values in (*inner, content):
        if tensors := {str(k): v for k, v in values.items() if isinstance(v, torch.Tensor)}:
            return tensors
    return {}


def fitted(tensors: Tensors, config: Any, path: Path) -> Tensors:
    """The tensors that the causal language model of a config loads, tied ones once.

    Raises:
        CheckpointError: one is missing, left over, has another shape or differs from the one that
            it is tied to.
    """
    from transformers import AutoModelForCausalLM, conversion_mapping

    auto: Any = AutoModelForCausalLM
    conversions: Any = conversion_mapping
    name = str(path)
    check_layers(config, len(tensors), name)
    tensors = _gpt2(tensors, config, path) if config.model_type == "gpt2" else tensors
    with one_line_errors(name), torch.device("meta"):
        model = auto.from_config(config)
    ties = dict(model.all_tied_weights_keys or {})
    if "lm_head.weight" in model.state_dict() and _OLD_HEAD in tensors:
        tensors = {"lm_head.weight" if k == _OLD_HEAD else k: v for k, v in tensors.items()}
    tensors = without_ties(tensors, ties, path)
    if conversions.get_checkpoint_conversion_mapping(config.model_type):
        return _unshared(tensors)  # the file may have other names than the model; `load` checks
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items() if k not in ties}
    ignored = re.compile("|".join(model._keys_to_ignore_on_load_unexpected or ()) or "(?!)")
    optional = re.compile("|".join(model._keys_to_ignore_on_load_missing or ()) or "(?!)")
    sizes = {key: tuple(value.shape) for key, value in tensors.items()}
    wrong = [(k, sizes[k], shape) for k, shape in expected.items() if sizes.get(k, shape) != shape]
    report = {
        "missing_keys": {k for k in expected.keys() - sizes.keys() if not optional.search(k)},
        "unexpected_keys": {k for k in sizes.keys() - expected.keys() if not ignored.search(k)},
        "mismatched_keys": wrong,
    }
    check_report(report, config, name)
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not tensors.get(key, value).is_floating_point():
            raise CheckpointError(
                f"{path}: the tensor {key!r} holds {tensors[key].dtype}; expected floating-point "
                "weights, not quantised ones"
            )
    return _unshared({key: tensors[key] for key in expected if key in tensors})  # in its order


def _gpt2(tensors: Tensors, config: Any, path: Path) -> Tensors:
    """Weights of a GPT-2; those of nanoGPT's model under the same names, transposed."""
    width = config.n_embd
    first = tensors.get("transformer.h.0.attn.c_attn.weight")
    if first is None or tuple(first.shape) != (3 * width, width):
        return tensors
    sizes = Sizes(
        layers=config.n_layer,
        heads=config.n_head,
        width=width,
        positions=config.n_positions,
        rows=config.vocab_size,
        biases="transformer.ln_f.bias" in tensors,
    )
    return transformers_tensors(path, read_state(path, tensors), sizes)


def _unshared(tensors: Tensors) -> Tensors:
    """The tensors, each with memory of its own: files of safetensors cannot say otherwise."""
    seen: set[int] = set()
    found: Tensors = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def without_ties(tensors: Tensors, ties: Mapping[str, str], path: Path) -> Tensors:
    """The tensors without those that are equal to another one by the model's definition.

    `ties` leads from such a tensor to the other one.
    """
    for name, source in ties.items():
        if (
            name in tensors
            and source in tensors
            and not torch.equal(tensors[name], tensors[source])
        ):
            raise CheckpointError(
                f"{path}: the tensors {name!r} and {source!r} differ, but its config ties them "
                "(tie_word_embeddings)"
            )
    return {k: v for k, v in tensors.items() if ties.get(k) not in tensors}
