"""A model of nanoGPT's kind in memory is run as the GPT-2 that it is, on its own weights."""

import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nano_gpt import TOKENIZER, Attention, NanoGPT
from torch import nn
from transformers import GPT2LMHeadModel

from harness.core import Encoding, Loglikelihood, Request
from harness.engine.cache.response_cache import numerics
from harness.engine.checkpoint.in_memory import borrowed
from harness.engine.checkpoint.load import load
from harness.engine.checkpoint.own.adapter import OwnModel
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine

REQUESTS: list[Request] = [
    Loglikelihood("the sand and the", " sea said"),
    Loglikelihood("the sand and the", " end"),
    Loglikelihood("the sand and an", " end"),
]
ACTIVATIONS = {"none": "gelu", "tanh": "gelu_new"}


def check_scores(engine: Engine, model: nn.Module) -> None:
    """The referee is the model itself, fed one row at a time."""
    answers: dict[int, Any] = dict(engine.answer(REQUESTS, engine.encode(REQUESTS, Encoding())))
    for i, request in enumerate(REQUESTS):
        assert isinstance(request, Loglikelihood)
        context = [262, *TOKENIZER(request.context).input_ids]
        ids = torch.tensor([context + TOKENIZER(request.continuation).input_ids])
        with torch.no_grad():
            logprobs = model(ids, ids)[0][0].log_softmax(-1)
        expected = logprobs[:-1].gather(1, ids[0, 1:, None])[len(context) - 1 :, 0]
        assert answers[i].logprobs == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("approximate", ACTIVATIONS)
def test_it_is_the_checkpoint_of_its_file(bias: bool, approximate: str, tmp_path: Path) -> None:
    model = NanoGPT(approximate, bias=bias)
    TOKENIZER.save_pretrained(tmp_path)
    options = {"activation": ACTIVATIONS[approximate]}
    saved = load(
        str(model.save(tmp_path / "ckpt.pt")),
        Settings(device="cpu", tokenizer=str(tmp_path), options=tuple(options.items())),
    )
    with borrowed(model, TOKENIZER) as checkpoint:
        engine = Engine(checkpoint)
        assert engine.backend.options.sharing is not None
        check_scores(engine, model)
    ours, of_file = checkpoint.identity, saved.identity
    assert (ours.digest, ours.parameters) == (of_file.digest, of_file.parameters)
    assert (ours.name, ours.context) == ("NanoGPT", 64)
    assert checkpoint.end_tokens == saved.end_tokens
    # Products of transposed weights may differ from others in the last digits.
    lent = GPT2LMHeadModel(checkpoint.model.config)
    with borrowed(lent, TOKENIZER) as other:
        assert len({numerics(checkpoint), numerics(saved), numerics(other)}) == 3


def places(model: nn.Module) -> set[int]:
    return {p.untyped_storage().data_ptr() for p in model.parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_those_of_the_model(dtype: torch.dtype) -> None:
    model = NanoGPT().to(dtype)
    with borrowed(model, TOKENIZER) as checkpoint:
        assert type(checkpoint.model) is GPT2LMHeadModel
        assert places(checkpoint.model) == places(model)
        assert checkpoint.model.dtype == dtype
        assert not any(p.requires_grad for p in checkpoint.model.parameters())
        assert all(p.requires_grad for p in model.parameters())
    used = weakref.ref(checkpoint.model)
    del checkpoint
    gc.collect()
    assert used() is None


def scaled() -> nn.Module:
    class Scaled(Attention):
        scale = 1 / 16  # muP: 1 / d, not 1 / sqrt(d)

    model = NanoGPT()
    for block in model.transformer.h:
        block.attn.__class__ = Scaled
    return model


def only_in_long_rows() -> nn.Module:
    class Scaled(Attention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (1.001 if x.shape[1] > 50 else 1.0)

    model = NanoGPT()
    for block in model.transformer.h:
        block.attn.__class__ = Scaled
    return model


def untied() -> nn.Module:
    model = NanoGPT()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 2)
    return model


def hooked() -> nn.Module:
    model = NanoGPT()
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def with_relu() -> nn.Module:
    model = NanoGPT()
    for block in model.transformer.h:
        block.mlp["gelu"] = nn.ReLU()
    return model


def with_one_more_tensor() -> nn.Module:
    model = NanoGPT()
    model.transformer["scale"] = nn.Linear(1, 1)
    return model


MAKES = (scaled, only_in_long_rows, untied, hooked, with_relu, with_one_more_tensor)


@pytest.mark.parametrize("make", MAKES)
def test_what_computes_anything_else_is_run_as_it_is(
    make: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "harness")
    model = make()
    with borrowed(NanoGPT(), TOKENIZER) as checkpoint:
        digest = checkpoint.identity.digest
    with borrowed(model, TOKENIZER) as checkpoint:
        assert isinstance(checkpoint.model, OwnModel)
        assert checkpoint.identity.digest != digest
        check_scores(Engine(checkpoint), model)
    said = "NanoGPT is run as it is: a GPT-2 with its weights has other logits"
    assert (said in caplog.messages) == (make in (scaled, only_in_long_rows))


def test_a_function_that_returns_it() -> None:
    loaded = load("nano_gpt:load", Settings(device="cpu"))
    assert type(loaded.model) is GPT2LMHeadModel
    with borrowed(NanoGPT(), TOKENIZER) as checkpoint:
        assert checkpoint.identity.digest == loaded.identity.digest
