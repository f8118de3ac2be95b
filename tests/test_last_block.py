"""A last block that computes only what is read gives the same states there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from harness.core import Encoding, Loglikelihood
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.engine import Engine
from harness.engine.model.last_block import only, position_wise


@pytest.fixture(scope="module")
def models(tiny_folder: Path) -> list[Any]:
    torch.manual_seed(0)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=263, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
        )
    )  # fmt: skip
    return [AutoModelForCausalLM.from_pretrained(tiny_folder).eval(), llama.eval()]


@given(st.sets(st.integers(0, 3 * 12 - 1), min_size=1))
def test_states_that_are_read_are_the_same(models: list[Any], chosen: set[int]) -> None:
    ids = torch.arange(36).view(3, 12)
    places = torch.tensor(sorted(chosen))
    for model in models:
        modules = position_wise(model.base_model, 2)
        assert len(modules) == 2
        with torch.no_grad():
            whole = model.base_model(ids).last_hidden_state.flatten(0, 1)
            with only(modules, places):
                part = model.base_model(ids).last_hidden_state.flatten(0, 1)
            after = model.base_model(ids).last_hidden_state.flatten(0, 1)
        torch.testing.assert_close(part[places], whole[places], atol=1e-5, rtol=1e-5)
        assert torch.equal(after, whole)


def test_other_positions_are_not_computed(models: list[Any]) -> None:
    """Counted at the module."""
    [mlp, _] = position_wise(models[0].base_model, 2)
    fed: list[int] = []
    handle = mlp.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0].numel()))
    with torch.no_grad():
        models[0].base_model(torch.arange(36).view(3, 12))
        handle.remove()
        with only((mlp,), torch.tensor([5, 7])):
            handle = mlp.register_forward_pre_hook(lambda m, inputs: fed.append(inputs[0].numel()))
            models[0].base_model(torch.arange(36).view(3, 12))
            handle.remove()
    assert fed == [36 * 32, 2 * 32]


def test_the_engine_uses_it_where_it_is_right(tiny: Checkpoint) -> None:
    assert len(Engine(tiny).backend.forward.last_block) == 2  # type: ignore[attr-defined]


def test_a_block_that_mixes_positions_is_computed_whole(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-test rejects a feed-forward part that mixes positions."""
    mlp = tiny.model.transformer.h[-1].mlp
    plain = type(mlp).forward

    def mixed(self: Any, states: torch.Tensor) -> torch.Tensor:
        if self is mlp:
            states = states.cumsum(dim=-2)
        return plain(self, states)

    monkeypatch.setattr(type(mlp), "forward", mixed)
    engine = Engine(tiny)
    assert engine.backend.forward.last_block == ()  # type: ignore[attr-defined]
    asked = [Loglikelihood("the sun", " set"), Loglikelihood("the", " sand")]
    [(_, first), _] = sorted(
        engine.answer(asked, engine.encode(asked, Encoding(bos="none"))), key=lambda pair: pair[0]
    )
    ids = torch.tensor([tiny.tokenizer.encode(["the sun set"])[0]])
    with torch.no_grad():
        logprobs = tiny.model(ids).logits[0, :-1].log_softmax(-1)
    count = first.num_tokens  # type: ignore[union-attr]
    wanted = logprobs.gather(1, ids[0, 1:, None])[-count:].sum()
    assert first.logprob == pytest.approx(float(wanted), abs=1e-4)  # type: ignore[union-attr]
