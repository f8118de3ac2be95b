"""litgpt's `model_config.yaml`, and the config of transformers for the same forward pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.engine.checkpoint.formats.pickles import unreadable
from harness.engine.checkpoint.weight_files import read_json
from harness.errors import CheckpointError, clipped_repr, short_reason

_SIZES = (
    "block_size", "n_layer", "n_embd", "n_head", "head_size", "n_query_groups",
    "intermediate_size", "padded_vocab_size",
)  # fmt: skip
_MAX_YAML_BYTES = 1 << 14  # a config has about 2,000
_MAX_BRACKETS = 200  # the time that YAML takes grows with the square of their number
# Fields that change nothing in the two families, given the values of the fields below.
_WITHOUT_EFFECT = frozenset({
    "hf_config", "org", "vocab_size", "padding_multiple", "norm_qk_type", "sliding_window_indices",
    "sliding_window_layer_placing", "sliding_window_layer_stride", "moe_intermediate_size",
    "n_shared_expert", "n_expert_groups", "n_topk_groups", "n_topk_scores_per_group",
    "n_expert_per_token", "routed_scaling_factor", "norm_topk_prob", "first_k_dense_replace",
})  # fmt: skip
# Fields that must have these values: another one is another architecture.
_FIXED: Mapping[str, Any] = {
    "norm_qk": False,
    "post_attention_norm": False,
    "post_mlp_norm": False,
    "shared_attention_norm": False,
    "sliding_window_size": None,
    "attention_logit_softcapping": None,
    "rope_interleave": False,
    "n_expert": 0,
    "scale_embeddings": False,
    "lm_head_bias": False,
    "final_logit_softcapping": None,
    "norm_1": True,
    "norm_2": True,
    "latent_attention": None,
    "rope_local_base_freq": None,
    "rope_indices": None,
}
_DEFAULTS: Mapping[str, Any] = {  # of the fields that are mapped
    "name": "",
    "norm_class_name": "LayerNorm",
    "norm_eps": 1e-5,
    "parallel_residual": True,
    "attn_bias": False,
    "attention_scores_scalar": None,
    "rope_base": 10000,
    "rotary_percentage": 0.25,
    "rope_condense_ratio": 1,
    "rope_adjustments": None,
    "bias": True,
    "mlp_class_name": "GptNeoxMLP",
    "gelu_approximate": "none",
}
_LLAMA3_SCALING = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_seq_len": "original_max_position_embeddings",
}
_FAMILIES = {"LLaMAMLP": ("Llama", "RMSNorm"), "GptNeoxMLP": ("GPT-NeoX", "LayerNorm")}


@dataclass(frozen=True, slots=True)
class LitConfig:
    """The fields of a `model_config.yaml` that the conversion needs."""

    n_layer: int
    n_embd: int
    n_head: int
    head_size: int
    n_query_groups: int
    intermediate_size: int
    padded_vocab_size: int
    block_size: int
    bias: bool
    norm_eps: float
    parallel_residual: bool
    rope: Mapping[str, Any]  # `rope_parameters` of transformers
    activation: str
    is_llama: bool

    @property
    def kind(self) -> str:
        """The name of the family."""
        return "Llama" if self.is_llama else "GPT-NeoX"

    @property
    def queries_per_group(self) -> int:
        """Heads of queries that share a head of keys and values."""
        return self.n_head // self.n_query_groups

    @property
    def qkv_rows(self) -> int:
        """Rows of the weight that computes queries, keys and values."""
        return (self.n_head + 2 * self.n_query_groups) * self.head_size

    def for_transformers(self, folder: Path, *, tied: bool) -> Any:
        """The config of transformers; numbers of special tokens are those in the folder."""
        from transformers import GPTNeoXConfig, LlamaConfig

        shared = {
            "vocab_size": self.padded_vocab_size,
            "hidden_size": self.n_embd,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.n_layer,
            "num_attention_heads": self.n_head,
            "max_position_embeddings": self.block_size,
            "rope_parameters": dict(self.rope),
            "attention_bias": self.bias,
            "tie_word_embeddings": tied,
            **_special_tokens(folder),
        }
        if self.is_llama:
            return LlamaConfig(
                num_key_value_heads=self.n_query_groups,
                head_dim=self.head_size,
                rms_norm_eps=self.norm_eps,
                mlp_bias=self.bias,
                hidden_act="silu",
                **shared,
            )
        return GPTNeoXConfig(
            layer_norm_eps=self.norm_eps,
            use_parallel_residual=self.parallel_residual,
            hidden_act=self.activation,
            **shared,
        )


def _special_tokens(folder: Path) -> dict[str, Any]:
    """The ids of special tokens in the files that `litgpt download` leaves in its folders."""
    stated: dict[str, Any] = {}
    for file in ("generation_config.json", "config.json"):
        stated |= read_json(folder, file, str(folder))
    fields = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {field: stated.get(field) for field in fields}


def read_lit_config(path: Path) -> LitConfig:
    """Read a `model_config.yaml`.

    Raises:
        CheckpointError: it cannot be read, or describes a model that is not converted.
    """
    fields = _Fields(_yaml(path), path)
    for name in fields.values.keys() - {*_SIZES, *_DEFAULTS, *_FIXED, *_WITHOUT_EFFECT}:
        if fields.values[name] is not None:
            fields.refuse(name, "a version of litgpt without this field")
    for name, value in _FIXED.items():
        fields.check(name, fields.values.get(name, value), value)
    mlp = fields.get("mlp_class_name")
    if mlp not in _FAMILIES:
        fields.refuse("mlp_class_name", " or ".join(_FAMILIES))
    is_llama = mlp == "LLaMAMLP"
    fields.check("norm_class_name", fields.get("norm_class_name"), _FAMILIES[mlp][1])
    if model := next((m for m in ("Gemma", "OLMo") if m in str(fields.get("name"))), None):
        fields.refuse("name", f"another name: litgpt norms differently for {model}")
    sizes = _sizes(fields, is_llama=is_llama)
    fields.check("attn_bias", fields.get("attn_bias") or fields.get("bias"), fields.get("bias"))
    scalar = fields.get("attention_scores_scalar")
    fields.check("attention_scores_scalar", scalar or sizes["head_size"], sizes["head_size"])
    if is_llama:
        fields.check("parallel_residual", fields.get("parallel_residual"), False)
    gelu = fields.get("gelu_approximate")
    if gelu not in ("none", "tanh"):
        fields.refuse("gelu_approximate", "none or tanh")
    return LitConfig(
        **sizes,
        bias=fields.typed("bias", bool),
        norm_eps=fields.typed("norm_eps", float),
        parallel_residual=fields.typed("parallel_residual", bool),
        rope=_rope(fields, sizes["head_size"], is_llama=is_llama),
        activation="gelu" if gelu == "none" else "gelu_pytorch_tanh",
        is_llama=is_llama,
    )


class _Fields:
    """The fields of a file, and what is said about a wrong one."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values, self._path = values, path

    def get(self, name: str) -> Any:
        return self.values.get(name, _DEFAULTS[name])

    def wrong(self, name: str, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}: {name} is {clipped_repr(self.values.get(name))}; expected {expected}; "
            "only litgpt's Llama and GPT-NeoX models are converted (litgpt convert_from_litgpt "
            "writes others for transformers)"
        )

    def refuse(self, name: str, expected: str) -> None:
        raise self.wrong(name, expected)

    def check(self, name: str, value: Any, expected: Any) -> None:
        if value != expected or isinstance(value, bool) != isinstance(expected, bool):
            self.refuse(name, repr(expected))

    def typed(self, name: str, kind: type) -> Any:
        value = self.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (isinstance(value, kind) or (kind is float and number)):
            self.refuse(name, f"a {kind.__name__}")
        return value


