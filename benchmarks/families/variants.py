"""Rows of the table beyond one per model type: other windows, scaled positions, stored weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.families.configs import CONTEXT, WINDOW, Changes


@dataclass(frozen=True)
class Family:
    """One row of the table: a tiny checkpoint and how it is loaded.

    Attributes:
        name: of the row.
        type: as the config's `model_type`.
        changes: to the type's config.
        stored: the dtype in which its weights are saved.
        context: as `--context`; None for what the config says.
    """

    name: str
    type: str
    changes: Changes = field(default_factory=dict)
    stored: str = "float32"
    context: int | None = None


def _rope(kind: str, **values: Any) -> Changes:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


_LLAMA3: Changes = _rope(
    "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)  # fmt: skip
_LONGROPE: Changes = {
    **_rope("longrope", short_factor=[1.0] * 4, long_factor=[1.0, 2.0, 3.0, 8.0], factor=4.0),
    "original_max_position_embeddings": 64, "sliding_window": None,
}  # fmt: skip

VARIANTS = (
    Family("gpt2-by-layer", "gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    Family("gpt2-untied", "gpt2", {"tie_word_embeddings": False}),
    Family("gpt_neo-short", "gpt_neo", {"window_size": 160}, context=128),
    Family("gpt_neox-sequential", "gpt_neox", {"use_parallel_residual": False}),
    Family("gpt_bigcode-mha", "gpt_bigcode", {"multi_query": False}),
    Family("opt-350m", "opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    Family("falcon-alibi", "falcon", {"alibi": True}),
    Family("falcon-grouped", "falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    Family("llama-linear", "llama", _rope("linear", factor=4.0)),
    Family("llama-dynamic", "llama", _rope("dynamic", factor=2.0)),
    Family("llama-yarn", "llama",
           _rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    Family("llama-llama3", "llama", _LLAMA3),
    Family("llama-bfloat16", "llama", stored="bfloat16"),
    Family("llama-float16", "llama", stored="float16"),
    Family("llama-padded", "llama", {"vocab_size": 320}),
    Family("llama-biased", "llama",
           {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    Family("mistral-wide", "mistral", {"sliding_window": 4096}),
    Family("mistral-full", "mistral", {"sliding_window": None}),
    Family("mistral-equal", "mistral", {"sliding_window": CONTEXT}),
    Family("mistral-w255", "mistral", {"sliding_window": CONTEXT - 1}),
    Family("mixtral-w16", "mixtral", {"sliding_window": WINDOW}),
    Family("qwen2-w16", "qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    Family("gemma2-wide", "gemma2", {"sliding_window": 4096}),
    Family("gemma2-uncapped", "gemma2",
           {"final_logit_softcapping": None, "attn_logit_softcapping": None}),
    Family("gemma3-equal", "gemma3_text", {"sliding_window": CONTEXT}),
    Family("gemma3n-wide", "gemma3n_text", {"sliding_window": 4096}),
    Family("gemma4-wide", "gemma4_text", {"sliding_window": 4096}),
    Family("phi3-w16", "phi3", {"sliding_window": WINDOW}),
    Family("phi3-longrope", "phi3", _LONGROPE),
    Family("starcoder2-wide", "starcoder2", {"sliding_window": 4096}),
    Family("stablelm-parallel", "stablelm", {"use_parallel_residual": True}),
    Family("cohere-faint", "cohere", {"logit_scale": 0.0625}),
    Family("llama4-wide", "llama4_text", {"attention_chunk_size": 8192}),
    Family("deepseek_v32-top16", "deepseek_v32", {"index_topk": 16}),
    Family("glm_moe_dsa-top16", "glm_moe_dsa", {"index_topk": 16}),
    Family("doge-keep16", "doge", {"keep_window_size": 16}),
    Family("whisper-64", "whisper", {"max_target_positions": 64}),
    Family("mpt-64", "mpt", {"max_seq_len": 64}),
    Family("exaone4-wide", "exaone4", {"sliding_window": 4096}),
    Family("olmo3-wide", "olmo3", {"sliding_window": 4096}),
)  # fmt: skip

# Types that need more than text, or that a tiny model of cannot be made here, and why.
LEFT_OUT: Mapping[str, str] = {
    "gemma4_assistant": "a drafter that reads another model's states",
    "gemma4_unified_assistant": "a drafter that reads another model's states",
    "gemma3n": "its image half needs timm",
    "blt": "its tokens are bytes and patches of its own",
    "dots3_note": "made by hand as dots3_note_text",
    "emu3": "its text half alone is not a type of its own",
    "got_ocr2": "reads pages only",
    "mllama": "its text half alone is not a type of its own",
    "moss_transcribe_diarize": "reads speech only",
    "musicgen": "writes sound",
    "musicgen_melody": "writes sound",
    "phi4_multimodal": "its image and audio halves have no small sizes",
    "qwen4_exp": "made by hand as qwen4_exp_text",
    "xlm": "transformers 5 has it as an encoder only",
}
