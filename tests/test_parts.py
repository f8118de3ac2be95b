"""Runs in parts: any order gives what a whole run gives, and no window is computed twice."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from speaker import Speaker, job_of, said

from harness.commands.evaluate.session import job_for
from harness.commands.options import DataOptions
from harness.core import (
    Encoding,
    Example,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Scored,
    request_text,
)
from harness.engine.checkpoint import random_model
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.random_model import byte_tokenizer
from harness.engine.engine import Engine
from harness.engine.queries.encode import Encoded, Encoder
from harness.engine.queries.preflight import Preflight, preflight
from harness.engine.queries.query import Answer, SpanScores
from harness.engine.router import Router
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import NumericsError, RecordError
from harness.plugins.registry import load_task
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown
from harness.records.record import Record
from harness.runner import Evaluation, Job, evaluate, part_sums
from harness.runner.parts import Part, Stretch, can_be_split, parts_of
from harness.runner.texts import Text

PTB = load_task("ptb")
[PPL] = PTB.measures(PTB.protocol().options)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-4}  # float32 in other batches; sums of nats reach hundreds


def sample_job(task: str, protocol: str = "paper", limit: int | None = None) -> Job:
    benchmark = load_task(task)
    short = {"max_new": "3"} if task == "coqa" else {}  # a random model never stops by itself
    options = DataOptions(sample=True, limit=limit)
    return job_for(benchmark, benchmark.protocol(protocol, short), options)


@pytest.fixture(scope="module")
def short() -> Checkpoint:
    """A random model that reads 64 tokens, so that every text has many windows."""
    return random_model.checkpoint(64)


@pytest.fixture(scope="module")
def long() -> Checkpoint:
    return random_model.checkpoint(2048)


# --- texts ------------------------------------------------------------------------------------

PIECES = st.lists(st.text("abc é", max_size=9), min_size=1, max_size=12)
TOKENIZER = Tokenizer(byte_tokenizer(), name="bytes")
KINDS = st.sampled_from(["plain", "lm-eval", "hf"])


def answered(router: Router, numbers: Iterator[float]) -> dict[Any, Answer]:
    """Answers in which no log-probability occurs twice."""
    answers = {}
    for query in router.queries:
        values = np.array([next(numbers) for _ in query.span.targets], np.float32)
        answers[query] = Answer(SpanScores(values, values < -3), len(query.span.inputs))
    return answers


@given(PIECES, st.integers(2, 9), st.integers(1, 9), KINDS, st.randoms(use_true_random=False))
def test_a_text_in_any_order_of_stretches_is_the_text(
    pieces: list[str], context: int, stride: int, kind: Any, rng: random.Random
) -> None:
    request = RollingLoglikelihood(tuple(pieces))
    encoder = Encoder(TOKENIZER, context)
    [encoded] = encoder.encode([request], Encoding(stride=stride, windows=kind))
    whole = Router([request], [encoded])
    answers = answered(whole, iter(-x / 8 for x in range(1, 10_000)))
    [(_, expected)] = [*whole.without_queries(), *whole.take(answers)]
    assert isinstance(expected, Rolled)

    text = Text(request, encoded)
    stretches = [range(k, k + 1) for k in range(len(pieces))]
    rng.shuffle(stretches)
    asked: list[int] = []
    for number, stretch in enumerate(stretches):
        for window in text.missing(stretch):
            asked.append(window)
            router = Router([request], [text.windows[window]])
            [(_, response)] = [*router.without_queries(), *router.take(answers)]
            text.take(window, response)
        known = [k for part in stretches[: number + 1] for k in part]
        response = text.response(known)
        for k, piece in enumerate(expected.pieces):
            assert response.pieces[k] == (piece if k in known else Scored((), ()))
        if len(text.windows) > 1:
            assert set(asked) == needed_windows(encoded, known)
    assert len(set(asked)) == len(asked)


def needed_windows(encoded: Encoded, pieces: Sequence[int]) -> set[int]:
    """The windows that predict a token of these pieces, token by token."""
    windows = [w for w, span in enumerate(encoded.spans) for _ in span.targets]
    owners = [k for k, count in enumerate(encoded.pieces) for _ in range(count)]
    return {w for w, k in zip(windows, owners, strict=True) if k in pieces}


# --- any order is a whole run -----------------------------------------------------------------

RUNS = [
    ("wikitext2", "paper"),
    ("wikitext2", "strided"),
    ("wikitext2", "hf"),
    ("wikitext2", "lm-eval"),
    ("lm1b", "paper"),
    ("enwik8", "paper"),
    ("lambada", "paper"),
    ("winograd", "paper"),
    ("coqa", "model-history"),
]


@pytest.mark.parametrize(("task", "protocol"), RUNS, ids="-".join)
def test_parts_in_any_order_are_the_whole_run(
    task: str, protocol: str, short: Checkpoint, long: Checkpoint
) -> None:
    job = sample_job(task, protocol, limit=4 if task == "coqa" else None)
    checkpoint = short if job.task.stream else long
    whole = evaluate(job, Engine(checkpoint))
    evaluation = Evaluation(job, Engine(checkpoint))
    order = list(range(len(evaluation.parts)))
    random.Random(5).shuffle(order)
    for count in range(2, len(order) + 2, 2):
        chosen = order[:count]  # those known are skipped
        evaluation.answer(chosen)
        assert_outcomes_of(evaluation, chosen, whole)
    assert_same_record(evaluation.record({"reason": "not stopped at all"}), whole)


def assert_outcomes_of(evaluation: Evaluation, chosen: Sequence[int], whole: Record) -> None:
    """The outcomes are those of the chosen parts, and as in the whole run."""
    outcomes = evaluation.outcomes()
    assert whole.outcomes is not None
    for measure, metric in outcomes.metrics.items():
        values = dict(
            zip(whole.outcomes.keys(measure), whole.outcomes.metrics[measure].values, strict=True)
        )
        keys = outcomes.keys(measure)
        assert keys == [key for key in values if key in set(keys)]
        np.testing.assert_allclose(metric.values, [values[key] for key in keys], **TOLERANCE)
        parts = [evaluation.parts[number] for number in chosen]
        sums, expected = (
            part_sums(parts, run, measure, statistics=2) for run in (outcomes, whole.outcomes)
        )
        np.testing.assert_allclose(sums, expected, **TOLERANCE)
        if metric.values:
            np.testing.assert_allclose(sums.sum(0), np.sum(metric.values, axis=0), **TOLERANCE)


def assert_same_record(record: Record, whole: Record) -> None:
    a, b = record.to_json(), whole.to_json()
    for name in ("seconds", "created"):
        a.pop(name), b.pop(name)
    scores, others = a.pop("scores"), b.pop("scores")
    for tokens in (a["tokens"], b["tokens"]):  # prefixes are shared within a slice only
        del tokens["computed"], tokens["scored"], tokens["checked"]
    assert a == b
    assert record.outcomes is not None
    assert whole.outcomes is not None
    assert record.outcomes.ids == whole.outcomes.ids
    assert record.outcomes.shown == whole.outcomes.shown
    for score, other in zip(scores, others, strict=True):
        assert score["metric"] == other["metric"]
        ours, theirs = (np.arcsinh(found["value"]) for found in (score, other))  # some are huge
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_a_part_computes_only_its_windows(short: Checkpoint) -> None:
    job = sample_job("wikitext2")
    whole = evaluate(job, Engine(short))
    engine = Engine(short)
    evaluation = Evaluation(job, engine)
    costs = []
    for number in range(len(evaluation.parts)):
        before = engine.tokens.computed
        evaluation.answer([number])
        costs.append(engine.tokens.computed - before)
    assert max(costs) < whole.tokens.computed / 4
    assert sum(costs) == whole.tokens.computed  # disjoint windows share nothing


STORY = {"source": "cnn", "story": "S", "questions": ("a", "b"), "references": (("R",),) * 2}
STORIES = [STORY, {**STORY, "story": "T"}, STORY]


class Counting(Speaker):
    """Says what is unusual about requests: here, that some are the same."""

    def preflight(self, requests: Sequence[Request], encoded: Sequence[Encoded]) -> Preflight:
        return preflight(requests, encoded)


def test_equal_requests_count_as_duplicates_in_any_slices() -> None:
    job = job_of("coqa", STORIES, "model-history")
    whole = evaluate(job, Counting(lambda request: said("yes")))
    assert whole.preflight["duplicates"] == 2  # in either round
    evaluation = Evaluation(job, Counting(lambda request: said("yes")))
    for number in (2, 1, 0):
        evaluation.answer([number])
    record = evaluation.record()
    assert (record.preflight, record.requests) == (whole.preflight, 6)


# --- what a part is ---------------------------------------------------------------------------


def lines(parts: Sequence[Part]) -> list[list[tuple[int, range]]]:
    return [[(s.example, s.pieces) for s in part.stretches] for part in parts]


def made_parts(
    texts: Sequence[Sequence[str]], blocks: int | None, extract: Any = None
) -> tuple[Part, ...]:
    """The parts of texts in lines, which are scored per line."""
    measure = replace(PPL, blocks=blocks, extract=extract or (lambda example, responses: [
        (-p.logprob, 1.0) for p in responses[0].pieces
    ]))  # fmt: skip
    examples = [Example(f"e{number}", {}) for number in range(len(texts))]
    groups = [(RollingLoglikelihood(tuple(text)),) for text in texts]
    return parts_of(PTB, [measure], examples, groups)


def test_parts_are_stretches_of_about_equal_length() -> None:
    texts = [["aaaa", "b", "c", "dd"], ["ee", "ffffff"]]
    assert lines(made_parts(texts, 4)) == [
        [(0, range(1))], [(0, range(1, 4))], [(1, range(1))], [(1, range(1, 2))],
    ]  # fmt: skip
    assert lines(made_parts(texts, 2)) == [
        [(0, range(4))],
        [(1, range(2))],
    ]
    assert lines(made_parts([["a"], ["b"], ["c"]], 1)) == [
        [(0, range(1)), (1, range(1)), (2, range(1))]
    ]
    assert lines(made_parts([["", ""]], 5)) == [[(0, range(2))]]


TEXTS = st.lists(
    st.lists(st.text("ab", max_size=5), min_size=2, max_size=9), min_size=1, max_size=5
)


@given(TEXTS, st.integers(1, 9))
def test_every_piece_is_in_one_part(texts: list[list[str]], blocks: int) -> None:
    parts = made_parts(texts, blocks)
    assert 1 <= len(parts) <= blocks
    found = [(e, k) for part in lines(parts) for e, pieces in part for k in pieces]
    assert found == [(e, k) for e, text in enumerate(texts) for k in range(len(text))]
    longest = max(len(piece) for text in texts for piece in text)
    total = sum(len(piece) for text in texts for piece in text)
    for part in lines(parts):
        size = sum(len(texts[e][k]) for e, pieces in part for k in pieces)
        assert size <= total / blocks + longest


def test_without_blocks_an_example_is_a_part() -> None:
    assert lines(made_parts([["a", "b"], ["c", "d"]], None)) == [[(0, range(1))], [(1, range(1))]]


@pytest.mark.parametrize(
    "extract",
    [
        lambda example, responses: [(-responses[0].logprob, 1.0)],
        lambda example, responses: [(1 / responses[0].num_tokens, 1.0) for _ in range(4)],
    ],
    ids=["one outcome for the text", "no text without tokens"],
)
def test_a_text_that_is_scored_as_a_whole_is_not_split(extract: Any) -> None:
    parts = made_parts([["a", "b", "c", "d"], ["e", "f"]], 9, extract)
    assert [s.split for part in parts for s in part.stretches] == [False, False]


def test_a_text_with_requests_that_follow_is_not_split() -> None:
    example = Example("0", {"words+eos": (1, 1)})
    group = (RollingLoglikelihood(("a", "b")),)
    assert can_be_split(PTB, [PPL], example, group)
    followed = replace(PTB, follow=lambda *args: [])
    assert not can_be_split(followed, [PPL], example, group)
    assert not can_be_split(PTB, [PPL], example, (*group, *group))


def test_parts_do_not_depend_on_the_checkpoint(short: Checkpoint, long: Checkpoint) -> None:
    job = sample_job("wikitext2", limit=12)
    assert Evaluation(job, Engine(short)).parts == Evaluation(job, Engine(long)).parts


# --- sums -------------------------------------------------------------------------------------

TEXT = Outcomes(
    ("t", "u"),
    (Shown("", "", ""),) * 2,
    {
        "ppl": MetricOutcomes((0, 0, 0, 1), ((1.0, 2.0), (10.0, 3.0), (100.0, 4.0), (7.0, 1.0))),
        "none": MetricOutcomes((), ()),
    },
)
FIRST = Part((Stretch(0, "t", range(1), True),))
LAST = Part((Stretch(0, "t", range(1, 3), True), Stretch(1, "u", range(1), False)))


def test_the_outcomes_of_a_part_are_summed() -> None:
    assert part_sums([LAST, FIRST], TEXT, "ppl").tolist() == [[117.0, 8.0], [1.0, 2.0]]
    assert part_sums([FIRST], TEXT, "ppl").tolist() == [[1.0, 2.0]]
    whole = [Part((Stretch(1, "u", range(1), False),))]
    assert part_sums(whole, TEXT, "none", statistics=3).tolist() == [[0.0, 0.0, 0.0]]


def test_a_part_that_a_run_lacks_is_an_error() -> None:
    some = MetricOutcomes((0, 0), ((1.0, 2.0), (100.0, 4.0)), parts=(0, 2))
    stopped = replace(TEXT, metrics={"ppl": some})
    assert stopped.keys("ppl") == [("t", 0), ("t", 2)]
    with pytest.raises(RecordError, match="no outcome of 'ppl' for example t, piece 2; expected"):
        part_sums([FIRST, LAST], stopped, "ppl")
    with pytest.raises(RecordError, match="no outcome of 'ppl' for example x; expected"):
        part_sums([Part((Stretch(0, "x", range(1), False),))], TEXT, "ppl")
    with pytest.raises(RecordError, match=r"no outcomes of 'acc' \(available: ppl, none\)"):
        part_sums([FIRST], TEXT, "acc")


# --- errors -----------------------------------------------------------------------------------


def test_nothing_is_half_known_after_an_error(
    short: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sample_job("wikitext2")
    whole = evaluate(job, Engine(short))
    engine = Engine(short)
    evaluation = Evaluation(job, engine)
    evaluation.answer([4])
    before, real = evaluation.outcomes(), engine.answer

    def fails(*args: Any) -> Iterator[tuple[int, Response]]:
        yield next(real(*args))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "answer", fails)
        with pytest.raises(KeyboardInterrupt):
            evaluation.answer(range(2, 8))
    assert evaluation.outcomes() == before
    evaluation.answer(range(len(evaluation.parts)))
    assert evaluation.record().scores[0].value == pytest.approx(whole.scores[0].value, rel=1e-5)


def test_requests_of_a_failed_slice_are_not_counted() -> None:
    """The second story fails in the second round, and is asked again from the first."""
    job = job_of("coqa", STORIES[:2], "model-history")
    whole = evaluate(job, Counting(lambda request: said("yes")))
    failures = iter([True])

    def fails_once(request: Request) -> Response:
        if request_text(request).startswith("T\nQ: a\nA: yes") and next(failures, False):
            raise KeyboardInterrupt
        return said("yes")

    evaluation = Evaluation(job, Counting(fails_once))
    evaluation.answer([0])
    with pytest.raises(KeyboardInterrupt):
        evaluation.answer([1])
    assert evaluation.record().requests == 2
    evaluation.answer([1])
    assert_same_record(evaluation.record(), whole)


def test_a_run_without_parts_has_no_record(short: Checkpoint) -> None:
    with pytest.raises(NumericsError, match="wikitext2: no part was answered"):
        Evaluation(sample_job("wikitext2"), Engine(short)).record()


def test_a_text_that_is_not_complete_is_shown_to_the_canaries() -> None:
    """A model without input, of which a part is enough to see it."""
    job = sample_job("wikitext2")
    engine = Blind(random_model.checkpoint(64))
    evaluation = Evaluation(job, engine)
    evaluation.answer([0, 9])
    for _ in range(2):  # a record changes nothing
        [warning] = evaluation.record().warnings
        assert warning.startswith("constant log-probabilities: all ")
    evaluation.answer([3])
    assert evaluation.record().warnings != (warning,)  # it has seen more tokens


class Blind(Engine):
    """Every token has the same probability."""

    def answer(self, *args: Any) -> Iterator[tuple[int, Response]]:
        for i, response in super().answer(*args):
            assert isinstance(response, Rolled)
            yield i, Rolled(tuple(
                Scored((-2.0,) * p.num_tokens, (False,) * p.num_tokens) for p in response.pieces
            ))  # fmt: skip
