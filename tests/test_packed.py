"""Packed linear layers: the same products, and a model that stays as it was where they fail."""

import ctypes
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from harness.engine.cache.response_cache import numerics
from harness.engine.checkpoint import onednn
from harness.engine.checkpoint.load import load
from harness.engine.checkpoint.onednn import Packed, pack, products
from harness.engine.checkpoint.settings import Settings

IDS = torch.tensor([[1, 2, 3, 40, 41], [5, 6, 7, 8, 9]])


@pytest.fixture
def plain(tiny_folder: Path) -> Any:
    return GPT2LMHeadModel.from_pretrained(
        tiny_folder, activation_function="gelu_pytorch_tanh"
    ).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


def layers(model: Any) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, Packed)]


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_product(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    layer = torch.nn.Linear(48, 33, bias=bias)
    states = torch.randn(rows, 48)
    with torch.no_grad():
        torch.testing.assert_close(Packed(layer.weight, layer.bias)(states), layer(states))


def test_gpt2_is_packed_with_its_head_and_gives_its_logits(plain: Any) -> None:
    before = logits(plain)
    size = sum(p.numel() for p in plain.transformer.parameters())
    pack(plain)
    assert len(layers(plain)) == 2 * 4 + 1
    assert [m.then for m in plain.modules() if isinstance(m, Packed)].count("gelu") == 2
    assert sum(p.numel() for p in plain.transformer.parameters()) == size
    torch.testing.assert_close(logits(plain), before, atol=1e-5, rtol=1e-5)


def test_llama_in_bfloat16_is_packed() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    before = logits(model)
    pack(model)
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert len(layers(model)) == 2 * 7 + 1
    torch.testing.assert_close(logits(model), before, atol=0.02, rtol=0.02)


def test_a_layer_that_is_more_than_linear_stays(plain: Any) -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(states)

    head = Doubled(plain.lm_head.in_features, plain.lm_head.out_features, bias=False)
    plain.lm_head = head
    before = logits(plain)
    pack(plain)
    assert plain.lm_head is head
    torch.testing.assert_close(logits(plain), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fault", ["wrong", "raises"])
def test_a_model_whose_packed_layers_fail_is_given_back_bit_by_bit(
    plain: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def forward(self: Packed, states: torch.Tensor) -> torch.Tensor:
        if fault == "raises":
            raise RuntimeError("no such primitive")
        return states.new_zeros(*states.shape[:-1], self.weight.shape[0])

    before = logits(plain)
    monkeypatch.setattr(Packed, "forward", forward)
    pack(plain)
    assert layers(plain) == []
    assert torch.equal(logits(plain), before)


def test_without_onednn_nothing_is_packed(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn.torch.backends.mkldnn, "is_available", lambda: False)
    pack(plain)
    assert products(plain) == "torch"


def test_float16_is_not_packed(plain: Any) -> None:
    half = plain.to(torch.float16)
    pack(half)
    assert products(half) == "torch"


def test_the_numerics_say_who_multiplies(tiny_folder: Path) -> None:
    loaded = load(str(tiny_folder), Settings(device="cpu"))
    own = replace(loaded, model=AutoModelForCausalLM.from_pretrained(tiny_folder))
    assert "|products:onednn|" in numerics(loaded)
    assert "|products:torch|" in numerics(own)


MEMORY = """
import ctypes
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from harness.engine.checkpoint.onednn import pack, products

class Use(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "abcdefghij"]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Use

def used():
    return library.mallinfo2().h  # bytes in blocks that are not free

config = dict(n_embd=64, n_head=2, n_layer=2, n_positions=1024, vocab_size=100)
model = GPT2LMHeadModel(GPT2Config(**config)).eval()
pack(model)
assert products(model) == "onednn"
with torch.inference_mode():
    model(torch.zeros(1, 8, dtype=torch.long))
    begun = used()
    for width in range(100, 220):
        model.transformer(torch.zeros(1, width, dtype=torch.long), use_cache=False)
print(used() - begun)
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 to ask what is in use"
)
def test_memory_does_not_grow_with_the_number_of_shapes() -> None:
    """120 shapes of four layers: by default, oneDNN would cache 1,024 of 0.6 MB each."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 64e6
