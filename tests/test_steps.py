"""The steps of a measure lead to the outcome that its extractor gives."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from speaker import job_of, said, with_pairs

from harness.core import Example, Fields, Response, Scored, Word
from harness.errors import TaskError
from harness.metrics import ACCURACY
from harness.metrics.extract import all_greedy
from harness.plugins.guard import guarded
from harness.plugins.registry import load_task, task_names
from harness.runner import Job, prepare
from harness.task import Measure, Options
from harness.testing.golden import sample_job

STREAMS = {"wikitext2", "wikitext103", "ptb", "enwik8", "text8", "lm1b"}


def first(job: Job) -> Example:
    return prepare(job).examples[0]


def measure_of(job: Job, name: str) -> Measure:
    measures = job.task.measures(job.protocol.options)
    return next(measure for measure in measures if measure.name == name)


def steps_and_outcome(
    job: Job, name: str, responses: Sequence[Response]
) -> tuple[list[tuple[str, Any]], tuple[float, ...]]:
    measure, example = measure_of(job, name), first(job)
    assert measure.steps is not None
    [outcome] = measure.extract(example, responses)
    return list(measure.steps(example, responses)), outcome


@pytest.mark.parametrize("name", [name for name in task_names() if name not in STREAMS])
def test_what_a_person_needs_steps_for_has_them(name: str) -> None:
    task = load_task(name)
    first_measure, *_ = task.measures(task.protocol().options)
    assert first_measure.steps is not None


STORY = {
    "source": "mctest",
    "story": "Ann has a cat.",
    "questions": ("Who?", "What?"),
    "references": (("Ann", "Ann Lee"), ("a cat", "Cat")),
}


@pytest.mark.parametrize("several", ["leave-one-out", "best"])
@pytest.mark.parametrize("name", ["f1", "em"])
def test_coqa(name: str, several: str) -> None:
    job = job_of("coqa", [STORY], several=several)
    steps, outcome = steps_and_outcome(job, name, [said(" The Ann.\nQ:"), said(" dog")])
    assert steps[:2] == [
        ("scored turn 1: answer", "The Ann."),
        ("scored turn 1: normalised", "ann"),
    ]
    scores = [value for title, value in steps if title.endswith(several)]
    assert (sum(scores), float(len(scores))) == outcome
    references = [value for title, value in steps if title.endswith("with each reference")]
    assert [len(values) for values in references] == [2, 2]


def test_nq() -> None:
    fields: list[Fields] = [{"question": "who is it", "answer": ["Ann Lee", "the Cat"]}]
    job = with_pairs(job_of("nq", fields), [{"question": "q", "answer": ["a"]}])
    for text in (" The cat.", " dog", " "):
        response = said(text, -0.5, -0.25)
        steps, outcome = steps_and_outcome(job, "em", [response])
        matching = dict(steps)["matching references"]
        assert outcome == (float(bool(matching)), 1.0)
        assert matching == (["the Cat"] if "cat" in text else [])
        steps, outcome = steps_and_outcome(job, "em-top-1%", [response])
        assert (dict(steps)["confidence"], float(bool(matching)), 1.0) == outcome
    scored_too = replace(job, protocol=job.task.protocol("gold"))
    responses = [said(" dog"), scores(-4.0, -1.0), scores(-2.0)]
    steps, outcome = steps_and_outcome(scored_too, "nats", responses)
    assert steps == [("log-probability of 'Ann Lee'", -5.0), ("log-probability of 'the Cat'", -2.0)]
    assert outcome == (2.0, 1.0)


def test_cnn_dm() -> None:
    rows: list[Fields] = [{"article": "One. Two. Three. Four.", "highlights": "one two", "id": "a"}]
    job = job_of("cnn-dm", rows)
    responses = [said(" One two. It is. So be it. No more."), said("no"), said(" two")]
    for score in ("rouge-1", "rouge-2", "rouge-l", "rouge-avg"):
        steps, outcome = steps_and_outcome(job, score, responses)
        values = tuple(value for title, value in steps if title.endswith(f": {score}"))
        assert (*values, 1.0) == outcome
        assert dict(steps)["summary 1: sentences"] == ["One two.", "It is.", "So be it."]
        [outcome] = measure_of(job, f"lede-3 {score}").extract(first(job), [])
        steps = list(measure_of(job, f"lede-3 {score}").steps(first(job), []))  # type: ignore[misc]
        assert (dict(steps)[f"summary 1: {score}"], 1.0) == outcome


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_wmt14(name: str) -> None:
    rows: list[Fields] = [{"en": "A cat is here.", "fr": "Un chat est ici. Oui."}]
    job = with_pairs(job_of("wmt14-en-fr", rows, draws="2"), rows)
    responses = [said(" Un chat est ici. Non.\nmore"), said(" Un chien est ici.")]
    steps, outcome = steps_and_outcome(job, name, responses)
    assert dict(steps)["draw 1: translation"] == "Un chat est ici."
    counts = [value for title, value in steps if title.endswith("counts")]
    assert (*counts[0], *counts[1], 1.0) == outcome


def scores(*logprobs: float) -> Scored:
    return Scored(logprobs, tuple(value > -1 for value in logprobs))


@pytest.mark.parametrize("norm", ["none", "tokens"])
def test_winograd(norm: str) -> None:
    task = load_task("winograd")
    job = sample_job(task, task.protocol("paper", {"norm": norm}), 1)
    responses = [scores(-1, -2), scores(-2.5), scores(-1), scores(-3, -0.5)]
    for name in ("acc-partial", "acc-full"):
        steps, outcome = steps_and_outcome(job, name, responses)
        values, right = steps[0][1], first(job).fields["right"]
        assert outcome == (float(values[right] > values[1 - right]), 1.0)
    for name in ("margin-partial", "margin-full"):
        steps, outcome = steps_and_outcome(job, name, responses)
        values, right = steps[0][1], first(job).fields["right"]
        assert outcome == (values[right] - values[1 - right], 1.0)
    for name in ("nats-partial", "nats-full"):
        steps, outcome = steps_and_outcome(job, name, responses)
        assert outcome == (-dict(steps)["log-probability of the continuation"], 1.0)


@pytest.mark.parametrize("norm", ["none", "tokens", "bytes"])
def test_cbt(norm: str) -> None:
    task = load_task("cbt-cn")
    job = sample_job(task, task.protocol("paper", {"norm": norm}), 1)
    responses = [scores(*[-1.0 - i] * (1 + i % 3)) for i in range(10)]
    steps, outcome = steps_and_outcome(job, "acc", responses)
    named = dict(steps)
    assert outcome == (float(named["most probable choice"] == named["right choice"]), 1.0)
    assert len(steps) == 12
    for name, last in (("nats", ["right"]), ("margin", ["right", "most probable wrong"])):
        steps, outcome = steps_and_outcome(job, name, responses)
        named = dict(steps)
        end = ", normalised" if name == "margin" else ""
        value, *wrong = (named[f"log-probability of {named[f'{x} choice']!r}{end}"] for x in last)
        assert outcome == ((value - wrong[0] if wrong else -value), 1.0)


def test_lambada() -> None:
    job = job_of("lambada", [{"text": "A man with a plan"}])
    responses = [scores(-0.5, -2.5), Word(' "Plan,', ("the",))]
    steps, outcome = steps_and_outcome(job, "ppl", responses)
    assert outcome == (-dict(steps)["log-probability of the continuation"], 1.0)
    steps, outcome = steps_and_outcome(job, "acc-word-greedy", responses)
    assert outcome == (float(all(dict(steps)["whether each token is the argmax"])), 1.0)
    for case in ("exact", "lower"):
        job = job_of("lambada", [{"text": "A man with a plan"}], case=case)
        steps, outcome = steps_and_outcome(job, "acc-word-stopfilter", responses)
        named = dict(steps)
        same = named["best word as compared"] == named["reference as compared"]
        assert outcome == (float(same), 1.0) == (float(case == "lower"), 1.0)
        assert named["words passed over"] == ("the",)


# --- steps of a plugin ----------------------------------------------------------------------


def boom(*given: object) -> Any:
    raise ValueError("boom")


def late(example: Example, responses: Sequence[Response]) -> Any:
    yield "first", 1
    raise ValueError("late boom")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (boom, r"steps\(\) of measure 'acc' failed on example 7: ValueError: boom \(test_steps"),
        (late, r"steps\(\) of measure 'acc' failed on example 7: ValueError: late boom \(test_ste"),
        (
            lambda *given: None,
            r"steps\(\) of measure 'acc' gave None on example 7, expected",
        ),
        (
            lambda *given: "text",
            r"gave 'text' on example 7, expected a list of pairs of a",
        ),
        (lambda *given: [("x",)], r"gave \[\('x',\)\] on example 7, expected a list of pairs of a"),
        (lambda *given: [(1, 2)], r"gave \[\(1, 2\)\] on example 7, expected a list of pairs of a"),
    ],
)
def test_a_fault_in_the_steps_of_a_plugin_is_one_line(steps: Any, words: str) -> None:
    measure = Measure("acc", ACCURACY, all_greedy, ("acc", "all"), "", steps=steps)
    task = guarded(replace(load_task("winograd"), measures=lambda options: (measure,)))
    [checked] = task.measures({})
    assert checked.steps is not None
    with pytest.raises(TaskError, match=words) as caught:
        checked.steps(Example("7", {}), [])
    assert "\n" not in str(caught.value)


def test_steps_may_be_a_generator_or_missing() -> None:
    def two(example: Example, responses: Sequence[Response]) -> Any:
        yield "one", 1
        yield "two", ["a", "b"]

    measure = Measure("acc", ACCURACY, all_greedy, ("acc", "all"), "", steps=two)
    bare = replace(measure, name="bare", steps=None)

    def measures(options: Options) -> tuple[Measure, ...]:
        return (measure, bare)

    checked, without = guarded(replace(load_task("winograd"), measures=measures)).measures({})
    assert checked.steps is not None
    assert checked.steps(Example("7", {}), []) == [("one", 1), ("two", ["a", "b"])]
    assert without.steps is None
