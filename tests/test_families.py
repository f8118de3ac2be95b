"""Families of causal models get the scores of a naive loop, with and without shared prefixes."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf
from conftest import byte_tokenizer
from test_probe import forward_of

from harness.core import (
    Encoding,
    Loglikelihood,
    NextWord,
    Request,
    RollingLoglikelihood,
    Scored,
    Word,
)
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.engine.model import capabilities
from harness.engine.model.forward import Forward
from harness.engine.model.out_of_memory import is_out_of_memory
from harness.engine.queries.prefix_tree import arrange
from harness.engine.queries.query import Span
from harness.engine.scoring import scorer as scorer_module
from harness.engine.scoring.logprobs import TOP, score
from harness.engine.scoring.next_word import NextTokens
from harness.engine.scoring.verify_prefix_sharing import tree_fault
from harness.errors import CheckpointError

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
    "gpt-oss": lambda v: tf.GptOssForCausalLM(
        tf.GptOssConfig(
            vocab_size=v,
            **LLAMA,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
            num_local_experts=4,
            num_experts_per_tok=2,
        )
    ),
    "chunks": lambda v: tf.Llama4ForCausalLM(
        tf.Llama4TextConfig(
            vocab_size=v,
            **LLAMA,
            intermediate_size_mlp=48,
            attention_chunk_size=16,
            layer_types=["chunked_attention", "full_attention"],
            moe_layers=[],
        )
    ),
}
COPIED: dict[str, Make] = {
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


def build(folder: Path, make: Make, context: int | None = None) -> Checkpoint:
    tokenizer = byte_tokenizer()
    torch.manual_seed(1)
    make(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(str(folder), Settings(device="cpu", context=context))


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
    for request, answer in zip(REQUESTS, found, strict=True):
        if isinstance(request, Loglikelihood):
            assert_scored(checkpoint, request, answer)


def assert_scored(checkpoint: Checkpoint, request: Loglikelihood, answer: object) -> int:
    """Compare with one pass of transformers; return the number of tokens it was fed."""
    assert isinstance(answer, Scored)
    tokenizer = checkpoint.tokenizer
    context = [*tokenizer.start_tokens("auto"), *tokenizer.encode([request.context])[0]]
    tokens = context + tokenizer.encode([request.continuation])[0]
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([tokens[:-1]])).logits[0].float()
    rows = logits[len(context) - 1 :].log_softmax(-1)
    want = rows.gather(1, torch.tensor(tokens[len(context) :])[:, None])[:, 0]
    assert answer.logprobs == pytest.approx(want.tolist(), abs=1e-4)
    return len(tokens) - 1


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


@pytest.mark.parametrize("family", COPIED)
def test_copied_states_score_as_separate_rows(
    tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = build(tmp_path, COPIED[family])
    engine = Engine(checkpoint)
    found = answers(engine)
    assert engine.backend.options.sharing is None
    assert engine.describe()["sharing"] is True
    assert not caplog.messages
    assert_naive(checkpoint, found)
    separate = Engine(checkpoint, share=False)
    assert found[-1] == answers(separate)[-1]
    assert engine.tokens.computed < 0.7 * separate.tokens.computed


@pytest.mark.parametrize(("make", "fault"), [("gpt1", ""), ("recurrent", "after a copied state")])
def test_models_that_cannot_share_say_so(
    tmp_path: Path, make: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = build(tmp_path, {"gpt1": gpt1, "recurrent": recurrent_gemma}[make])
    with caplog.at_level(logging.WARNING, "harness"):
        engine = Engine(checkpoint)
        found = answers(engine)
    assert engine.describe()["sharing"] is False
    [said] = [message for message in caplog.messages if "prefixes are not shared" in message]
    assert fault in said
    assert_naive(checkpoint, found)


def gpt_neo(vocabulary: int, window: int) -> tf.PreTrainedModel:
    return tf.GPTNeoForCausalLM(
        tf.GPTNeoConfig(
            vocab_size=vocabulary, hidden_size=32, num_layers=2, num_heads=2, window_size=window,
            attention_types=[[["global", "local"], 1]], max_position_embeddings=128,
            initializer_range=0.4,
        )
    )  # fmt: skip


def test_self_test_finds_a_window_that_the_config_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """GPT-Neo's local layers count columns, not positions: wrong in wide trees only."""
    checkpoint = build(tmp_path, lambda v: gpt_neo(v, 48))
    monkeypatch.setattr(Forward, "_no_tree_masks", lambda self: "")
    engine = Engine(checkpoint)
    assert engine.describe()["sharing"] is True
    forward = engine.backend.forward
    with torch.inference_mode():
        assert not tree_fault(forward)
        assert not tree_fault(forward, [(20, 36)])
        assert tree_fault(forward, [(50, 0)])
        assert tree_fault(forward, [(20, 60)]), "columns count, however short the paths"
    with caplog.at_level(logging.DEBUG, "harness"):
        found = answers(engine)
    assert engine.backend.options.sharing is None
    assert "scores rows with branches differently" in caplog.text
    assert_naive(checkpoint, found)


