"""Folders of litgpt, DCP folders and bare state dicts, held to transformers and to plain loops.

The layouts are written here by index, one row at a time, and not by the functions that read them.
litgpt's own model gave the same log-probabilities when this was written (Llama: equal bit by bit;
GPT-NeoX: within 8e-6).
"""

import json
import pickle
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from conftest import byte_tokenizer, save_tiny
from console import harness, refused
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from transformers import (
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from harness.engine.checkpoint.formats.litgpt.config import read_lit_config
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError

State = dict[str, torch.Tensor]
VOCABULARY = len(byte_tokenizer())
IDS = torch.arange(120).reshape(2, 60) * 7 % VOCABULARY


def random_model(config: Any, kind: type[PreTrainedModel]) -> Any:
    """A model whose weights, norms and biases are all random."""
    torch.manual_seed(0)
    model = kind(config).eval()
    for name, value in model.named_parameters():
        torch.nn.init.normal_(value, 1.0 if "norm" in name and "weight" in name else 0.0, 0.2)
    return model


def llama(**changes: Any) -> Any:
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80,
        "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 96, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    return random_model(LlamaConfig(**{**sizes, **changes}), LlamaForCausalLM)


def neox(**changes: Any) -> Any:
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 100,
        "num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 96,
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    return random_model(GPTNeoXConfig(**{**sizes, **changes}), GPTNeoXForCausalLM)


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def cpu(**changes: Any) -> Settings:
    return Settings(device="cpu", **changes)


def logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.log_softmax(model(IDS).logits.double(), -1)


def assert_same(checkpoint: Checkpoint, expected: torch.Tensor) -> None:
    found = logprobs(checkpoint.model)
    assert (found - expected).abs().max() < 1e-5
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


# --- litgpt ---------------------------------------------------------------------------------------


def lit_config(**changes: Any) -> dict[str, Any]:
    """The fields of litgpt's config for the models above."""
    fields = {
        "name": "tiny", "hf_config": {}, "block_size": 96, "n_layer": 2, "n_embd": 48,
        "vocab_size": VOCABULARY, "padded_vocab_size": VOCABULARY, "padding_multiple": 64,
        "norm_eps": 1e-6, "rope_base": 10000, "rope_adjustments": None, "n_expert": 0,
        "sliding_window_size": None, "norm_1": True, "lm_head_bias": False,
    }  # fmt: skip
    return {**fields, **changes}


LLAMA = lit_config(
    norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", parallel_residual=False, bias=False,
    n_head=6, n_query_groups=2, head_size=8, intermediate_size=80, rotary_percentage=1.0,
)  # fmt: skip
NEOX = lit_config(
    norm_class_name="LayerNorm", mlp_class_name="GptNeoxMLP", parallel_residual=True, bias=True,
    n_head=3, n_query_groups=3, head_size=16, intermediate_size=100, rotary_percentage=0.25,
    norm_eps=1e-5, gelu_approximate="none",
)  # fmt: skip


def as_litgpt_llama(state: State, *, old: bool = False, heads: int = 6, groups: int = 2) -> State:
    """A Llama under litgpt's names; `old`: of 2023, with the rows of each group together."""
    names = {
        "input_layernorm": "norm_1", "post_attention_layernorm": "norm_2",
        "self_attn.o_proj": "attn.proj", "mlp.gate_proj": "mlp.fc_1", "mlp.up_proj": "mlp.fc_2",
        "mlp.down_proj": "mlp.proj", "model.embed_tokens": "transformer.wte",
        "model.norm": "transformer.ln_f", "lm_head": "lm_head",
    }  # fmt: skip
    found: State = {}
    for name, value in state.items():
        part, _, kind = name.rpartition(".")
        prefix = ""
        if part.startswith("model.layers."):
            _, _, layer, part = part.split(".", 3)
            prefix = f"transformer.h.{layer}."
        if part in names:
            found[f"{prefix}{names[part]}.{kind}"] = value
        elif part == "self_attn.q_proj":
            whole = [name.replace("q_proj", f"{letter}_proj") for letter in "qkv"]
            q, k, v = (state[one].unflatten(0, (-1, 8)) for one in whole)  # (heads, 8, ...)
            rows = [*q, *k, *v]
            if old:
                per = heads // groups
                rows = [
                    row for g in range(groups) for row in (*q[g * per : g * per + per], k[g], v[g])
                ]
            found[f"{prefix}attn.{'attn' if old else 'qkv'}.{kind}"] = torch.cat(rows)
    return found


def as_litgpt_neox(state: State, heads: int = 3) -> State:
    """A GPT-NeoX under litgpt's names."""
    names = {
        "input_layernorm": "norm_1", "post_attention_layernorm": "norm_2",
        "attention.dense": "attn.proj", "mlp.dense_h_to_4h": "mlp.fc",
        "mlp.dense_4h_to_h": "mlp.proj", "gpt_neox.embed_in": "transformer.wte",
        "gpt_neox.final_layer_norm": "transformer.ln_f", "lm_head": "lm_head",
        "attention.query_key_value": "attn.qkv",
    }  # fmt: skip
    found: State = {}
    for name, value in state.items():
        part, _, kind = name.rpartition(".")
        prefix = ""
        if part.startswith("gpt_neox.layers."):
            _, _, layer, part = part.split(".", 3)
            prefix = f"transformer.h.{layer}."
        if part == "attention.query_key_value":
            size = len(value) // heads // 3
            order = [
                (head * 3 + which) * size + row
                for which in range(3)
                for head in range(heads)
                for row in range(size)
            ]
            value = value[order]
        found[f"{prefix}{names[part]}.{kind}"] = value
    return found


def write_litgpt(folder: Path, state: object, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "lit_model.pth")
    (folder / "model_config.yaml").write_text(yaml.dump(config))
    byte_tokenizer().save_pretrained(folder)
    return folder


SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMAS = {
    "plain": ({}, {}),
    "Llama 3.1": (
        {"rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, **SCALING,
            "original_max_position_embeddings": 32,
        }},
        {"rope_base": 500000, "rope_adjustments": {**SCALING, "original_max_seq_len": 32}},
    ),
    "linear": (
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
        {"rope_condense_ratio": 4},
    ),
    "biases": ({"attention_bias": True, "mlp_bias": True}, {"bias": True}),
    "tied": ({"tie_word_embeddings": True}, {}),
}  # fmt: skip
NEOXES = {
    "parallel": ({}, {}),
    "in sequence": ({"use_parallel_residual": False}, {"parallel_residual": False}),
    "half rotated, tanh": (
        {"rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
        }, "hidden_act": "gelu_pytorch_tanh"},
        {"rotary_percentage": 0.5, "gelu_approximate": "tanh"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LLAMAS)
def test_litgpt_llama(case: str, tmp_path: Path) -> None:
    theirs, ours = LLAMAS[case]
    model = llama(**theirs)
    folder = write_litgpt(tmp_path / "lit", as_litgpt_llama(model.state_dict()), {**LLAMA, **ours})
    found = load(str(folder), cpu())
    assert_same(found, logprobs(model))
    if case in ("plain", "tied"):
        plain = load(str(saved(model, tmp_path / "hf")), cpu())
        assert found.identity.digest == plain.identity.digest
        assert found.identity.tokenizer == plain.identity.tokenizer


@pytest.mark.parametrize("case", NEOXES)
def test_litgpt_neox(case: str, tmp_path: Path) -> None:
    theirs, ours = NEOXES[case]
    model = neox(**theirs)
    folder = write_litgpt(tmp_path / "lit", as_litgpt_neox(model.state_dict()), {**NEOX, **ours})
    found = load(str(folder), cpu())
    assert_same(found, logprobs(model))
    if case == "parallel":
        plain = load(str(saved(model, tmp_path / "hf")), cpu())
        assert found.identity.digest == plain.identity.digest


def test_litgpt_neox_without_biases(tmp_path: Path) -> None:
    """transformers has biases in the MLP always; they are zero."""
    model = neox(attention_bias=False)
    for name, value in model.named_parameters():
        if "mlp" in name and name.endswith("bias"):
            torch.nn.init.zeros_(value)
    state = as_litgpt_neox(model.state_dict())
    state = {k: v for k, v in state.items() if not (k.endswith("bias") and ".mlp." in k)}
    folder = write_litgpt(tmp_path / "lit", state, {**NEOX, "bias": False})
    assert_same(load(str(folder), cpu()), logprobs(model))


def test_litgpt_old_names_and_wrappers(tmp_path: Path) -> None:
    """`attn.attn` of 2023, the file of `litgpt pretrain`, and prefixes: the same checkpoint."""
    model = llama()
    new = write_litgpt(tmp_path / "new", as_litgpt_llama(model.state_dict()), LLAMA)
    state = as_litgpt_llama(model.state_dict(), old=True)
    assert any(".attn.attn." in name for name in state)
    content = {
        "model": {f"_forward_module._orig_mod.{name}": value for name, value in state.items()},
        "optimizer": {"state": {}, "param_groups": []},
        "step_count": 1000,
    }
    old = locate(str(write_litgpt(tmp_path / "old", content, LLAMA)), cpu())
    assert old.folder == locate(str(new), cpu()).folder
    assert old.step == 1000
    assert locate(str(tmp_path / "old" / "lit_model.pth"), cpu()) == old
    assert_same(load(str(tmp_path / "old"), cpu()), logprobs(model))


def test_litgpt_folder_with_the_config_it_started_from(tmp_path: Path) -> None:
    """`litgpt download` keeps config.json; its special tokens are taken, its weights are not."""
    model = llama(bos_token_id=3, eos_token_id=5)
    folder = write_litgpt(tmp_path / "lit", as_litgpt_llama(model.state_dict()), LLAMA)
    model.config.save_pretrained(folder)
    found = load(str(folder), cpu())
    assert_same(found, logprobs(model))
    assert found.identity.digest == load(str(saved(model, tmp_path / "hf")), cpu()).identity.digest
    assert 5 in found.end_tokens


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("norm_qk", True), ("post_attention_norm", True), ("post_mlp_norm", True),
        ("shared_attention_norm", True), ("sliding_window_size", 64), ("n_expert", 8),
        ("attention_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0),
        ("rope_interleave", True), ("scale_embeddings", True), ("lm_head_bias", True),
        ("norm_1", False), ("norm_2", False), ("latent_attention", {"kv_lora_rank": 4}),
        ("rope_local_base_freq", 10000.0), ("rope_indices", [0, 1]), ("attn_bias", True),
        ("attention_scores_scalar", 16), ("parallel_residual", True), ("rotary_percentage", 0.5),
        ("mlp_class_name", "GemmaMLP"), ("mlp_class_name", "LLaMAMoE"),
        ("norm_class_name", "LayerNorm"), ("name", "CodeGemma-7b-it"), ("bias", "no"),
        ("rope_adjustments", {"factor": 2.0, "beta_fast": 32, "beta_slow": 1}),
        ("rope_adjustments", {"factor": "2"}), ("n_head", 0), ("n_query_groups", 4),
        ("head_size", True), ("norm_eps", "small"), ("padded_vocab_size", None),
        ("a_field_of_2027", 1),
    ],
)  # fmt: skip
def test_litgpt_fields_that_would_change_the_model_are_refused(
    field: str, value: object, tmp_path: Path
) -> None:
    file = tmp_path / "model_config.yaml"
    file.write_text(yaml.dump({**LLAMA, field: value}))
    with pytest.raises(CheckpointError, match=rf"model_config.yaml: {field} is .*; expected") as e:
        read_lit_config(file)
    assert "\n" not in str(e.value)


