"""Tiny configs of every model type.

A config gets small sizes where it has the usual names (`SIZES`); `CHANGES` holds what is specific
to a type.
"""

from collections.abc import Mapping
from typing import Any

Changes = Mapping[str, Any]

CONTEXT = 256  # positions of most tiny models
WINDOW = 16  # tokens that a sliding window sees
HIDDEN, LAYERS, HEADS, HEAD_DIM, INNER, EXPERTS = 32, 2, 4, 8, 48, 4

SIZES: Changes = {
    "hidden_size": HIDDEN, "d_model": HIDDEN, "n_embd": HIDDEN, "emb_dim": HIDDEN,
    "word_embed_proj_dim": HIDDEN, "embedding_size": HIDDEN, "lru_width": HIDDEN,
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "n_layers": LAYERS, "num_layers": LAYERS,
    "decoder_layers": LAYERS, "encoder_layers": LAYERS, "num_decoder_layers": LAYERS,
    "num_encoder_layers": LAYERS,
    "num_attention_heads": HEADS, "n_head": HEADS, "n_heads": HEADS, "num_heads": HEADS,
    "attention_heads": HEADS, "decoder_attention_heads": HEADS, "encoder_attention_heads": HEADS,
    "num_encoder_attention_heads": HEADS, "num_decoder_attention_heads": HEADS,
    "num_key_value_heads": 2, "swa_num_attention_heads": HEADS, "swa_num_key_value_heads": 2,
    "head_dim": HEAD_DIM, "swa_head_dim": HEAD_DIM, "rotary_dim": 4,
    "intermediate_size": INNER, "dff": INNER, "ffn_dim": INNER, "decoder_ffn_dim": INNER,
    "encoder_ffn_dim": INNER, "ffn_hidden_size": INNER, "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24, "dense_intermediate_size": INNER,
    "shared_intermediate_size": 24,
    "num_experts": EXPERTS, "num_local_experts": EXPERTS, "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "n_group": 1, "topk_group": 1,
    "num_expert_group": 1, "n_shared_experts": 1, "num_nextn_predict_layers": 0,
    "kv_lora_rank": 8, "q_lora_rank": 12, "o_lora_rank": 8, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8,
    "index_n_heads": 2, "index_head_dim": 16,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_head_dim": 8, "linear_num_heads": 4,
    "state_size": 4, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8,
    "mamba_chunk_size": 8, "chunk_size": 8,
    "sliding_window": WINDOW, "sliding_window_size": WINDOW,
    "max_position_embeddings": CONTEXT, "n_positions": CONTEXT, "n_ctx": CONTEXT,
    "max_seq_len": CONTEXT, "model_max_length": CONTEXT, "context_length": CONTEXT,
    "max_target_positions": CONTEXT,
    "initializer_range": 0.3, "init_std": 0.3, "embed_init_std": 0.3,
    "embedding_initializer_range": 0.3,
    "is_decoder": True,
}  # fmt: skip

# The vision and audio halves of models that take more than text; nothing here sees a picture.
OTHER_HALVES: Changes = {
    "hidden_size": 16, "num_hidden_layers": 1, "depth": 1, "num_attention_heads": 2,
    "attention_heads": 2, "num_heads": 2, "intermediate_size": 16, "image_size": 32,
    "out_hidden_size": HIDDEN, "num_position_embeddings": 16, "num_global_layers": 1,
    "vision_output_dim": 32, "projector_input_dim": 16, "projector_output_dim": 16,
    "intermediate_layers_indices": [0], "base_channels": 32, "codebook_size": 32,
}  # fmt: skip

ALL_HEADS: Changes = {"num_key_value_heads": HEADS}  # latent attention has keys for every head
MIXED: Changes = {"layer_types": ["sliding_attention", "full_attention"]}
LINEAR: Changes = {"layer_types": ["linear_attention", "full_attention"]}
DENSE_SPARSE: Changes = {"mlp_layer_types": ["dense", "sparse"]}
ENCODER_IDS: Changes = {"pad_token_id": 1}  # positions are counted from the padding token on