def _sizes(fields: _Fields, *, is_llama: bool) -> dict[str, int]:
    """The sizes; those that litgpt derives from others if they are absent too."""
    stated = {name: value for name, value in fields.values.items() if value is not None}
    if "n_embd" in stated and "n_head" in stated and isinstance(stated["n_head"], int):
        width, heads = stated["n_embd"], stated["n_head"]
        stated.setdefault("n_query_groups", heads)
        if isinstance(width, int) and heads > 0:
            stated.setdefault("head_size", width // heads)
            if not is_llama:
                stated.setdefault("intermediate_size", 4 * width)
    for name in _SIZES:
        value = stated.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            fields.refuse(name, "a positive number")
    sizes = {name: stated[name] for name in _SIZES}
    if sizes["n_head"] % sizes["n_query_groups"]:
        fields.refuse("n_query_groups", f"a divisor of n_head, {sizes['n_head']}")
    if not is_llama:
        fields.check("n_query_groups", sizes["n_query_groups"], sizes["n_head"])
        fields.check("head_size", sizes["head_size"], sizes["n_embd"] // sizes["n_head"])
    return sizes


def _rope(fields: _Fields, head_size: int, *, is_llama: bool) -> dict[str, Any]:
    """`rope_parameters` of transformers."""
    rope = {"rope_type": "default", "rope_theta": float(fields.typed("rope_base", float))}
    share = fields.typed("rotary_percentage", float)
    if not 0 < share <= 1 or not int(share * head_size) or int(share * head_size) % 2:
        fields.refuse("rotary_percentage", "an even share of the head size, at most 1")
    if not is_llama:
        for name in ("rope_condense_ratio", "rope_adjustments"):
            fields.check(name, fields.get(name), _DEFAULTS[name])
        return {**rope, "partial_rotary_factor": share}
    if int(share * head_size) != head_size:
        fields.refuse("rotary_percentage", "1.0")
    return {**rope, **_scaling(fields)}


def _scaling(fields: _Fields) -> dict[str, Any]:
    """The change of the rotations for longer texts, in the names of transformers."""
    ratio = fields.typed("rope_condense_ratio", float)
    stated = fields.get("rope_adjustments")
    if ratio != 1:
        fields.check("rope_adjustments", stated, None)
        stated = {"factor": ratio}
    if stated is None:
        return {}
    names = set(stated) if isinstance(stated, dict) else set()
    if names in ({"factor"}, set(_LLAMA3_SCALING)):
        numbers = {n: float(v) for n, v in stated.items() if isinstance(v, int | float)}
        if numbers.keys() == {"factor"}:
            return {"rope_type": "linear", **numbers}
        if numbers.keys() == names:
            scaling = {theirs: numbers[ours] for ours, theirs in _LLAMA3_SCALING.items()}
            length = "original_max_position_embeddings"
            return {"rope_type": "llama3", **scaling, length: int(scaling[length])}
    raise fields.wrong("rope_adjustments", f"only factor, or all of {', '.join(_LLAMA3_SCALING)}")


def _yaml(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file, read without building objects."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_YAML_BYTES + 1)
        if len(text) > _MAX_YAML_BYTES or text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
            raise ValueError("it is far larger than the config of a litgpt model")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it has aliases, which litgpt does not write")
        values = yaml.safe_load(text)
    except OSError as error:
        raise unreadable(path, error) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not YAML ({short_reason(error)})") from error
    if not isinstance(values, dict) or not values:
        raise CheckpointError(f"{path} holds no fields; expected the config of a litgpt model")
    return {str(name): value for name, value in values.items()}
