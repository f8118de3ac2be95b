"""Every family of causal models is scored as a naive loop scores it, shared prefixes or not."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf
from conftest import byte_tokenizer

from harness.core import Encoding, Loglikelihood, NextWord, Request, Scored, Word
from harness.engine import probe
from harness.engine import reader as reader_module
from harness.engine.checkpoint import Checkpoint, Settings, load
from harness.engine.engine import Engine
from harness.engine.forward import Forward

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {
    **SMALL,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.4,
}
Make = Callable[[int], tf.PreTrainedModel]

SHARED: dict[str, Make] = {
    "gpt2": lambda v: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=v, n_layer=2, n_head=2, n_embd=32, initializer_range=0.4)
    ),
    "llama": lambda v: tf.LlamaForCausalLM(tf.LlamaConfig(vocab_size=v, **LLAMA)),
    "qwen2": lambda v: tf.Qwen2ForCausalLM(tf.Qwen2Config(vocab_size=v, **LLAMA)),
    "gpt-neox": lambda v: tf.GPTNeoXForCausalLM(
        tf.GPTNeoXConfig(vocab_size=v, **{**LLAMA, "num_key_value_heads": 2})
    ),
    "wide window": lambda v: tf.MistralForCausalLM(
        tf.MistralConfig(vocab_size=v, **LLAMA, sliding_window=4096)
    ),
}
ALONE: dict[str, Make] = {
    "narrow window": lambda v: tf.MistralForCausalLM(
        tf.MistralConfig(vocab_size=v, **LLAMA, sliding_window=8)
    ),
    "gemma3": lambda v: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(
            vocab_size=v,
            **LLAMA,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
        )
    ),
    "gpt-neo": lambda v: tf.GPTNeoForCausalLM(
        tf.GPTNeoConfig(
            vocab_size=v,
            hidden_size=32,
            num_layers=2,
            num_heads=2,
            attention_types=[[["global", "local"], 1]],
            window_size=8,
            max_position_embeddings=128,
            initializer_range=0.4,
        )
    ),
    "bloom": lambda v: tf.BloomForCausalLM(
        tf.BloomConfig(vocab_size=v, hidden_size=32, n_layer=2, n_head=2, initializer_range=0.4)
    ),
    "mamba": lambda v: tf.MambaForCausalLM(
        tf.MambaConfig(vocab_size=v, hidden_size=32, num_hidden_layers=2, state_size=4)
    ),
}


def build(folder: Path, make: Make) -> Checkpoint:
    tokenizer = byte_tokenizer()
    torch.manual_seed(1)
    make(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(str(folder), Settings(device="cpu"))


CONTEXT = "the sand and the sea said, the end and the sand"
REQUESTS: list[Request] = [
    *(Loglikelihood(CONTEXT, f" {word} and the") for word in ("sand", "sea", "an", "end")),
    Loglikelihood("the", " sand"),
    NextWord(CONTEXT, frozenset({"the"})),
]


def answers(engine: Engine) -> list[object]:
    found = dict(engine.answer(REQUESTS, engine.encode(REQUESTS, Encoding())))
    return [found[i] for i in range(len(REQUESTS))]


def assert_naive(checkpoint: Checkpoint, found: list[object]) -> None:
    tokenizer = checkpoint.tokenizer
    for request, answer in zip(REQUESTS, found, strict=True):
        if not isinstance(request, Loglikelihood):
            continue
        assert isinstance(answer, Scored)
        context = [*tokenizer.start("auto"), *tokenizer.encode([request.context])[0]]
        tokens = context + tokenizer.encode([request.continuation])[0]
        with torch.no_grad():
            logits = checkpoint.model(torch.tensor([tokens])).logits[0].float()
        rows = logits[len(context) - 1 : -1].log_softmax(-1)
        want = rows.gather(1, torch.tensor(tokens[len(context) :])[:, None])[:, 0]
        assert answer.logprobs == pytest.approx(want.tolist(), abs=1e-4)


@pytest.mark.parametrize("family", SHARED)
def test_shared_prefixes_score_as_separate_rows(tmp_path: Path, family: str) -> None:
    checkpoint = build(tmp_path, SHARED[family])
    engine = Engine(checkpoint)
    found = answers(engine)
    assert engine.describe()["sharing"] is True
    assert engine.tokens.computed < engine.tokens.asked
    assert_naive(checkpoint, found)
    alone = answers(Engine(checkpoint, share=False))
    assert isinstance(alone[-1], Word)
    assert found[-1] == alone[-1]


@pytest.mark.parametrize("family", ALONE)
def test_models_that_cannot_share_say_so(
    tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = build(tmp_path, ALONE[family])
    with caplog.at_level(logging.WARNING, "harness"):
        engine = Engine(checkpoint)
        found = answers(engine)
    assert engine.describe()["sharing"] is False
    assert any("prefixes are not shared" in message for message in caplog.messages)
    assert_naive(checkpoint, found)


def test_self_test_finds_a_window_that_the_config_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """GPT-Neo's local layers count tokens, not positions: right in short trees, wrong in long."""
    checkpoint = build(tmp_path, ALONE["gpt-neo"])
    monkeypatch.setattr(Forward, "_limited", lambda self: "")
    engine = Engine(checkpoint)
    assert engine.describe()["sharing"] is True
    with torch.inference_mode():
        assert not probe.honours_trees(engine.solver.forward, 40)
    with caplog.at_level(logging.WARNING, "harness"):
        found = answers(engine)
    assert engine.describe()["sharing"] is False
    assert "scores rows with branches differently" in caplog.text
    assert_naive(checkpoint, found)


def test_soft_capped_logits_are_the_models_own(tmp_path: Path) -> None:
    config = tf.Gemma2Config(
        vocab_size=len(byte_tokenizer()), **LLAMA, final_logit_softcapping=2.0, sliding_window=8
    )
    checkpoint = build(tmp_path, lambda v: tf.Gemma2ForCausalLM(config))
    engine = Engine(checkpoint)
    assert engine.solver.forward.whole
    assert_naive(checkpoint, answers(engine))


def test_out_of_memory_halves_the_budget_and_changes_no_score(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    want = answers(Engine(tiny, share=False))
    real = reader_module.score

    def small_memory(forward, rows, spans, *, keep=False):  # type: ignore[no-untyped-def]
        if len(rows) * max(len(row) for row in rows) > 60:
            raise torch.OutOfMemoryError("not enough memory")
        return real(forward, rows, spans, keep=keep)

    monkeypatch.setattr(reader_module, "score", small_memory)
    with caplog.at_level(logging.WARNING, "harness"):
        got = answers(Engine(tiny, share=False))
    assert "out of memory: going on" in caplog.text
    assert [a.logprob for a in got if isinstance(a, Scored)] == pytest.approx(
        [a.logprob for a in want if isinstance(a, Scored)], rel=1e-5
    )


def test_other_errors_are_not_taken_for_memory(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **named: object) -> None:
        raise RuntimeError("shapes do not fit")

    engine = Engine(tiny)
    monkeypatch.setattr(reader_module, "score", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        answers(engine)