CHANGES: Mapping[str, Changes] = {
    "afmoe": {**MIXED, "num_dense_layers": 1},
    "axk1": {**ALL_HEADS, **DENSE_SPARSE},
    "axk2": {**ALL_HEADS, **DENSE_SPARSE, "index_topk": CONTEXT},
    "bailing_hybrid": {**ALL_HEADS, **LINEAR, **DENSE_SPARSE},
    "bamba": {"attn_layer_indices": [1]},
    "beam": {**MIXED, **DENSE_SPARSE},
    "biogpt": {"pad_token_id": 1},
    "codegen": {"n_head": 4, "rotary_dim": 4},
    "cohere": {"logit_scale": 0.8333},
    "cohere2": {**MIXED, "logit_scale": 0.8333},
    "cohere2_moe": {**MIXED, "logit_scale": 0.8333},
    "cohere_compass_text": {
        **MIXED, "logit_scale": 0.8333,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "cpmant": {"dim_head": 8, "dim_ff": INNER, "init_std": 0.3},
    "cwm": MIXED,
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        "ffn_config": {
            "hidden_size": HIDDEN, "ffn_hidden_size": INNER, "moe_num_experts": EXPERTS,
            "moe_top_k": 2,
        },
    },
    "deepseek_v2": {**ALL_HEADS, "first_k_dense_replace": 1},
    "deepseek_v3": {**ALL_HEADS, "first_k_dense_replace": 1},
    "deepseek_v32": {**ALL_HEADS, "index_topk": CONTEXT, **DENSE_SPARSE},
    "deepseek_v4": {
        "num_key_value_heads": 1, "index_topk": CONTEXT, "o_groups": 2,
        "layer_types": ["heavily_compressed_attention", "compressed_sparse_attention"],
        "mlp_layer_types": ["hash_moe", "moe"],
    },
    "doge": {"keep_window_size": CONTEXT, "sliding_window": None},
    "dots1": {**MIXED, **ALL_HEADS, "n_routed_experts": EXPERTS, "num_experts_per_tok": 2},
    "dots3_note_text": {
        **ALL_HEADS, **DENSE_SPARSE, "index_topk": CONTEXT, "head_dim": 16,
        "layer_types": ["indexed_attention", "sliding_attention"],
        "per_layer_config": {
            "01": {
                **ALL_HEADS, "num_attention_heads": HEADS, "head_dim": 16, "v_head_dim": 8,
                "kv_lora_rank": 8, "q_lora_rank": 12, "qk_nope_head_dim": 8,
                "qk_rope_head_dim": 8,
            },
        },
    },
    "electra": {"embedding_size": 16},
    "exaone4": MIXED,
    "exaone_moe": {**MIXED, **DENSE_SPARSE},
    "falcon": {"new_decoder_architecture": False, "multi_query": True},
    "falcon_h1": {"mamba_d_ssm": 64},
    "flint": MIXED,
    "gemma2": {**MIXED, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0},
    "gemma3_text": {**MIXED, "query_pre_attn_scalar": 8},
    "gemma3n_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2, "num_hidden_layers": 4,
        "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "laurel_rank": 4,
        "intermediate_size": [INNER] * 4, "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0],
        "vocab_size_per_layer_input": 263,
    },
    "gemma4_text": {
        **MIXED, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 263,
        "per_layer_config": {"01": {"head_dim": 16}},
    },
    "gemma4_unified_text": {**MIXED, "per_layer_config": {"01": {"head_dim": 16}}},
    "glm4_moe": {"first_k_dense_replace": 1},
    "glm4_moe_lite": {**ALL_HEADS, **DENSE_SPARSE},
    "glm_moe_dsa": {**ALL_HEADS, "index_topk": CONTEXT, **DENSE_SPARSE},
    "gpt_bigcode": {"multi_query": True},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "gpt_oss": MIXED,
    "granite": {
        "logits_scaling": 1.25, "embedding_multiplier": 2.0, "residual_multiplier": 0.8,
        "attention_multiplier": 0.3,
    },
    "granite_swa": MIXED,
    "granitemoe": {"logits_scaling": 1.25},
    "granitemoe_swa": MIXED,
    "granitemoehybrid": {**LINEAR, "logits_scaling": 1.25},
    "granitemoeshared": {"logits_scaling": 1.25},
    "hy_v3": {**DENSE_SPARSE, "num_shared_experts": 1},
    "hy_v4": {
        **ALL_HEADS, **DENSE_SPARSE, "index_topk": CONTEXT, "hc_mult": 2,
        "layer_types": ["indexed_attention"] * 2, "indexer_types": ["full", "shared"],
    },
    "inkling_text": {
        "d_rel": 4, "rel_extent": 32, "mlp_layer_types": ["dense", "sparse"],
        "logits_mup_width_multiplier": 1.25,
    },
    "inkling2_text": {"d_rel": 4, "rel_extent": 32, "unpadded_vocab_size": 263},
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "jetmoe": {"kv_channels": 8},
    "kimi_linear": {**ALL_HEADS, **LINEAR, **DENSE_SPARSE, "q_lora_rank": None},
    "laguna": {
        **MIXED, **DENSE_SPARSE, "num_attention_heads_per_layer": [4, 4],
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {
        "layer_types": ["conv", "full_attention", "sliding_attention"], "num_hidden_layers": 3,
    },
    "llama4_text": {
        "intermediate_size_mlp": INNER, "attention_chunk_size": WINDOW,
        "no_rope_layers": [1, 0], "layer_types": ["chunked_attention", "full_attention"],
        "moe_layers": [1],
    },
    "longcat_flash": {
        **ALL_HEADS, "moe_topk": 2, "zero_expert_num": 2, "expert_ffn_hidden_size": 24,
    },
    "mamba": {"use_mambapy": False},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "mellum": {**MIXED, "mlp_layer_types": ["sparse", "sparse"]},
    "mimo_v2_flash": {**MIXED, **DENSE_SPARSE, "v_head_dim": 8, "head_dim": 8},
    "minicpm3": {**ALL_HEADS, "scale_emb": 2, "dim_model_base": 16},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    "minimax_m3_vl_text": {**DENSE_SPARSE, "rotary_dim": 4},
    "modernbert-decoder": {"layer_types": ["full_attention", "sliding_attention"],
                           "local_attention": WINDOW, "pad_token_id": 0},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
        "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 8,
        "moe_shared_expert_intermediate_size": 24, "num_hidden_layers": None,
    },
    "olmo3": MIXED,
    "olmo_hybrid": {**LINEAR, "linear_num_value_heads": 2},
    "phi3": {"sliding_window": None},
    "qwen3_5_moe_text": LINEAR,
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR,
    "qwen4_exp_text": {
        **LINEAR, "hc_count": 2, "hc_lowrank": 8, "indexer_n_heads": 2, "indexer_kv_heads": 1,
        "indexer_head_dim": 16, "indexer_budget": CONTEXT, "indexer_compress_ratio": 1,
    },
    "recurrent_gemma": {
        "num_hidden_layers": 3, "attention_window_size": WINDOW, "num_key_value_heads": 1,
        "w_init_variance_scale": 1.0, "final_w_init_variance_scale": 1.0,
    },
    "reformer": {
        "attn_layers": ["local", "lsh"], "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [16, 16], "attention_head_size": 8, "feed_forward_size": INNER,
        "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16, "num_buckets": 4,
    },
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 24},
    "roc_bert": {
        "pronunciation_embed_dim": 8, "shape_embed_dim": 8, "pronunciation_vocab_size": 300,
        "shape_vocab_size": 300,
    },
    "rwkv": {"attention_hidden_size": HIDDEN},
    "smollm3": {"no_rope_layers": [1, 0]},
    "stablelm": {"use_qkv_bias": True, "qk_layernorm": True},
    "trocr": {},
    "vaultgemma": {**MIXED, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0},
    "xlnet": {"d_inner": INNER, "d_head": 8},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128, "num_blocks": LAYERS, "mode": "inference",
              "ffn_round_up_to_multiple_of": 8},
    "xmod": {"default_language": "en_XX", **ENCODER_IDS},
    "youtu": ALL_HEADS,
    "zamba": {
        "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64, "attention_head_dim": 16, "mamba_dt_rank": 4,
        "use_mamba_kernels": False, "num_key_value_heads": HEADS,
    },
    "zamba2": {
        "num_hidden_layers": 3, "hybrid_layer_ids": [1],
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention"],
        "attention_hidden_size": 64, "attention_head_dim": 16, "mamba_headdim": 8,
        "use_mamba_kernels": False, "num_key_value_heads": HEADS, "kv_channels": 8,
        "num_query_groups": 4, "adapter_rank": 4,
    },
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid"] * 2, "router_hidden_size": 16},
    **dict.fromkeys(
        ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta",
         "xlm-roberta-xl"),
        ENCODER_IDS,
    ),
}  # fmt: skip


def _with_pictures(text: str, **changes: Any) -> Changes:
    """Of a model whose text half is of type `text`."""
    return {"text_config": {**CHANGES.get(text, {}), **changes}, "vision_config": {}}


COMPOSITE: Mapping[str, Changes] = {
    "gemma3": _with_pictures("gemma3_text"),
    "gemma4": {"text_config": CHANGES["gemma4_text"]},
    "gemma4_unified": {"text_config": CHANGES["gemma4_unified_text"]},
    "llama4": _with_pictures("llama4_text"),
    "qwen3_5": _with_pictures("qwen3_5_text"),
    "qwen3_5_moe": _with_pictures("qwen3_5_moe_text"),
    "git": {"vision_config": {}},
    "fuyu": {"text_config": {}},
}