def test_litgpt_fields_without_effect_are_not_refused(tmp_path: Path) -> None:
    file = tmp_path / "model_config.yaml"
    for base in (LLAMA, NEOX):
        file.write_text(yaml.dump(base))
        plain = asdict(read_lit_config(file))
        more = {
            "n_expert_per_token": 2, "sliding_window_indices": [1, 0], "vocab_size": 9,
            "norm_qk_type": "olmo2", "routed_scaling_factor": 2.5, "of_2027": None,
        }  # fmt: skip
        file.write_text(yaml.dump({**base, **more}))
        assert asdict(read_lit_config(file)) == plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
        ("a: &a [1]\nb: [*a, *a]", "aliases"),
        ("{", "is not YAML"),
        ("", "holds no fields"),
        ("- 1", "holds no fields"),
        ("[" * 10_000, "is not YAML"),
    ],
)
def test_litgpt_config_that_cannot_be_read(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=words):
        read_lit_config(tmp_path / "model_config.yaml")
    assert not (tmp_path / "ran").exists()


# --- DCP ------------------------------------------------------------------------------------------


def meta_llama(config: Any, fused: bool = False) -> State:
    """Random weights of a Llama under Meta's names; `fused`: those of torchtitan since 2026."""
    torch.manual_seed(3)
    c, inner = config, "qkv_linear." if fused else ""
    keys = c.num_key_value_heads * c.head_dim
    shapes = {
        "tok_embeddings": (c.vocab_size, c.hidden_size), "norm": (c.hidden_size,),
        "lm_head" if fused else "output": (c.vocab_size, c.hidden_size),
    }  # fmt: skip
    for layer in range(c.num_hidden_layers):
        for name, shape in {
            f"attention.{inner}wq": (c.num_attention_heads * c.head_dim, c.hidden_size),
            f"attention.{inner}wk": (keys, c.hidden_size),
            f"attention.{inner}wv": (keys, c.hidden_size),
            "attention.wo": (c.hidden_size, c.num_attention_heads * c.head_dim),
            "feed_forward.w1": (c.intermediate_size, c.hidden_size),
            "feed_forward.w2": (c.hidden_size, c.intermediate_size),
            "feed_forward.w3": (c.intermediate_size, c.hidden_size),
            "attention_norm": (c.hidden_size,),
            "ffn_norm": (c.hidden_size,),
        }.items():
            shapes[f"layers.{layer}.{name}"] = shape
    return {
        f"{name}.weight": torch.randn(shape) * 0.15 + (len(shape) == 1)
        for name, shape in shapes.items()
    }