def test_a_window_of_columns_is_never_shared_in_trees(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A context below the window does not help: rows of several branches are wider."""
    checkpoint = build(tmp_path, lambda v: gpt_neo(v, 48), context=40)
    with caplog.at_level(logging.DEBUG, "harness"):
        engine = Engine(checkpoint)
        found = answers(engine)
    assert engine.backend.options.sharing is None
    assert "layers see the last 48 tokens of a row" in caplog.text
    assert_naive(checkpoint, found)


@pytest.mark.parametrize("window", [30, 36, 40])
def test_rows_that_fill_a_window_are_scored_right(tmp_path: Path, window: int) -> None:
    """The window equals the context, so that every row with a branch or a search reaches it."""
    make: Make = lambda v: tf.Gemma3ForCausalLM(  # noqa: E731
        tf.Gemma3TextConfig(
            vocab_size=v, **LLAMA, sliding_window=window,
            layer_types=["sliding_attention", "full_attention"],
        )
    )  # fmt: skip
    checkpoint = build(tmp_path, make, context=window)
    engine = Engine(checkpoint)
    found = answers(engine)
    assert engine.describe()["sharing"] is True
    if window > 36:  # else contexts are cut
        assert_naive(checkpoint, found)
    alone = answers(Engine(checkpoint, share=False))
    for one, two in zip(found, alone, strict=True):
        if isinstance(one, Scored):
            assert isinstance(two, Scored)
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)
        else:
            assert one == two


def longrope(vocabulary: int) -> tf.PreTrainedModel:
    """Frequencies change beyond 40 tokens."""
    rope = {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 40,
        "long_factor": [9.0, 1.0, 4.0, 8.0, 1.0, 2.0, 3.0, 5.0], "short_factor": [1.0] * 8,
    }  # fmt: skip
    return tf.Phi3ForCausalLM(
        tf.Phi3Config(
            vocab_size=vocabulary, **{**LLAMA, "initializer_range": 0.6}, rope_parameters=rope,
            original_max_position_embeddings=40, pad_token_id=0, eos_token_id=1, bos_token_id=1,
        )
    )  # fmt: skip


def test_rope_that_depends_on_length_never_mixes_lengths(tmp_path: Path) -> None:
    """Rows on both sides of the limit, a branch across it, and a search that crosses it."""
    checkpoint = build(tmp_path, longrope)
    engine = Engine(checkpoint)
    assert engine.backend.forward.rope_limit == 40
    contexts = [CONTEXT[: len(CONTEXT) - n].rstrip() for n in range(12)] + [
        "the end",
        CONTEXT + " sea x",
    ]
    requests: list[Request] = [
        Loglikelihood(context, continuation)
        for context in contexts
        for continuation in (" sand", " sand and the sea", " x")
    ]
    requests += [NextWord(context, frozenset({"the"})) for context in contexts]
    requests += [RollingLoglikelihood((CONTEXT * 2, CONTEXT)), RollingLoglikelihood(("the sand",))]
    together = [
        dict(e.answer(requests, e.encode(requests, Encoding())))
        for e in (engine, Engine(checkpoint, share=False))
    ]
    fed = set()
    for i, request in enumerate(requests):
        one = Engine(checkpoint, share=False)
        [(_, alone)] = one.answer([request], one.encode([request], Encoding()))
        for found in together:
            if isinstance(request, NextWord):
                assert found[i] == alone
            else:
                assert found[i].logprob == pytest.approx(alone.logprob, abs=1e-4)
            if isinstance(request, Loglikelihood):
                fed.add(assert_scored(checkpoint, request, found[i]))
    assert engine.describe()["sharing"] is True
    assert min(fed) < 40 < max(fed)


def test_a_word_that_crosses_the_limit_is_fed_with_its_context(tmp_path: Path) -> None:
    forward = Engine(build(tmp_path, longrope)).backend.forward
    spans = [Span(tuple(range(5, 43)), (), top=True), Span(tuple(range(4, 34)), (), top=True)]
    wanted = [(0, (7,)), (0, (7, 8, 9)), (1, (50, 51)), (0, (9, 8, 7, 6))]
    with torch.inference_mode():
        kept = score(forward, arrange(spans, None), spans, keep=True)[1]
        found = NextTokens(forward, spans, kept, 512)(wanted)
        for (s, path), tokens in zip(wanted, found, strict=True):
            ids = torch.tensor([[*spans[s].inputs, *path]])
            logits = forward.model(ids).logits[0, -1]
            assert logits[list(tokens)] == pytest.approx(logits.sort(descending=True)[0][:TOP])


def test_layers_that_look_ahead_in_long_rows_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Causal only while a layer can choose all tokens, as with an indexer's top 64."""
    checkpoint = build(tmp_path, SHARED["narrow window"])
    attention = type(checkpoint.model.model.layers[0].self_attn)
    plain = attention.forward

    def chooses(
        self: object, hidden_states: torch.Tensor, *args: object, **named: object
    ) -> object:
        if hidden_states.shape[1] > 64:
            hidden_states = hidden_states + hidden_states[:, -1:]
        return plain(self, hidden_states, *args, **named)

    monkeypatch.setattr(attention, "forward", chooses)
    engine = Engine(checkpoint)
    with caplog.at_level(logging.WARNING, "harness"):
        answers(engine)
        assert "depend on later ones" not in caplog.text
        text: list[Request] = [RollingLoglikelihood((CONTEXT * 4,))]
        assert len(list(engine.answer(text, engine.encode(text, Encoding())))) == 1
    assert "this model lets tokens depend on later ones" in caplog.text


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
    """Positions begin after the padding token's unless they are passed."""
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


def recurrent_gemma(vocabulary: int) -> tf.PreTrainedModel:
    """Part of its state is in its layers, so that nothing else can go on from a copy."""
    return tf.RecurrentGemmaForCausalLM(
        tf.RecurrentGemmaConfig(
            vocab_size=vocabulary, **{**LLAMA, "num_hidden_layers": 3}, attention_window_size=128,
            lru_width=32, w_init_variance_scale=1.0,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "shares"),  # in trees
    [
        (gemma2, True),  # caps its logits
        (gpt_oss, True),  # its feed-forward part returns a tuple
        (llama4, True),  # its base model is the model
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
    assert (engine.backend.options.sharing is not None) is shares, caplog.text
    assert not engine.backend.forward.all_logits
    if make is gpt_oss:
        assert len(engine.backend.forward.last_block) == 2, "where a tuple comes back, too"


def scaled(name: str) -> Make:
    """A family that changes its logits; the last states are large or small."""
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
    """Also for states far larger than those of the self-test: a cap shows only in large logits."""
    torch.manual_seed(0)
    model = scaled(name)(300).to(dtype).eval()
    forward = forward_of(model, 128)
    ids = torch.arange(2, 40)[None]
    with torch.inference_mode():
        capabilities.check_model(forward, name)
        states = forward.trunk(ids)[0]
        assert forward.head(states) == pytest.approx(model(ids).logits[0].float(), rel=0.01)
        large = forward.head(states * 400)
    assert not forward.all_logits
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


def test_a_pass_that_the_model_cannot_make_is_one_line(tiny: Checkpoint) -> None:
    """For example, a model with fewer usable positions than its config says."""

    def too_few_positions(module: object, given: tuple[torch.Tensor, ...]) -> None:
        if given[0].shape[-1] > 20:
            raise IndexError("index out of range in self")

    engine = Engine(tiny)
    requests: list[Request] = [Loglikelihood(CONTEXT, " sand")]
    encoded = engine.encode(requests, Encoding())
    assert len(encoded[0].spans[0].inputs) > 20
    with (
        tiny.model.transformer.wpe.register_forward_pre_hook(too_few_positions),
        pytest.raises(CheckpointError, match=r"ends in IndexError: .*; try a smaller --context"),
    ):
        list(engine.answer(requests, encoded))


def test_out_of_memory_halves_the_budget_and_changes_no_score(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is the allocator's own, with the message of this system."""
    want = answers(Engine(tiny, share=False))
    real = scorer_module.score

    def small_memory(forward, rows, spans, *, keep=False):  # type: ignore[no-untyped-def]
        if len(rows) * max(len(row) for row in rows) > 60:
            torch.empty(1 << 50)
        return real(forward, rows, spans, keep=keep)

    monkeypatch.setattr(scorer_module, "score", small_memory)
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
    assert is_out_of_memory(error)


def test_other_errors_are_not_taken_for_memory(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **named: object) -> None:
        raise RuntimeError("shapes do not fit")

    engine = Engine(tiny)
    monkeypatch.setattr(scorer_module, "score", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        answers(engine)
