"""Generation with many model families against a loop without a cache, and how each is decoded."""

import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from conftest import byte_tokenizer
from transformers import DynamicCache

from harness.core import Encoding, Generate, Generated, Request
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.settings import Settings
from harness.engine.decoding import verify_decoding
from harness.engine.decoding.kv_slots import Slots
from harness.engine.decoding.rows import FULL_PASSES, PlainRows
from harness.engine.decoding.verify_decoding import CACHED_METHODS, DecodingMethods
from harness.engine.engine import Engine
from harness.engine.model.forward import Forward

Make = Callable[[int], Any]

MAMBA = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 256, "num_key_value_heads": 1, "initializer_range": 0.4,
}  # fmt: skip
LLAMA = {**MAMBA, "head_dim": 16}
FOUR = {**LLAMA, "num_hidden_layers": 4}
ALTERNATING = ["sliding_attention", "full_attention"]
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 263}
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 96, "rope_theta": 10000.0,
}  # fmt: skip


def causal(name: str, config: str = "", **values: Any) -> Make:
    def make(vocabulary: int) -> Any:
        kind = getattr(tf, config or f"{name}Config")
        return getattr(tf, f"{name}ForCausalLM")(kind(vocab_size=vocabulary, **values))

    return make


# Those that are decoded over a cache, if not each in the way that `generate` takes.
OVER_A_CACHE: dict[str, Make] = {
    "bamba": causal(
        "Bamba", **MAMBA, attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=16,
        mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=16,
    ),
    "minimax": causal(
        "MiniMax", **LLAMA, num_local_experts=2, num_experts_per_tok=1, block_size=8,
        layer_types=["linear_attention", "full_attention"],
    ),
    "gemma3n": causal(
        "Gemma3n", "Gemma3nTextConfig", **{**FOUR, "intermediate_size": [48] * 4}, **PER_LAYER,
        sliding_window=256, layer_types=ALTERNATING * 2, num_kv_shared_layers=2, laurel_rank=4,
        altup_num_inputs=2, activation_sparsity_pattern=[0.0] * 4,
    ),
    "gemma4": causal(
        "Gemma4", "Gemma4TextConfig", **FOUR, **PER_LAYER, global_head_dim=32,
        num_global_key_value_heads=1, sliding_window=256, layer_types=ALTERNATING * 2,
        num_kv_shared_layers=2,
    ),
    "hrm_text": causal(
        "HrmText", hidden_size=32, num_layers_per_stack=1, num_attention_heads=2, head_dim=16,
        intermediate_size=48, max_position_embeddings=256, H_cycles=2, L_cycles=2,
        initializer_range=0.2,
    ),
    "mistral, window = context": causal("Mistral", **LLAMA, sliding_window=256),
    "gemma3, window = context": causal(
        "Gemma3", "Gemma3TextConfig", **LLAMA, sliding_window=256, layer_types=ALTERNATING
    ),
    "phi3 longrope": causal(
        "Phi3", **MAMBA, original_max_position_embeddings=96, rope_parameters=LONGROPE,
        pad_token_id=0,
    ),
    "moshi": causal(
        "Moshi", **{k: v for k, v in LLAMA.items() if k != "intermediate_size"}, ffn_dim=48,
        sliding_window=16,
    ),
    "roberta": causal(
        "Roberta", **{**MAMBA, "max_position_embeddings": 258}, is_decoder=True, pad_token_id=1
    ),
    "recurrent_gemma": causal(
        "RecurrentGemma", hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=96, lru_width=32, attention_window_size=16,
        head_dim=16, w_init_variance_scale=1.0,
    ),
    "lfm2": causal("Lfm2", **MAMBA, layer_types=["conv", "full_attention"]),
    "falcon_h1": causal(
        "FalconH1", **MAMBA, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
        mamba_n_groups=1, mamba_chunk_size=16,
    ),
    "xglm": causal(
        "XGLM", d_model=32, num_layers=2, attention_heads=2, ffn_dim=48,
        max_position_embeddings=256, init_std=0.4,
    ),
    "mamba": causal("Mamba", hidden_size=32, num_hidden_layers=2, state_size=4),
}  # fmt: skip
# Those whose cached steps are not what a full pass gives.
BY_FULL_PASSES: dict[str, Make] = {
    "zamba2": causal(
        "Zamba2", **{**MAMBA, "num_hidden_layers": 4, "num_key_value_heads": 2}, mamba_d_state=8,
        mamba_ngroups=1, n_mamba_heads=4, mamba_headdim=16, chunk_size=16, adapter_rank=8,
        use_mamba_kernels=False, layers_block_type=["mamba", "hybrid"] * 2, num_mem_blocks=1,
    ),
    "nemotron_h": causal(
        "NemotronH", **LLAMA, ssm_state_size=8, mamba_num_heads=4, mamba_head_dim=16, n_groups=1,
        conv_kernel=4, chunk_size=16, use_mamba_kernels=False,
        layers_block_type=["mamba", "attention"],
    ),
}  # fmt: skip
STORY = "the sand and the sea said, “é” the end.\n"
# Prompts that prolong one another, and some of equal length whose answers end at different steps.
REQUESTS: list[Request] = [
    *(Generate((STORY * k, "Q: why\nA:"), 6) for k in (1, 2)),
    *(Generate((f"{STORY}Q: who {c}",), new) for c, new in zip("abc", (2, 7, 4), strict=True)),
]