def meta_forward(state: State, config: Any) -> torch.Tensor:
    """Log-probabilities of Meta's Llama: neighbouring dimensions are one complex number."""
    c, size = config, config.head_dim
    get = {name.replace("qkv_linear.", ""): value.double() for name, value in state.items()}
    time = torch.arange(IDS.shape[1], dtype=torch.float64)
    angles = torch.outer(time, 10000.0 ** -(torch.arange(0, size, 2, dtype=torch.float64) / size))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]  # (T, 1, size / 2)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps).sqrt() * get[f"{name}.weight"]

    def heads(x: torch.Tensor, weight: str, rotated: bool) -> torch.Tensor:
        y = (x @ get[f"{weight}.weight"].T).unflatten(-1, (-1, size))  # (B, T, heads, size)
        if not rotated:
            return y
        pairs = torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turn).flatten(-2)

    x = get["tok_embeddings.weight"][IDS]
    future = torch.full((IDS.shape[1],) * 2, -torch.inf, dtype=torch.float64).triu(1)
    for layer in range(c.num_hidden_layers):
        at = f"layers.{layer}"
        y = norm(x, f"{at}.attention_norm")
        q = heads(y, f"{at}.attention.wq", True)
        k, v = (heads(y, f"{at}.attention.{w}", w == "wk") for w in ("wk", "wv"))
        groups = q.shape[2] // k.shape[2]
        k, v = (z.repeat_interleave(groups, dim=2) for z in (k, v))
        scores = torch.einsum("bthd,bshd->bhts", q, k) / size**0.5 + future
        mixed = torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v).flatten(2)
        x = x + mixed @ get[f"{at}.attention.wo.weight"].T
        y = norm(x, f"{at}.ffn_norm")
        gate = torch.nn.functional.silu(y @ get[f"{at}.feed_forward.w1.weight"].T)
        x = (
            x
            + (gate * (y @ get[f"{at}.feed_forward.w3.weight"].T))
            @ get[f"{at}.feed_forward.w2.weight"].T
        )
    head = get.get("output.weight", get.get("lm_head.weight", get["tok_embeddings.weight"]))
    return torch.log_softmax(norm(x, "norm") @ head.T, -1)


