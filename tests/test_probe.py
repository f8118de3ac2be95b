"""The self-test rejects models that are wrong on trees, and accepts correct ones.

Every wrong model is a small change to a sound one. Each must be found at every length and
vocabulary, for what decides is how tokens sort, and which weights are flat.
"""

from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf

from harness.engine.model.forward import Forward
from harness.engine.scoring.verify_prefix_sharing import tree_fault

LENGTHS = range(8, 65)
VOCABULARIES = (257, 32000, 50257, 256000)
SOME = LENGTHS[::6]
OTHERS = [n for n in LENGTHS if n not in SOME]
SIZES = [  # all, in two parts of which one takes seconds
    *(pytest.param(v, SOME, id=f"{v}-some") for v in VOCABULARIES),
    *(pytest.param(v, OTHERS, id=f"{v}-others", marks=pytest.mark.slow) for v in VOCABULARIES),
]
Pass = Callable[..., Any]


def forward_of(model: Any, context: int = 128) -> Forward:
    identity = SimpleNamespace(context=context, name="made")
    return Forward(
        SimpleNamespace(  # type: ignore[arg-type]
            model=model.eval(),
            device=torch.device("cpu"),
            identity=identity,
            lent=False,
            tensor_parallel=1,
        )
    )


@cache
def gpt2(vocabulary: int) -> Any:
    torch.manual_seed(0)
    return tf.GPT2LMHeadModel(
        tf.GPT2Config(
            vocab_size=vocabulary, n_layer=1, n_head=2, n_embd=8, n_positions=512,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


@cache
def llama(vocabulary: int) -> Any:
    torch.manual_seed(0)
    return tf.LlamaForCausalLM(
        tf.LlamaConfig(
            vocab_size=vocabulary, hidden_size=8, intermediate_size=16, num_attention_heads=2,
            max_position_embeddings=512, initializer_range=0.4, num_hidden_layers=1,
        )
    )  # fmt: skip


def ignores_the_mask(run: Pass, ids: torch.Tensor, **tree: Any) -> Any:
    return run(ids, **{**tree, "attention_mask": None})


def ignores_positions(run: Pass, ids: torch.Tensor, **tree: Any) -> Any:
    return run(ids, **{**tree, "position_ids": None})


def shifts_positions(run: Pass, ids: torch.Tensor, **tree: Any) -> Any:
    """Shift positions, as RoBERTa does with those that it counts itself."""
    if tree.get("position_ids") is not None:
        tree["position_ids"] = tree["position_ids"] + 2
    return run(ids, **tree)


def sees_the_branch_before(run: Pass, ids: torch.Tensor, **tree: Any) -> Any:
    """Show one column too many to each token: the faintest fault of all."""
    mask = tree.get("attention_mask")
    if mask is not None:
        mask = mask.clone()
        hidden = mask < 0
        hidden &= torch.arange(mask.shape[-1]) < mask.shape[-1] - ids.shape[1]
        last = (hidden * torch.arange(mask.shape[-1])).amax(-1, keepdim=True)
        tree["attention_mask"] = mask.scatter(-1, last, 0.0)
    return run(ids, **tree)


def drops_the_cache(run: Pass, ids: torch.Tensor, **tree: Any) -> Any:
    mask = tree.get("attention_mask")
    if mask is not None:
        tree |= {"attention_mask": mask[..., -ids.shape[1] :], "past_key_values": None}
    return run(ids, **tree)


def reads_its_future(run: Pass, ids: torch.Tensor, **tree: Any) -> Any:
    past = tree.get("past_key_values")
    columns = ids.shape[1] + (past.get_seq_length() if past is not None else 0)
    return run(ids, **{**tree, "attention_mask": torch.zeros(len(ids), 1, ids.shape[1], columns)})


def raises(run: Pass, ids: torch.Tensor, **tree: Any) -> Any:
    if tree.get("attention_mask") is not None:
        raise ValueError("too many values to unpack (expected 2)")
    return run(ids, **tree)


WRONG = [
    ignores_the_mask,
    ignores_positions,
    shifts_positions,
    sees_the_branch_before,
    drops_the_cache,
    reads_its_future,
    raises,
]


def change(model: Any, how: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a model a pass that is wrong in the given way."""
    run = type(model.base_model).forward.__get__(model.base_model)
    monkeypatch.setattr(
        model.base_model, "forward", lambda input_ids, **tree: how(run, input_ids, **tree)
    )


@pytest.mark.parametrize(("vocabulary", "lengths"), SIZES)
@pytest.mark.parametrize("how", WRONG, ids=lambda how: how.__name__)
def test_a_wrong_model_is_found_at_every_length(
    how: Callable[..., Any],
    vocabulary: int,
    lengths: Sequence[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward = forward_of(gpt2(vocabulary))
    change(forward.model, how, monkeypatch)
    with torch.inference_mode():
        missed = [n for n in lengths if not tree_fault(forward, [(n, 0)])]
        assert tree_fault(forward)
    assert missed == []


@pytest.mark.parametrize(("vocabulary", "lengths"), SIZES)
@pytest.mark.parametrize("make", [gpt2, llama])
def test_a_sound_model_passes_at_every_length(
    make: Callable[[int], Any], vocabulary: int, lengths: Sequence[int]
) -> None:
    forward = forward_of(make(vocabulary))
    with torch.inference_mode():
        faults = {n: tree_fault(forward, [(n, 0)]) for n in lengths}
        assert tree_fault(forward) == ""
    assert set(faults.values()) == {""}
