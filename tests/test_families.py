"""Every family of causal models is scored as a naive loop scores it, shared prefixes or not."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf
from conftest import byte_tokenizer
from test_probe import forward_of

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
        assert probe.tree_fault(engine.solver.forward, [(40, 0)])
        assert not probe.tree_fault(engine.solver.forward, [(8, 0)])
    with caplog.at_level(logging.WARNING, "harness"):
        found = answers(engine)
    assert engine.describe()["sharing"] is False
    assert "scores rows with branches differently" in caplog.text
    assert_naive(checkpoint, found)


def gemma2(vocabulary: int, **changes: object) -> tf.PreTrainedModel:
    settings = {**LLAMA, "final_logit_softcapping": 2.0, "sliding_window": 128, **changes}
    return tf.Gemma2ForCausalLM(tf.Gemma2Config(vocab_size=vocabulary, **settings))


def gpt_oss(vocabulary: int) -> tf.PreTrainedModel:
    return tf.GptOssForCausalLM(
        tf.GptOssConfig(
            vocab_size=vocabulary, **LLAMA, num_local_experts=4, num_experts_per_tok=2,
            sliding_window=128, eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip


def llama4(vocabulary: int) -> tf.PreTrainedModel:
    return tf.Llama4ForCausalLM(
        tf.Llama4TextConfig(
            vocab_size=vocabulary, **LLAMA, intermediate_size_mlp=48, num_local_experts=2,
            attention_chunk_size=128, eos_token_id=1, pad_token_id=0,
        )
    )  # fmt: skip


def rembert(vocabulary: int) -> tf.PreTrainedModel:
    return tf.RemBertForCausalLM(
        tf.RemBertConfig(
            vocab_size=vocabulary, **SMALL, intermediate_size=48, input_embedding_size=16,
            output_embedding_size=24, is_decoder=True, max_position_embeddings=128,
            initializer_range=0.4, pad_token_id=0,
        )
    )  # fmt: skip


def falcon_alibi(vocabulary: int) -> tf.PreTrainedModel:
    return tf.FalconForCausalLM(
        tf.FalconConfig(
            vocab_size=vocabulary, **SMALL, alibi=True, initializer_range=0.4,
            bos_token_id=1, eos_token_id=1,
        )
    )  # fmt: skip


def roberta(vocabulary: int) -> tf.PreTrainedModel:
    """Its positions begin behind the padding token's, unless they are given."""
    return tf.RobertaForCausalLM(
        tf.RobertaConfig(
            vocab_size=vocabulary, **SMALL, intermediate_size=48, is_decoder=True,
            max_position_embeddings=130, initializer_range=0.4, pad_token_id=1,
        )
    )  # fmt: skip


def gpt1(vocabulary: int) -> tf.PreTrainedModel:
    return tf.OpenAIGPTLMHeadModel(
        tf.OpenAIGPTConfig(
            vocab_size=vocabulary, n_layer=2, n_head=2, n_embd=32, n_positions=128,
            initializer_range=0.4,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "shares"),
    [
        (gemma2, True),  # caps its logits
        (gpt_oss, True),  # its feed-forward part returns a tuple
        (llama4, True),  # its base model is the model itself
        (rembert, True),  # its head does not fit its states
        (falcon_alibi, False),  # raises under a tree mask
        (roberta, False),
        (gpt1, False),  # takes a cache only to ignore it
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_family_that_comes_apart_in_its_own_way_is_scored_as_by_itself(
    tmp_path: Path, make: Make, shares: bool, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = build(tmp_path, make)
    engine = Engine(checkpoint)
    found = answers(engine)
    assert_naive(checkpoint, found)
    assert found[-1] == answers(Engine(checkpoint, share=False))[-1]
    assert engine.describe()["sharing"] is shares, caplog.text
    assert not engine.solver.forward.whole


def scaled(name: str) -> Make:
    """A family that does something to its logits; the last states are large or small."""
    alone = {key: value for key, value in LLAMA.items() if key != "head_dim"}
    return {
        "cohere": lambda v: tf.CohereForCausalLM(
            tf.CohereConfig(
                vocab_size=v, **alone, logit_scale=0.8333, bos_token_id=1, eos_token_id=1
            )
        ),
        "granite": lambda v: tf.GraniteForCausalLM(
            tf.GraniteConfig(vocab_size=v, **LLAMA, logits_scaling=1.25)
        ),
        "nanochat": lambda v: tf.NanoChatForCausalLM(tf.NanoChatConfig(vocab_size=v, **LLAMA)),
        "flat gemma2": lambda v: gemma2(v, final_logit_softcapping=30.0, initializer_range=0.02),
    }[name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["cohere", "granite", "nanochat", "flat gemma2"])
def test_logits_are_capped_and_scaled_as_the_model_does(name: str, dtype: torch.dtype) -> None:
    """Of states far larger than the probe's as well: a cap shows in large logits only."""
    torch.manual_seed(0)
    model = scaled(name)(300).to(dtype).eval()
    forward = forward_of(model, 128)
    ids = torch.arange(2, 40)[None]
    with torch.inference_mode():
        probe.check_model(forward, name)
        states = forward.trunk(ids)[0]
        assert forward.head(states) == pytest.approx(model(ids).logits[0].float(), rel=0.01)
        large = forward.head(states * 400)
    assert not forward.whole
    if name == "flat gemma2":
        assert 15 < large.abs().max() <= 30.001
    plain = torch.nn.functional.linear(states * 400, model.get_output_embeddings().weight)
    assert (large - plain.float()).abs().max() > 0.1 * plain.float().abs().max()


def test_logits_are_computed_where_they_are_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of many tokens times a large vocabulary would take gigabytes."""
    checkpoint = build(tmp_path, gemma2)
    engine = Engine(checkpoint)
    head = checkpoint.model.lm_head
    rows: list[int] = []
    handle = head.register_forward_hook(lambda *args: rows.append(args[2].numel()))
    requests: list[Request] = [Loglikelihood(CONTEXT, " sand")]
    encoded = engine.encode(requests, Encoding())
    [(_, answer)] = engine.answer(requests, encoded)
    handle.remove()
    assert isinstance(answer, Scored)
    assert sum(rows) == answer.num_tokens * len(byte_tokenizer())


def test_out_of_memory_halves_the_budget_and_changes_no_score(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is the allocator's own, so that its words are those of this system."""
    want = answers(Engine(tiny, share=False))
    real = reader_module.score

    def small_memory(forward, rows, spans, *, keep=False):  # type: ignore[no-untyped-def]
        if len(rows) * max(len(row) for row in rows) > 60:
            torch.empty(1 << 50)
        return real(forward, rows, spans, keep=keep)

    monkeypatch.setattr(reader_module, "score", small_memory)
    with caplog.at_level(logging.WARNING, "harness"):
        got = answers(Engine(tiny, share=False))
    assert "out of memory: going on" in caplog.text
    assert [a.logprob for a in got if isinstance(a, Scored)] == pytest.approx(
        [a.logprob for a in want if isinstance(a, Scored)], rel=1e-5
    )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        MemoryError("Unable to allocate 8.00 PiB for an array"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.35 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:73] . DefaultCPUAllocator: not enough memory"),
    ],
)
def test_memory_that_ran_out_is_recognised(error: RuntimeError | MemoryError) -> None:
    assert reader_module.out_of_memory(error)


def test_other_errors_are_not_taken_for_memory(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **named: object) -> None:
        raise RuntimeError("shapes do not fit")

    engine = Engine(tiny)
    monkeypatch.setattr(reader_module, "score", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        answers(engine)
