"""Write tiny checkpoints with random weights to folders."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.families.configs import CHANGES, COMPOSITE, OTHER_HALVES, SIZES, Changes
from benchmarks.families.variants import LEFT_OUT, VARIANTS, Family
from harness.engine.checkpoint.random_model import byte_tokenizer

SEED = 1
SHAKE = 0.1  # spread of what is added to biases and to the weights of norms
_SPECIAL = ("bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_eos_token_id")


def families() -> dict[str, Family]:
    """Name -> row: one per model type, then the variants."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kinds = [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind not in LEFT_OUT]
    return {family.name: family for family in [*(Family(k, k) for k in kinds), *VARIANTS]}


def build(family: Family, folder: Path) -> None:
    """Write a family's model and tokenizer to a folder; the same at every call."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tokenizer = byte_tokenizer()
    changes = {**(CHANGES | COMPOSITE).get(family.type, {}), **family.changes}
    config = tiny_config(CONFIG_MAPPING[family.type], changes, len(tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _shake(model)
    model.to(getattr(torch, family.stored)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_config(kind: Any, changes: Changes, vocabulary: int) -> Any:
    """A config of a class: small sizes under their usual names, the rest as `changes` say.

    Args:
        kind: the config's class.
        changes: field -> value; a mapping for the config of a part, `text_config` say.
        vocabulary: how many tokens there are; the last one opens and ends a text.
    """
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {**SIZES, **dict.fromkeys(_SPECIAL, vocabulary - 1)}
    values["vocab_size"] = vocabulary
    if isinstance(pad := fields.get("pad_token_id"), int) and pad >= vocabulary:
        values["pad_token_id"] = 0
    values = {name: value for name, value in values.items() if name in fields}
    return kind(**values | {n: _part(kind, n, v, vocabulary) for n, v in changes.items()})


def _part(kind: Any, name: str, value: Any, vocabulary: int) -> Any:
    """The value of a field; a tiny config where it is that of a text, image or audio model."""
    if not name.endswith("_config") or not isinstance(value, Mapping):
        return value
    part = type(getattr(kind(), name))
    if not dataclasses.is_dataclass(part) or name == "attn_config":
        return value
    if name == "text_config":
        return tiny_config(part, value, vocabulary)
    fields = {field.name for field in dataclasses.fields(part)}
    return part(**{n: v for n, v in OTHER_HALVES.items() if n in fields} | value)


def _shake(model: torch.nn.Module) -> None:
    """Move what is initialised to zeros and ones, so that leaving it out would show."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += SHAKE * torch.randn_like(parameter)