def training_states(state: State) -> dict[str, Any]:
    """What a training stores beside its model."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    moments = {f"state.{name}.exp_avg": torch.ones_like(value) for name, value in state.items()}
    return {
        "optimizer": moments, "optim": optimizer.state_dict(), "lr_scheduler": {"last_epoch": 4},
        "dataloader": {"rng": torch.ones(5), "rank_0": b"xyz"},
        "train_state": {"step": torch.tensor(4)},
    }  # fmt: skip


def write_dcp(folder: Path, content: dict[str, Any], **how: Any) -> Path:
    writer = dcp.FileSystemWriter(folder, **how)
    dcp.save(content, storage_writer=writer, no_dist=True)
    return folder


@pytest.fixture(scope="module")
def meta() -> tuple[State, Any, torch.Tensor]:
    """A random Llama under Meta's names, its config, and its log-probabilities."""
    config = llama().config
    state = meta_llama(config)
    return state, config, meta_forward(state, config)


@pytest.fixture
def config_file(meta: Any, tmp_path: Path) -> Path:
    """The config of that Llama, with a tokenizer beside it."""
    folder = tmp_path / "config"
    meta[1].save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder / "config.json"


@pytest.mark.filterwarnings("ignore:torch.distributed")
@pytest.mark.parametrize("layout", ["torchtitan", "torchtitan of 2026", "lingua", "compiled"])
def test_dcp_llama(layout: str, meta: Any, config_file: Path, tmp_path: Path) -> None:
    state, config, expected = meta
    if layout == "torchtitan of 2026":
        state = meta_llama(config, fused=True)
        expected = meta_forward(state, config)
    content = {**training_states(state), **state, "freqs_cis": torch.ones(4, dtype=torch.complex64)}
    name, step = "step-500", 500
    if layout == "lingua":
        content = {"model": state, "optim": training_states(state)["optimizer"]}
        name, step = "0000007000", 7000
    if layout == "compiled":
        content = {"app": {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}}}
        name, step = "final", None
    # One file a tensor, as many ranks would write several files.
    folder = write_dcp(tmp_path / name, content, single_file_per_rank=layout == "lingua")
    found = load(str(folder), cpu(config_file=config_file))
    assert_same(found, expected)
    assert found.identity.step == step
    assert found.tokenizer.encode(["the sand"]) == [byte_tokenizer().encode("the sand")]