def build(folder: Path, make: Make) -> Checkpoint:
    tokenizer = byte_tokenizer()
    torch.manual_seed(1)
    make(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load(str(folder), Settings(device="cpu"))


def naive(checkpoint: Checkpoint, prompt: tuple[int, ...], count: int) -> tuple[list[int], float]:
    """Greedy tokens and their total log-probability, by one full pass per token."""
    tokens, total = [*prompt], 0.0
    while len(tokens) < len(prompt) + count:
        with torch.no_grad():
            logits = checkpoint.model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
        tokens.append(int(logits.argmax()))
        total += float(logits.double().log_softmax(-1)[tokens[-1]])
        if tokens[-1] in checkpoint.end_tokens:
            break
    return tokens[len(prompt) :], total


def assert_naive(checkpoint: Checkpoint, engine: Engine, requests: list[Request]) -> None:
    encoded = engine.encode(requests, Encoding())
    found = dict(engine.answer(requests, encoded))
    for i, e in enumerate(encoded):
        answer = found[i]
        assert isinstance(answer, Generated)
        want, total = naive(checkpoint, e.spans[0].inputs, requests[i].max_new_tokens)  # type: ignore[union-attr]
        assert list(answer.tokens) == want
        assert sum(answer.logprobs) == pytest.approx(total, abs=2e-4)


# --- families -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", OVER_A_CACHE)
def test_answers_over_a_cache_equal_those_of_full_passes(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = build(tmp_path, OVER_A_CACHE[family])
    with caplog.at_level(logging.WARNING, "harness"):
        assert_naive(checkpoint, Engine(checkpoint), REQUESTS)
    assert "by full passes" not in caplog.text


@pytest.mark.parametrize("family", BY_FULL_PASSES)
def test_a_model_whose_cached_steps_are_others_is_decoded_without_a_cache(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = build(tmp_path, BY_FULL_PASSES[family])
    engine = Engine(checkpoint)
    with caplog.at_level(logging.WARNING, "harness"):
        assert_naive(checkpoint, engine, REQUESTS)
        assert_naive(checkpoint, engine, REQUESTS[:1])
    assert sum("answers are decoded by full passes" in m for m in caplog.messages) == 1


def test_layers_that_keep_nothing_stay_out_of_the_slots(tmp_path: Path) -> None:
    checkpoint = build(tmp_path, OVER_A_CACHE["gemma4"])
    engine = Engine(checkpoint)
    assert_naive(checkpoint, engine, REQUESTS)
    forward = engine.backend.forward  # type: ignore[attr-defined]
    assert engine.describe()["sharing"] is True
    cache = forward.full_cache()
    forward.trunk(torch.zeros((1, 3), dtype=torch.long), past_key_values=cache)
    sizes = [(x.keys.shape[-1], x.keys.shape[1]) for x in cache.layers if x.keys is not None]
    assert len(set(sizes)) > 1, "head sizes differ from layer to layer"
    assert len(sizes) < 4, "some layers keep nothing"
    assert forward.cache_bytes_per_token() == 4 * 2 * sum(size * heads for size, heads in sizes)


def test_what_cannot_be_kept_in_slots_is_refused() -> None:
    cache = DynamicCache(config=tf.MistralConfig(num_hidden_layers=1, sliding_window=4))
    cache.update(torch.zeros(1, 1, 6, 4), torch.zeros(1, 1, 6, 4), 0)
    with pytest.raises(TypeError, match="DynamicSlidingWindowLayer cannot be kept in slots"):
        Slots(1, 8).put(0, cache, 0, 6)


@pytest.mark.parametrize("family", ["mistral, window = context", "gemma3, window = context"])
def test_rows_that_reach_the_window_and_go_beyond_it(family: str, tmp_path: Path) -> None:
    """The window is 256: a row of 245 columns, which 5 answers of 12 tokens make 300."""
    checkpoint = build(tmp_path, OVER_A_CACHE[family])
    engine = Engine(checkpoint)
    start = len(engine.tokenizer.start_tokens("auto"))
    requests: list[Request] = [
        Generate(("z" * (200 - start) + letter * 9,), 12) for letter in "abcde"
    ]
    assert_naive(checkpoint, engine, requests)
    assert engine.tokens.computed < engine.tokens.asked / 2, "prefixes are shared"


# --- rotary positions that change with the length -------------------------------------------------


@pytest.fixture
def phi3(tmp_path: Path) -> Checkpoint:
    return build(tmp_path, OVER_A_CACHE["phi3 longrope"])


@pytest.mark.parametrize("length", [88, 92, 95, 96, 97, 120])
def test_answers_that_grow_across_the_rope_limit(phi3: Checkpoint, length: int) -> None:
    """In one run with a short and a long prompt; the limit is 96."""
    engine = Engine(phi3)
    start = len(engine.tokenizer.start_tokens("auto"))
    assert engine.backend.forward.rope_limit == 96  # type: ignore[attr-defined]
    requests: list[Request] = [
        Generate(("z" * (n - start),), 6) for n in (length, length - 2, 40, 200)
    ]
    lengths = [len(e.spans[0].inputs) for e in engine.encode(requests, Encoding())]
    assert lengths == [length, length - 2, 40, 200]
    assert_naive(phi3, engine, requests)


# --- models that are wrong on purpose -------------------------------------------------------------


def wronged(checkpoint: Checkpoint, wrong: Callable[[dict[str, Any]], None]) -> Checkpoint:
    """A model that changes its arguments before a pass over a cache."""
    base = checkpoint.model.base_model
    real = base.forward

    @wraps(real)
    def forward(*args: Any, **given: Any) -> Any:
        cache = given.get("past_key_values")
        if cache is not None and len(cache.layers) and cache.layers[0].get_seq_length():
            wrong(given)
        return real(*args, **given)

    base.forward = forward
    return checkpoint


def forgets_the_cache(given: dict[str, Any]) -> None:
    given["past_key_values"] = DynamicCache()
    given.pop("attention_mask", None)


def counts_from_0(given: dict[str, Any]) -> None:
    ids = given["input_ids"]
    given["position_ids"] = torch.arange(ids.shape[1]).expand_as(ids)


def counts_from_0_unless_told(given: dict[str, Any]) -> None:
    if given.get("position_ids") is None:
        counts_from_0(given)


def is_one_position_off(given: dict[str, Any]) -> None:
    if given.get("position_ids") is not None:
        given["position_ids"] = given["position_ids"] + 1


def sees_the_last_30(given: dict[str, Any]) -> None:
    for layer in given["past_key_values"].layers:
        layer.keys, layer.values = layer.keys[:, :, -30:], layer.values[:, :, -30:]


def raises(given: dict[str, Any]) -> None:
    raise NotImplementedError("no steps over a cache\nat all")


def llama(folder: Path) -> Checkpoint:
    return build(folder, causal("Llama", **LLAMA))


HIDDEN = "hidden window"
WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], bool, str]] = {
    "forgets": (forgets_the_cache, False, "differ from the full pass by"),
    "counts from 0": (counts_from_0, False, "differ from the full pass by"),
    "counts from 0 unless told": (counts_from_0_unless_told, True, ""),
    "wrong only where told": (is_one_position_off, True, ""),
    HIDDEN: (sees_the_last_30, False, "differ from the full pass by"),
    "raises": (raises, False, "NotImplementedError: no steps over a cache"),
}


