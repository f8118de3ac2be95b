"""Packed linear layers: the same products, and a model that stays as it was where they fail."""

import copy
import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from harness.commands.setup.checkpoint_checks import span_answers
from harness.engine.cache.response_cache import numerics
from harness.engine.checkpoint import onednn
from harness.engine.checkpoint.load import load
from harness.engine.checkpoint.onednn import (
    Bfloat16Product,
    Packed,
    multiplies_bfloat16,
    pack,
    pack_in_bfloat16,
    products,
)
from harness.engine.checkpoint.settings import BFLOAT16_PRODUCTS, Settings, dtype_option
from harness.engine.engine import Engine
from harness.engine.queries.query import Span

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


def faulty(fault: str) -> Callable[[Packed, torch.Tensor], torch.Tensor]:
    """A packed layer's `forward` that raises, or returns zeros."""

    def forward(self: Packed, states: torch.Tensor) -> torch.Tensor:
        if fault == "raises":
            raise RuntimeError("no such primitive")
        return states.new_zeros(*states.shape[:-1], self.weight.shape[0])

    return forward


@pytest.mark.parametrize("fault", ["wrong", "raises"])
def test_a_model_whose_packed_layers_fail_is_given_back_bit_by_bit(
    plain: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before = logits(plain)
    monkeypatch.setattr(Packed, "forward", faulty(fault))
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


has_bfloat16 = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="this CPU has no instructions for bfloat16"
)


@has_bfloat16
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_in_bfloat16_has_the_exact_sum_of_rounded_factors(bias: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(768, 33, bias=bias).requires_grad_(False)
    states = torch.randn(5, 768)
    exact = states.bfloat16().double() @ layer.weight.bfloat16().double().t()
    if bias:
        exact += layer.bias.bfloat16().double()
    found = Bfloat16Product(layer.weight, layer.bias)(states)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)


@has_bfloat16
def test_logits_far_from_zero_keep_their_differences() -> None:
    """All near -100 as those of GPT-2, where numbers in bfloat16 are 0.5 apart."""
    torch.manual_seed(0)
    states = torch.randn(16, 256)
    states[:, 0] = 20.0
    weight = 0.1 * torch.randn(999, 256)
    weight[:, 0] -= 5.0
    wanted = (states.double() @ weight.double().t()).log_softmax(-1)
    assert -110 < (states @ weight.t()).mean() < -90

    def error(centred: bool) -> float:
        logits = Bfloat16Product(weight, None, centred=centred)(states)
        return float((logits.double().log_softmax(-1) - wanted).abs().max())

    assert error(centred=False) > 0.2
    assert error(centred=True) < 0.06


@has_bfloat16
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_model_multiplies_in_bfloat16_and_keeps_the_rest_in_float32(
    plain: Any, stored: torch.dtype
) -> None:
    before = logits(plain)
    plain.to(stored)
    assert pack_in_bfloat16(plain)
    assert len(layers(plain)) == 2 * 4 + 1
    packed = {id(m.weight) for m in plain.modules() if isinstance(m, Packed)}
    assert {p.dtype for p in plain.parameters() if id(p) not in packed} == {torch.float32}
    assert {p.dtype for p in plain.parameters() if id(p) in packed} == {torch.bfloat16}
    assert products(plain) == "onednn bfloat16"
    largest = float(before.abs().max())
    torch.testing.assert_close(logits(plain), before, atol=0.05 * largest, rtol=0)
    assert not torch.equal(logits(plain), before)


@pytest.mark.parametrize("fault", ["wrong", "raises", "few"])
def test_where_that_fails_all_of_the_model_is_in_bfloat16(
    plain: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    if fault == "few":
        monkeypatch.setattr(onednn, "_packed_share", lambda model: 0.5)
    else:
        monkeypatch.setattr(Bfloat16Product, "forward", faulty(fault))
    whole = copy.deepcopy(plain).to(torch.bfloat16)
    assert not pack_in_bfloat16(plain)
    assert layers(plain) == []
    assert plain.lm_head.weight is plain.transformer.wte.weight
    named = dict(plain.named_parameters())
    for name, parameter in whole.named_parameters():
        assert torch.equal(named[name], parameter), name


@has_bfloat16
def test_the_two_ways_have_two_names(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(device="cpu", dtype="bfloat16")
    mixed = load(str(tiny_folder), settings)
    monkeypatch.setattr(onednn, "multiplies_bfloat16", lambda: False)
    whole = load(str(tiny_folder), settings)
    assert mixed.identity.dtype == BFLOAT16_PRODUCTS
    assert whole.identity.dtype == "bfloat16"
    assert dtype_option(mixed.identity.dtype) == dtype_option(whole.identity.dtype) == "bfloat16"
    assert "|dtype:float32|" in numerics(mixed)
    assert "|products:onednn bfloat16|" in numerics(mixed)
    assert "|dtype:bfloat16|" in numerics(whole)


def test_a_cpu_without_instructions_says_so(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onednn, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(onednn.platform, "machine", lambda: "x86_64")
    load(str(tiny_folder), Settings(device="cpu"))
    assert caplog.messages == []
    load(str(tiny_folder), Settings(device="cpu", dtype="bfloat16"))
    assert caplog.messages == [
        "this CPU has no instructions for bfloat16 (AVX-512 BF16 or AMX); --dtype float32 is "
        "faster and more exact"
    ]


@has_bfloat16
def test_scores_are_those_of_float32_within_rounding(tiny_folder: Path) -> None:
    """Rows that share a prefix too: the self-tests take it for rounding."""
    full, half = (
        Engine(load(str(tiny_folder), Settings(device="cpu", dtype=dtype)))
        for dtype in ("float32", "bfloat16")
    )
    assert half.backend.options.sharing is not None
    prefix = tuple(range(1, 21))
    spans = [Span((*prefix, k, k + 1), (k, k + 1, k + 2)) for k in range(30, 40)]
    one, two = (span_answers(engine, spans) for engine in (full, half))
    for span in spans:
        a, b = one[span].value.logprobs, two[span].value.logprobs
        assert abs(a - b).max() < 0.3
        assert not (a == b).all()


def test_the_numerics_say_who_multiplies(tiny_folder: Path) -> None:
    loaded = load(str(tiny_folder), Settings(device="cpu"))
    own = replace(loaded, model=AutoModelForCausalLM.from_pretrained(tiny_folder))
    assert "|products:onednn|" in numerics(loaded)
    assert "|products:torch|" in numerics(own)


class Use(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_size_t) for name in "abcdefghij")


def grow(out: Path) -> None:
    """Write by how many bytes 120 shapes of four layers make a process grow."""
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = Use
    config = {"n_embd": 64, "n_head": 2, "n_layer": 2, "n_positions": 1024, "vocab_size": 100}
    model = GPT2LMHeadModel(GPT2Config(**config)).eval()
    pack(model)
    assert products(model) == "onednn"
    with torch.inference_mode():
        model(torch.zeros(1, 8, dtype=torch.long))
        begun = library.mallinfo2().h  # bytes in blocks that are not free
        for width in range(100, 220):
            model.transformer(torch.zeros(1, width, dtype=torch.long), use_cache=False)
    out.write_text(str(library.mallinfo2().h - begun))


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 to ask what is in use"
)
def test_memory_does_not_grow_with_the_number_of_shapes(tmp_path: Path) -> None:
    """By default, oneDNN would cache 1,024 shapes of 0.6 MB each. It reads how many at first."""
    process = forked.calling(grow, tmp_path / "bytes")
    process.join()
    assert process.exitcode == 0
    assert int((tmp_path / "bytes").read_text()) < 64e6