@pytest.mark.filterwarnings("ignore:torch.distributed")
def test_dcp_without_the_permutation_would_be_another_model(meta: Any) -> None:
    """Otherwise the test above would prove nothing."""
    state, config, expected = meta
    model = llama()
    names = {"wq": "self_attn.q_proj", "wk": "self_attn.k_proj", "wv": "self_attn.v_proj"}
    mine = model.state_dict()
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            mine[f"model.layers.{layer}.{ours}.weight"] = state[
                f"layers.{layer}.attention.{theirs}.weight"
            ]
    model.load_state_dict(mine)
    assert (logprobs(model) - expected).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:torch.distributed")
def test_dcp_tied_llama_of_lingua(config_file: Path, meta: Any, tmp_path: Path) -> None:
    state, config, _ = meta
    state = {name: value for name, value in state.items() if name != "output.weight"}
    expected = meta_forward(state, config)
    fields = json.loads(config_file.read_text())
    config_file.write_text(json.dumps({**fields, "tie_word_embeddings": True}))
    content = {"model": {**state, "output.tied_module.weight": state["tok_embeddings.weight"]}}
    folder = write_dcp(tmp_path / "x", content)
    assert_same(load(str(folder), cpu(config_file=config_file)), expected)


@pytest.mark.filterwarnings("ignore:torch.distributed")
@pytest.mark.parametrize("kind", ["llama", "gpt2 tied"])
def test_dcp_of_transformers_names(kind: str, tmp_path: Path) -> None:
    """As FSDP trainers write it; the digest is that of the saved model."""
    if kind == "llama":
        hf = saved(llama(), tmp_path / "hf")
    else:
        hf = save_tiny(tmp_path / "hf", context=64)
    plain = load(str(hf), cpu())
    model = (LlamaForCausalLM if kind == "llama" else GPT2LMHeadModel).from_pretrained(hf)
    folder = write_dcp(tmp_path / "step-3", {"model": model.state_dict(), "n": 4})
    found = load(str(folder), cpu(config_file=hf / "config.json"))
    assert found.identity.digest == plain.identity.digest
    assert_same(found, logprobs(plain.model))
    # the same with the config in the folder, where people put it for other programs
    shutil.copytree(folder, tmp_path / "x" / "step-3")
    shutil.copy(hf / "config.json", folder)
    byte_tokenizer().save_pretrained(folder)
    again = locate(str(folder), cpu())
    assert again == locate(str(tmp_path / "x" / "step-3"), cpu(config_file=hf / "config.json"))