# The planner's check of kept prefixes, which is left out here, runs at the length of the rows.
@pytest.mark.parametrize(
    ("name", "share"), [(n, s) for n in WRONG for s in (False, True) if (n, s) != (HIDDEN, True)]
)
def test_a_wrong_cached_step_is_found_and_not_used(
    name: str, share: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, cached, reason = WRONG[name]
    checkpoint = wronged(llama(tmp_path), wrong)
    engine = Engine(checkpoint, share=share)
    if share:
        engine.backend.planner._verify = lambda *lengths: True  # type: ignore[attr-defined]
    requests = REQUESTS[2:]
    with caplog.at_level(logging.WARNING, "harness"):
        assert_naive(checkpoint, engine, requests)
    [notice] = [m for m in caplog.messages if "by full passes" in m] or [""]
    assert bool(notice) is not cached
    assert reason in notice
    assert "\n" not in notice


def test_a_sound_model_takes_the_first_way_at_any_length(tmp_path: Path) -> None:
    methods = DecodingMethods(Forward(llama(tmp_path)))
    assert methods.sharing()
    assert [methods.step_method(grown) for grown in (1, 7, 40, 256)] == [CACHED_METHODS[0]] * 4


def test_a_length_that_has_passed_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    real = verify_decoding._texts

    def texts(forward: Forward, length: int, extra: list[int]) -> Any:
        lengths.append(length)
        return real(forward, length, extra)

    monkeypatch.setattr(verify_decoding, "_texts", texts)
    methods = DecodingMethods(Forward(llama(tmp_path)))
    for grown in (50, 40, 50, 60):
        methods.step_method(grown)
    assert lengths == [5, 48, 58]


def test_nan_is_found_by_its_item_and_not_by_a_trial(tmp_path: Path) -> None:
    checkpoint = llama(tmp_path)
    with torch.no_grad():
        checkpoint.model.model.norm.weight[0] = torch.nan
    methods = DecodingMethods(Forward(checkpoint))
    assert methods.sharing()
    assert methods.step_method(20) == CACHED_METHODS[0]


def test_memory_that_runs_out_in_a_trial_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = llama(tmp_path)
    engine = Engine(checkpoint, share=False)
    real, failures = PlainRows.admit, [2]

    def failing(self: PlainRows) -> Any:
        if failures[0]:
            failures[0] -= 1
            raise torch.OutOfMemoryError("not enough memory")
        return real(self)

    monkeypatch.setattr(PlainRows, "admit", failing)
    with caplog.at_level(logging.WARNING, "harness"):
        assert_naive(checkpoint, engine, REQUESTS[2:])
    assert "going on with 16 answers at once" in caplog.text
    assert engine.backend.generator._methods.step_method(10) != FULL_PASSES  # type: ignore[attr-defined]
