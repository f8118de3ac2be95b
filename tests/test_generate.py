"""Generation against one-by-one `model.generate`, its stops, samples and invariants."""

import gc
import random
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as tf
from conftest import byte_tokenizer, save_tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed import skip_self_tests
from scipy.stats import chisquare
from transformers import Cache, DynamicLayer

from harness.core import Encoding, Generate, Generated, Loglikelihood, Request, Scored
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.settings import Settings
from harness.engine.decoding import drafts, verify_decoding
from harness.engine.decoding import shared_rows as rows_module
from harness.engine.decoding.cascade_rows import CascadeRows
from harness.engine.decoding.generator import Generator
from harness.engine.decoding.kv_slots import Slots
from harness.engine.decoding.rows import Limits, PlainRows, Step
from harness.engine.engine import Engine
from harness.errors import CheckpointError, EncodingError, NumericsError

STORY = "the sand and the sea said, “é” the end.\n"
TEXT = st.text(alphabet="the sand .,'\n“é", min_size=1, max_size=30)


def answers(engine: Engine, requests: list[Request]) -> list[Generated]:
    found = dict(engine.answer(requests, engine.encode(requests, Encoding())))
    ordered = [found[i] for i in range(len(requests))]
    assert all(isinstance(answer, Generated) for answer in ordered)
    return ordered  # type: ignore[return-value]


def turns(count: int, new: int = 12, stop: tuple[str, ...] = ()) -> list[Request]:
    """A conversation: every prompt extends the one before."""
    said = [f"Q: the sea {i}\nA: sand {i}\n" for i in range(count)]
    return [Generate((STORY, *said[:k], "Q: why\nA:"), new, stop=stop) for k in range(count)]


def siblings(count: int, new: int = 12) -> list[Request]:
    """Questions after the same examples."""
    return [Generate((STORY * 2, f"Q: {'the ' * k}{k}\nA:"), new) for k in range(count)]


def one_by_one(checkpoint: Checkpoint, prompt: tuple[int, ...], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.no_grad():
        found = checkpoint.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=sorted(checkpoint.end_tokens),
            pad_token_id=0,
        )
    tokens: list[int] = found[0, len(prompt) :].tolist()
    return tokens


@pytest.fixture(scope="module")
def engine(tiny: Checkpoint) -> Engine:
    return Engine(tiny)


# --- against transformers -------------------------------------------------------------------


def test_greedy_answers_equal_those_of_transformers(engine: Engine, tiny: Checkpoint) -> None:
    requests = [*turns(6), *siblings(40), Generate(("the the",), 30)]
    encoded = engine.encode(requests, Encoding())
    for e, answer in zip(encoded, answers(engine, requests), strict=True):
        prompt = e.spans[0].inputs
        assert list(answer.tokens) == one_by_one(tiny, prompt, len(answer.tokens))
    assert engine.tokens.computed < engine.tokens.asked / 2, "prefixes must be computed once"


def test_logprobs_are_the_models_own(engine: Engine, tiny: Checkpoint) -> None:
    [answer] = answers(engine, [Generate((STORY,), 9)])
    prompt = engine.encode([Generate((STORY,), 9)], Encoding())[0].spans[0].inputs
    with torch.no_grad():
        logits = tiny.model(torch.tensor([[*prompt, *answer.tokens]])).logits[0].float()
    at = range(len(prompt) - 1, len(prompt) + len(answer.tokens) - 1)
    want = [logits[i].log_softmax(-1)[t].item() for i, t in zip(at, answer.tokens, strict=True)]
    assert answer.logprobs == pytest.approx(want, abs=2e-5)
    assert answer.logprob == pytest.approx(sum(want[: answer.num_tokens]), abs=1e-4)