@pytest.mark.filterwarnings("ignore:torch.distributed")
def test_dcp_tensors_in_several_shards(meta: Any, config_file: Path, tmp_path: Path) -> None:
    """Every matrix is stored as two pieces of rows and two of columns, in files of two ranks."""
    state, _, expected = meta
    folder = write_dcp(tmp_path / "step-1", {"model": state})
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for file in folder.glob("*.distcp"):
        file.unlink()
    for name, value in state.items():
        key, shape = f"model.{name}", value.shape
        stored = metadata.state_dict_metadata[key]
        place = metadata.storage_data.pop(MetadataIndex(key, [0] * len(shape)))
        stored.chunks.clear()
        cuts = [(0, 5), (5, shape[0] - 5)]
        columns = [(0, 3), (3, shape[1] - 3)] if len(shape) == 2 else [()]
        for rank, (start, rows) in enumerate(cuts):
            for column in columns:
                offsets = torch.Size([start, *column[:1]])
                sizes = torch.Size([rows, *column[1:]])
                piece = value[start : start + rows]
                piece = piece.narrow(1, *column) if column else piece
                file = folder / f"__{rank}_0.distcp"
                with file.open("ab") as opened:
                    begin = opened.tell()
                    torch.save(piece.clone(), opened)
                    length = opened.tell() - begin
                stored.chunks.append(ChunkStorageMetadata(offsets, sizes))
                index = MetadataIndex(key, offsets, len(stored.chunks) - 1)
                metadata.storage_data[index] = type(place)(file.name, begin, length)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert_same(load(str(folder), cpu(config_file=config_file)), expected)


