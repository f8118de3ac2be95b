"""The engine against a naive loop over transformers in float32, and its invariants."""

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed import answers, skip_self_tests

from harness.core import (
    Encoding,
    Loglikelihood,
    NextWord,
    Request,
    Rolled,
    RollingLoglikelihood,
    Scored,
    Word,
)
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.engine import Engine
from harness.engine.model.forward import Forward

TEXT = st.text(alphabet="the sand .,'\n“é", min_size=1, max_size=40)
SHARED = ["", "the sand and the ", "the sand and the sea said, ", "“é the th", "\nthe"]


def ask(engine: Engine, requests: list[Request], encoding: Encoding) -> list[object]:
    answers = dict(engine.answer(requests, engine.encode(requests, encoding)))
    return [answers[i] for i in range(len(requests))]


def naive(checkpoint: Checkpoint, tokens: list[int], first: int) -> tuple[list[float], list[bool]]:
    """The reference: one row, all logits, log-softmax."""
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([tokens[:-1]])).logits[0].float()
    logprobs = logits.log_softmax(-1)
    targets = tokens[first:]
    rows = range(first - 1, len(tokens) - 1)
    values = [logprobs[r, t].item() for r, t in zip(rows, targets, strict=True)]
    return values, [logits[r].argmax().item() == t for r, t in zip(rows, targets, strict=True)]


@pytest.fixture(scope="module")
def engine(tiny: Checkpoint) -> Engine:
    return Engine(tiny)


def test_loglikelihood_equals_naive_loop(engine: Engine, tiny: Checkpoint) -> None:
    requests: list[Request] = [
        Loglikelihood(shared + "an", " " + word)
        for shared in SHARED
        for word in ("sand", "the end", "sand.\n", "é")
    ]
    start = tiny.tokenizer.start_tokens("auto")
    for request, answer in zip(requests, ask(engine, requests, Encoding()), strict=True):
        assert isinstance(request, Loglikelihood)
        assert isinstance(answer, Scored)
        context = [*start, *tiny.tokenizer.encode([request.context])[0]]
        whole = context + tiny.tokenizer.encode([request.continuation])[0]
        values, greedy = naive(tiny, whole, len(context))
        assert answer.logprobs == pytest.approx(values, abs=2e-5)
        assert list(answer.greedy) == greedy
    assert engine.tokens.computed < engine.tokens.asked, "shared prefixes must be computed once"


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(
    tails=st.lists(st.tuples(st.sampled_from(SHARED), TEXT, TEXT), min_size=1, max_size=12),
    rolling=st.lists(TEXT, max_size=4),
    seed=st.integers(0, 9),
)
def test_budget_order_and_sharing_change_no_score(
    tiny: Checkpoint, tails: list[tuple[str, str, str]], rolling: list[str], seed: int
) -> None:
    requests: list[Request] = [
        Loglikelihood(shared + context, " x" + continuation)
        for shared, context, continuation in tails
    ]
    requests += [RollingLoglikelihood((text, "and the sand")) for text in rolling]
    encoding = Encoding(stride=40)
    want = ask(Engine(tiny, budget=1024, share=False), requests, encoding)
    shuffled = list(range(len(requests)))
    random.Random(seed).shuffle(shuffled)
    for budget, share in ((64, True), (256, True), (4096, True), (64, False)):
        engine = Engine(tiny, budget=budget, share=share)
        skip_self_tests(engine)
        got = ask(engine, [requests[i] for i in shuffled], encoding)
        for i, answer in zip(shuffled, got, strict=True):
            expected = want[i]
            assert isinstance(answer, Scored | Rolled)
            assert isinstance(expected, Scored | Rolled)
            assert answer.logprob == pytest.approx(expected.logprob, rel=1e-5, abs=1e-4)
            assert answer.num_tokens == expected.num_tokens


@settings(max_examples=12)
@given(pieces=st.lists(TEXT, min_size=1, max_size=12), stride=st.integers(1, 300))
def test_rolling_scores_every_token_once(tiny: Checkpoint, pieces: list[str], stride: int) -> None:
    engine = Engine(tiny)
    [answer] = ask(engine, [RollingLoglikelihood(tuple(pieces))], Encoding(stride=stride))
    assert isinstance(answer, Rolled)
    assert answer.num_tokens == len(tiny.tokenizer.encode(["".join(pieces)])[0])
    assert len(answer.pieces) == len(pieces)


def test_rolling_equals_naive_windows(engine: Engine, tiny: Checkpoint) -> None:
    text = "the sand and the sea said, “é” the end.\n" * 12
    tokens = [*tiny.tokenizer.start_tokens("auto"), *tiny.tokenizer.encode([text])[0]]
    size = tiny.identity.context
    assert len(tokens) > size + 50
    total, done = 0.0, 1
    while done < len(tokens):
        stop = min(done + size, len(tokens))
        window = tokens[done - 1 : stop]
        total += sum(naive(tiny, window, 1)[0])
        done = stop
    [answer] = ask(engine, [RollingLoglikelihood((text,))], Encoding())
    assert isinstance(answer, Rolled)
    assert answer.logprob == pytest.approx(total, rel=1e-6)


def test_next_word_equals_naive_search(engine: Engine, tiny: Checkpoint) -> None:
    """Stop words are skipped by a plain greedy loop, one forward pass per token."""
    contexts = [shared + "and the sand" for shared in SHARED]
    skip = frozenset({"the", "s", "a", "0", "1"})
    requests: list[Request] = [NextWord(context, skip) for context in contexts]
    for share in (True, False):
        answers = ask(Engine(tiny, share=share), requests, Encoding())
        for context, answer in zip(contexts, answers, strict=True):
            assert isinstance(answer, Word)
            assert answer.text == _search(tiny, context, skip)


def _search(tiny: Checkpoint, context: str, skip: frozenset[str]) -> str:
    start = [*tiny.tokenizer.start_tokens("auto"), *tiny.tokenizer.encode([context])[0]]

    def ranked(path: list[int]) -> list[int]:
        with torch.no_grad():
            logits = tiny.model(torch.tensor([start + path])).logits[0, -1]
        return logits.argsort(descending=True).tolist()

    def text(ids: list[int]) -> str:
        return "".join(tiny.tokenizer.token_texts(ids))

    for first in ranked([])[:50]:
        if not any(c.isalnum() for c in text([first])) or "\n" in text([first]):
            continue
        path = [first]
        while len(path) < 6:
            following = ranked(path)[0]
            if not text([following])[:1].isalnum():
                break
            path.append(following)
        if text(path).strip().lower() not in skip:
            return text(path).strip()
    return ""


def test_logits_in_pieces_are_the_same_logits(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = answers(Engine(tiny))
    monkeypatch.setattr(Forward, "chunk", 2)
    for got, expected in zip(answers(Engine(tiny)), want, strict=True):
        if isinstance(expected, Scored | Rolled):
            assert isinstance(got, Scored | Rolled)
            assert got.logprob == pytest.approx(expected.logprob, rel=1e-5, abs=1e-4)
        elif isinstance(expected, Word):
            assert got == expected
