"""Meta's names of Llama's weights, used by torchtitan and lingua, as those of transformers.

Both rotate neighbouring dimensions of a head by one angle (dimension 2i with 2i + 1); transformers
rotates dimension i with i + half. The rows of wq and wk are put in that order.
"""

import re
from pathlib import Path
from typing import Any

import torch

from harness.engine.checkpoint.formats.format import Tensors
from harness.engine.checkpoint.formats.weights import without_ties
from harness.errors import CheckpointError

_OUTSIDE = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",  # `lm_head.weight` in torchtitan since 2026
}
_IN_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_LAYER = re.compile(r"layers\.(\d+)\.(.+)\.(weight|bias)")
_COMPUTED = re.compile(r"(^|\.)(freqs_cis|rope\.cache)$")  # from the config
_TIED = "output.tied_module.weight"  # lingua's head that is the embedding


def has_llama_names(tensors: Tensors) -> bool:
    """Whether the tensors have Meta's names."""
    return "tok_embeddings.weight" in tensors


def renamed(tensors: Tensors, config: Any, path: Path) -> Tensors:
    """The tensors under the names of `LlamaForCausalLM`; unknown names stay.

    Raises:
        CheckpointError: the config is not of a Llama.
    """
    if config.model_type != "llama":
        raise CheckpointError(
            f"{path} has the names of Llama in torchtitan and lingua, but --model-config is of the "
            f"type {config.model_type!r}; expected llama"
        )
    tensors = without_ties(tensors, {_TIED: "tok_embeddings.weight"}, path)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    found: Tensors = {}
    for name, tensor in tensors.items():
        if _COMPUTED.search(name):
            continue
        new = _new_name(name)
        projection = new.split(".")[-2] if "." in new else ""
        if projection in heads and tensor.shape[0] == heads[projection] * config.head_dim:
            tensor = half_split(tensor, config.head_dim)
        found[new] = tensor
    return found


def _new_name(name: str) -> str:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    layer = _LAYER.fullmatch(name)
    if not layer:
        return name
    number, part, kind = layer.groups()
    part = part.replace("qkv_linear.", "")  # torchtitan since 2026
    return f"model.layers.{number}.{_IN_LAYER[part]}.{kind}" if part in _IN_LAYER else name


def half_split(weight: torch.Tensor, head_size: int) -> torch.Tensor:
    """Rows of heads with rotated neighbours (0, 1, 2, 3, ...) in the order 0, 2, ..., 1, 3, ...

    `weight` is (heads * head_size, ...).
    """
    pairs = torch.unflatten(weight, 0, (-1, head_size // 2, 2))  # (heads, half, 2, ...)
    return pairs.transpose(1, 2).flatten(0, 2)