@pytest.mark.filterwarnings("ignore:torch.distributed")
def test_dcp_that_cannot_be_read(meta: Any, config_file: Path, tmp_path: Path) -> None:
    state, _, _ = meta
    given = cpu(config_file=config_file)

    def refusal(content: dict[str, Any], settings: Settings = given) -> str:
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        folder = write_dcp(tmp_path / "x", content)
        with pytest.raises(CheckpointError) as error:
            load(str(folder), settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "give its config.json of transformers with --model-config" in refusal(state, cpu())
    assert "has no tensors of a model" in refusal({"optim": training_states(state)["optimizer"]})
    two = {"student": {"a": torch.ones(2)}, "teacher": {"a": torch.ones(2)}}
    assert "several states with tensors: 'student', 'teacher'" in refusal(two)
    lacking = {k: v for k, v in state.items() if k != "layers.1.ffn_norm.weight"}
    assert "'model.layers.1.post_attention_layernorm.weight' is not in" in refusal(lacking)
    more = {**state, "layers.0.attention.q_norm.weight": torch.ones(8)}
    assert "'layers.0.attention.q_norm.weight' is in its files, but not" in refusal(more)
    wrong = {**state, "norm.weight": torch.ones(7)}
    assert (
        "'model.norm.weight' has the shape 7 in its file, but config.json asks for 48"
        in refusal(wrong)
    )
    config_file.write_text(json.dumps({"model_type": "gpt2"}))
    assert "--model-config is of the type 'gpt2'; expected llama" in refusal(state)
    (tmp_path / "x" / ".metadata").unlink()
    with pytest.raises(CheckpointError, match=r"no \.metadata, which is written last"):
        load(str(tmp_path / "x"), given)


# --- bare state dicts -----------------------------------------------------------------------------


def test_state_dict(tmp_path: Path) -> None:
    hf = save_tiny(tmp_path / "hf", context=64)
    plain = load(str(hf), cpu())
    state = GPT2LMHeadModel.from_pretrained(hf).state_dict()
    assert "lm_head.weight" in state, "tied to the embedding, and there twice"
    path, given = tmp_path / "weights.pt", cpu(config_file=hf / "config.json")
    torch.save(state, path)
    found = load(str(path), given)
    assert found.identity.digest == plain.identity.digest
    assert found.identity.tokenizer == plain.identity.tokenizer
    assert_same(found, logprobs(plain.model))
    converted = locate(str(path), given).folder
    wrapped = {f"module._orig_mod.{k}": v for k, v in state.items()}
    inside = [{key: state, "epoch": 3} for key in ("model", "state_dict", "module")]
    for content in (wrapped, *inside, {"model_state_dict": wrapped, "lr": torch.ones(1)}):
        torch.save(content, path)
        assert locate(str(path), given).folder == converted
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "weights.safetensors")
    assert locate(str(tmp_path / "weights.safetensors"), given).folder == converted