FAMILIES = {
    "sliding window": lambda v: tf.MistralForCausalLM(
        tf.MistralConfig(
            vocab_size=v, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48, max_position_embeddings=256, num_key_value_heads=1,
            head_dim=16, initializer_range=0.4, sliding_window=8,
        )
    ),
    "grouped heads": lambda v: tf.LlamaForCausalLM(
        tf.LlamaConfig(
            vocab_size=v, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48, max_position_embeddings=256, num_key_value_heads=1,
            head_dim=16, initializer_range=0.4,
        )
    ),
    "no keys and values": lambda v: tf.MambaForCausalLM(
        tf.MambaConfig(vocab_size=v, hidden_size=32, num_hidden_layers=2, state_size=4)
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_equal_a_naive_loop(family: str, tmp_path: Path) -> None:
    """Rows that may not share are decoded together with rows of the same length."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(3)
    FAMILIES[family](len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    checkpoint = load(str(tmp_path), Settings(device="cpu"))
    engine = Engine(checkpoint)
    requests = [*turns(3, new=6), Generate((STORY,), 9), Generate((STORY,), 3)]
    encoded = engine.encode(requests, Encoding())
    for e, answer in zip(encoded, answers(engine, requests), strict=True):
        tokens = [*e.spans[0].inputs]
        for token in answer.tokens:
            with torch.no_grad():
                logits = checkpoint.model(torch.tensor([tokens])).logits[0, -1]
            assert token == logits.argmax().item()
            tokens.append(token)


# --- invariants -----------------------------------------------------------------------------


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(
    tails=st.lists(TEXT, min_size=1, max_size=12),
    new=st.integers(1, 9),
    top_k=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 99),
)
def test_limits_order_and_sharing_change_no_answer(
    tiny: Checkpoint, tails: list[str], new: int, top_k: int, seed: int
) -> None:
    requests: list[Request] = [
        Generate((STORY, tail), new + k % 3, stop=("e",), top_k=top_k, seed=(seed, k % 2))
        for k, tail in enumerate(tails)
    ]
    want = answers(Engine(tiny, share=False), requests)
    order = list(range(len(requests)))
    random.Random(seed).shuffle(order)
    limits = [
        Limits(prefill=64, completions=1, cache_bytes=1),
        Limits(prefill=256, completions=5, cache_bytes=1 << 18),
        Limits(prefill=4096, completions=64, cache_bytes=1 << 24),
    ]
    for limit in limits:
        engine = Engine(tiny)
        engine.backend.generator._limits = limit
        skip_self_tests(engine)
        got = answers(engine, [requests[i] for i in order])
        for i, answer in zip(order, got, strict=True):
            assert answer.tokens == want[i].tokens
            assert answer.text == want[i].text
            assert answer.logprobs == pytest.approx(want[i].logprobs, abs=1e-4)


@pytest.fixture
def no_cascade(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for models with windows: rows under a mask."""
    monkeypatch.setattr(verify_decoding, "_may_take_cascade", lambda forward: False)


def test_packing_columns_away_changes_no_answer(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, no_cascade: None
) -> None:
    requests = [Generate((STORY, f"{k}"), 3 if k else 60) for k in range(20)]
    packed = []
    before = rows_module.SharedRows._compact
    monkeypatch.setattr(rows_module, "MIN_DEAD_COLUMNS", 1)
    monkeypatch.setattr(
        rows_module.SharedRows,
        "_compact",
        lambda self, slot: (
            packed.append(slot.filled),
            before(self, slot),
            packed.append(slot.filled),
        ),
    )
    got = answers(Engine(tiny), list(requests))
    assert any(b < a for a, b in zip(packed[::2], packed[1::2], strict=True)), "nothing was packed"
    monkeypatch.setattr(rows_module, "MIN_DEAD_COLUMNS", 1 << 30)
    assert [a.tokens for a in got] == [a.tokens for a in answers(Engine(tiny), list(requests))]


def test_identical_requests_run_once(tiny: Checkpoint) -> None:
    engine = Engine(tiny)
    request = Generate((STORY,), 5)
    first, *others = answers(engine, [request, request, replace(request, seed=(7,))])
    assert all(other == first for other in others), "greedy answers do not depend on the seed"
    prompt = len(engine.encode([request], Encoding())[0].spans[0].inputs)
    assert engine.tokens.computed == prompt + 4
    assert engine.tokens.asked == 3 * (prompt + 4)
    assert engine.tokens.scored == 5


def test_scored_and_written_requests_mix(engine: Engine) -> None:
    requests: list[Request] = [Generate((STORY,), 4), Loglikelihood(STORY, "the"), *turns(2)]
    found = dict(engine.answer(requests, engine.encode(requests, Encoding())))
    assert [type(found[i]) for i in range(4)] == [Generated, Scored, Generated, Generated]


# --- where answers end ----------------------------------------------------------------------


def scripted(checkpoint: Checkpoint, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every answer spell `text`, then the end-of-text token, whatever the model says."""
    script = [*checkpoint.tokenizer.encode([text])[0], *sorted(checkpoint.end_tokens)]
    script += [0] * drafts.LONGEST  # chosen after drafts that go beyond the end

    def chosen(self: Generator, step: Step) -> Iterator[tuple[int, float]]:
        del self
        drafted = [(len(c.tokens), len(c.tokens) + len(draft)) for c, draft in step.drafted()]
        return iter([(script[k], -0.5) for first, last in drafted for k in range(first, last + 1)])

    monkeypatch.setattr(Generator, "_chosen", chosen)


@pytest.mark.parametrize(
    ("written", "stop", "text", "ended"),
    [
        ("the sand", (), "the sand", "end"),
        ("the sand\nand the", ("\n",), "the sand", "stop"),
        ("the sand\nQ: and the", ("\nQ:",), "the sand", "stop"),
        ("the Q sand", ("\nQ:",), "the Q sand", "end"),
        ("a. b, c", (",", "."), "a", "stop"),
        ("say “é” no", ("é",), "say “", "stop"),
        ("say “é” no", ("”",), "say “é", "stop"),
        ("the", ("the",), "", "stop"),
        ("an and the", (" a",), "an", "stop"),
        ("<|endoftext|>Z", ("Z",), "<|endoftext|>", "stop"),
        ("a\r\nb\u2028c\x0bd", ("d",), "a\r\nb\u2028c\x0b", "stop"),
    ],
)
def test_text_ends_before_the_first_stop(
    tiny: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    written: str,
    stop: tuple[str, ...],
    text: str,
    ended: str,
) -> None:
    scripted(tiny, written, monkeypatch)
    [answer] = answers(Engine(tiny), [Generate((STORY,), 60, stop=stop)])
    assert (answer.text, answer.ended) == (text, ended)
    held = tiny.tokenizer.new_text((), answer.tokens[: answer.num_tokens])
    assert held.startswith(text)
    if answer.num_tokens:
        less = tiny.tokenizer.new_text((), answer.tokens[: answer.num_tokens - 1])
        assert not less.startswith(text)


def test_an_answer_that_never_stops_ends_at_the_limit(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(tiny, "sand " * 50, monkeypatch)
    [answer] = answers(Engine(tiny), [Generate((STORY,), 7, stop=("\n",))])
    assert answer.ended == "length"
    assert len(answer.tokens) == answer.num_tokens == 7


# --- samples --------------------------------------------------------------------------------


def test_samples_follow_the_distribution(tiny: Checkpoint) -> None:
    """First tokens of 3,000 samples against the renormalised probabilities of the best five."""
    engine = Engine(tiny)
    requests: list[Request] = [
        Generate(("the sand",), 1, top_k=5, seed=(0, k)) for k in range(3000)
    ]
    drawn = Counter(answer.tokens[0] for answer in answers(engine, requests))
    prompt = engine.encode(requests[:1], Encoding())[0].spans[0].inputs
    with torch.no_grad():
        logits = tiny.model(torch.tensor([prompt])).logits[0, -1].double()
    values, tokens = logits.topk(5)
    want = values.softmax(0) * len(requests)
    assert set(drawn) <= set(tokens.tolist())
    assert chisquare([drawn[t] for t in tokens.tolist()], want.numpy()).pvalue > 1e-3
    assert engine.tokens.computed == len(prompt), "all samples share one prompt"


def test_a_longer_sample_begins_with_the_shorter_one(engine: Engine) -> None:
    short, long = (
        answers(engine, [Generate((STORY,), n, top_k=3, seed=(0, 1))])[0] for n in (4, 9)
    )
    assert long.tokens[:4] == short.tokens


def test_seeds_differ_and_repeat(engine: Engine) -> None:
    requests: list[Request] = [Generate((STORY,), 12, top_k=5, seed=(0, seed)) for seed in range(4)]
    once, again = answers(engine, requests), answers(engine, requests)
    assert once == again
    assert len({answer.tokens for answer in once}) > 1


# --- prompts that do not fit ----------------------------------------------------------------


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = save_tiny(tmp_path_factory.mktemp("short") / "m", context=32)
    return Engine(load(str(folder), Settings(device="cpu")))


def fed(engine: Engine, request: Generate) -> tuple[str, bool]:
    [encoded] = engine.encode([request], Encoding())
    inputs = encoded.spans[0].inputs
    assert len(inputs) + request.max_new_tokens <= engine.identity.context
    start = len(engine.tokenizer.start_tokens("auto"))
    return engine.tokenizer.decode(inputs[start:]), encoded.truncated


def test_oldest_turns_go_first_then_the_storys_beginning(short: Engine) -> None:
    parts = ("story: xyz\n", "q1 a1\n", "q2 a2\n", "q3 a3\n", "q4")
    fits = Generate(parts[:1] + parts[3:], 4, overflow="turns")
    assert fed(short, fits) == (fits.prompt, False)
    whole = Generate(parts, 4, overflow="turns")
    assert fed(short, whole) == (parts[0] + "".join(parts[2:]), True)
    text, truncated = fed(short, Generate(("0123456789" * 4, "old\n", "Q"), 4, overflow="turns"))
    assert truncated
    assert text == ("0123456789" * 4 + "Q")[-27:]


def test_the_end_of_an_article_goes_and_the_hint_stays(short: Engine) -> None:
    request = Generate(("0123456789" * 4, "\nTL;DR:"), 4, overflow="right")
    assert fed(short, request) == (("0123456789" * 4)[:20] + "\nTL;DR:", True)
    left = replace(request, overflow="left")
    assert fed(short, left) == (("0123456789" * 4 + "\nTL;DR:")[-27:], True)


def test_no_room_for_a_prompt_is_one_line(short: Engine) -> None:
    with pytest.raises(EncodingError, match="32 new tokens leave no room for a prompt"):
        short.encode([Generate(("a",), 32)], Encoding())
    with pytest.raises(EncodingError, match="needs a prompt or a start token"):
        short.encode([Generate(("",), 3)], Encoding(bos="none"))


def test_answers_up_to_the_last_position(short: Engine) -> None:
    [answer] = answers(short, [Generate(("x" * 40,), 16)])
    assert answer.ended in ("length", "end")


# --- what can go wrong ----------------------------------------------------------------------


def test_nan_logits_name_the_request(tmp_path: Path) -> None:
    checkpoint = load(str(save_tiny(tmp_path / "m", context=64)), Settings(device="cpu"))
    engine = Engine(checkpoint)
    with torch.no_grad():
        checkpoint.model.transformer.ln_f.weight[0] = torch.nan
    requests: list[Request] = [Loglikelihood("a", "b"), Generate(("the",), 3)]
    with pytest.raises(NumericsError, match="expected a finite number") as caught:
        list(engine.answer(requests[1:], engine.encode(requests[1:], Encoding())))
    assert caught.value.request == 0


NO_MEMORY = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:132] DefaultCPUAllocator: can't allocate memory: "
                 "you tried to allocate 1 bytes. Error code 12 (Cannot allocate memory)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: "
                 "you tried to allocate 1 bytes."),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    MemoryError(),
]  # fmt: skip


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: (str(error) or "python")[-30:])
def test_out_of_memory_goes_on_with_less(
    error: Exception,
    tiny: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    want = [answer.tokens for answer in answers(Engine(tiny), siblings(12))]
    engine = Engine(tiny)
    feed = CascadeRows.feed

    def failing(self: CascadeRows) -> object:
        if len(self._branches) > 5:  # the self-test has 5
            raise error
        return feed(self)

    monkeypatch.setattr(CascadeRows, "feed", failing)
    with caplog.at_level("WARNING"):
        got = [answer.tokens for answer in answers(engine, siblings(12))]
    assert got == want
    assert "going on with 4 answers at once" in caplog.text


@pytest.mark.parametrize("cached", [True, False])
def test_out_of_memory_in_rows_that_share_nothing(
    cached: bool,
    tiny: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    requests: list[Request] = [Generate((f"{STORY}{c}",), 5 + k) for k, c in enumerate("abcdefgh")]
    want = [answer.tokens for answer in answers(Engine(tiny, share=False), requests)]
    engine = Engine(tiny, share=False)
    if not cached:
        engine.backend.generator._methods._methods = []
    last = PlainRows._last

    def failing(self: PlainRows, rows: list[list[int]], **given: object) -> torch.Tensor:
        if len(rows) > 3:
            raise NO_MEMORY[0]
        return last(self, rows, **given)

    monkeypatch.setattr(PlainRows, "_last", failing)
    with caplog.at_level("WARNING"):
        assert [answer.tokens for answer in answers(engine, requests)] == want
    assert "going on with 4 answers at once" in caplog.text


def test_out_of_memory_on_one_answer_is_one_line(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: CascadeRows) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 1 byte")

    monkeypatch.setattr(CascadeRows, "feed", failing)
    with pytest.raises(CheckpointError, match="out of memory on a single answer"):
        answers(Engine(tiny), siblings(3))


def test_buffers_are_free_as_soon_as_nobody_needs_them() -> None:
    """Even without the garbage collector: they are too large to wait for it."""
    layer = DynamicLayer()
    layer.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
    gc.disable()
    try:
        slots = Slots(2, 8)
        slots.put(0, Cache(layers=[layer]), 0, 3)
        slots.at(torch.zeros(1, 1, dtype=torch.long), 3)
        buffer = weakref.ref(slots._layers[0].keys)
        assert buffer() is not None
        del slots
        assert buffer() is None
    finally:
        gc.enable()