@pytest.mark.filterwarnings("ignore:torch.distributed")
def test_state_dict_of_nanogpts_model(tmp_path: Path) -> None:
    """The names of GPT-2, but linear weights (out, in), of which one a layer is square."""
    hf = save_tiny(tmp_path / "hf", context=64)
    state = GPT2LMHeadModel.from_pretrained(hf).state_dict()
    linear = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    turned = {k: v.T.contiguous() if k.endswith(linear) else v for k, v in state.items()}
    turned["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    torch.save(state, tmp_path / "a.pt")
    torch.save({"model": {f"_orig_mod.{k}": v for k, v in turned.items()}}, tmp_path / "b.pt")
    write_dcp(tmp_path / "c", {"model": turned})
    plain = load(str(hf), cpu()).identity.digest
    for name in ("a.pt", "b.pt", "c"):
        found = load(str(tmp_path / name), cpu(config_file=hf / "config.json"))
        assert found.identity.digest == plain


def test_state_dict_with_names_of_saved_models(tmp_path: Path) -> None:
    """GPT-NeoX's head has another name in files of transformers than in memory."""
    model = neox()
    hf = saved(model, tmp_path / "hf")
    with safe_open(hf / "model.safetensors", "pt") as file:
        assert {"embed_out.weight", "lm_head.weight"} & set(file.keys()) == {"embed_out.weight"}
    found = load(str(hf / "model.safetensors"), cpu(config_file=hf / "config.json"))
    assert_same(found, logprobs(model))


def test_state_dict_untied_copies_share_no_memory(tmp_path: Path) -> None:
    """A tied model whose config says that it is not: two tensors of the same bytes."""
    hf = save_tiny(tmp_path / "hf", context=64)
    model = GPT2LMHeadModel.from_pretrained(hf)
    state = model.state_dict()
    fields = {**json.loads((hf / "config.json").read_text()), "tie_word_embeddings": False}
    (hf / "config.json").write_text(json.dumps(fields))
    torch.save(state, tmp_path / "w.pt")
    found = load(str(tmp_path / "w.pt"), cpu(config_file=hf / "config.json"))
    assert_same(found, logprobs(model))
    assert found.identity.parameters == sum(v.numel() for v in state.values())


def test_state_dict_refusals(tmp_path: Path) -> None:
    hf = save_tiny(tmp_path / "hf", context=64)
    model = GPT2LMHeadModel.from_pretrained(hf)
    path, given = tmp_path / "w.pt", cpu(config_file=hf / "config.json")

    def refusal(content: object, settings: Settings = given) -> str:
        torch.save(content, path)
        with pytest.raises(CheckpointError) as error:
            load(str(path), settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    state = model.state_dict()
    assert "is a bare state dict, which does not say how its model is built; give" in refusal(
        state, cpu()
    )
    optimizer = torch.optim.AdamW(model.parameters()).state_dict()
    for content in (optimizer, {"optimizer": optimizer, "epoch": 3}):
        assert "is the state of an optimizer without a model" in refusal(content)
    line = refusal({"loss": 1.0, "epoch": 3})
    assert "is not a checkpoint of a known format (GGUF, nanoGPT, build-nanogpt, llm.c, " in line
    assert "it is a torch file of a dict with 'loss', 'epoch'" in line
    assert "it is a torch file of a list" in refusal([1, 2])
    changed = {**state, "lm_head.weight": state["lm_head.weight"] + 1}
    assert "'lm_head.weight' and 'transformer.wte.weight' differ" in refusal(changed)
    transposed = {k: v.T.contiguous() if "c_fc.weight" in k else v for k, v in state.items()}
    assert "'transformer.h.0.mlp.c_fc.weight' has the shape 128 x 32" in refusal(transposed)


# --- --model-config -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "litgpt", "gguf"])
def test_model_config_is_refused_where_the_checkpoint_has_one(
    kind: str, tiny_folder: Path, tmp_path: Path
) -> None:
    checkpoint = tiny_folder
    if kind == "litgpt":
        checkpoint = write_litgpt(tmp_path / "lit", as_litgpt_llama(llama().state_dict()), LLAMA)
    if kind == "gguf":
        checkpoint = tmp_path / "x.gguf"
        checkpoint.write_bytes(b"GGUF")
    config = tiny_folder / "config.json"
    line = refused("lambada", "--model", checkpoint, "--model-config", config, "--sample")
    assert f"{config}" in line
    assert "leave it out" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("{", "is not JSON"),
        ("[]", "has no model_type None"),
        ('{"model_type": "gpt9"}', "has no model_type 'gpt9'"),
        ('{"model_type": "bert"}', "not in its files"),
        ('{"model_type": "t5"}', "cannot be loaded as a causal"),
        ('{"model_type": "gpt2", "n_layer": 2147483648}', "n_layer is 2147483648"),
        ('{"model_type": "gpt2", "n_embd": 48}', "has the shape"),
    ],
)
def test_model_config_that_is_wrong(content: str | None, words: str, tmp_path: Path) -> None:
    hf = save_tiny(tmp_path / "hf", context=64)
    torch.save(GPT2LMHeadModel.from_pretrained(hf).state_dict(), hf / "w.pt")
    config = tmp_path / "given.json"
    if content is not None:
        config.write_text(content)
    words_ = ["--model", hf / "w.pt", "--model-config", config, "--sample", "--limit", 2]
    line = refused("lambada", *words_, "--out", tmp_path / "out", "--device", "cpu")
    assert words in line


def test_from_the_command_line(tmp_path: Path) -> None:
    folder = write_litgpt(tmp_path / "lit", as_litgpt_llama(llama().state_dict()), LLAMA)
    words = ["--model", folder, "--sample", "--limit", 2, "--out", tmp_path / "out"]
    result = harness("lambada", *words, "--device", "cpu")
    assert result.code == 0, result.err
    assert "a litgpt folder, Llama; converting it, once" in result.err
