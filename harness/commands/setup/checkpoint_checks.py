"""Checks of a checkpoint for `harness doctor`: small requests whose answers are known.

Each check is a function of an engine, so that tests can give it a defective engine or model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.canaries.chance import is_no_better_than_uniform, random_accuracy, uniform_loss
from harness.commands.setup.installation_checks import Finding
from harness.core import Encoding, Generate, Generated, Request, RollingLoglikelihood, Row
from harness.data import load as data
from harness.errors import EncodingError
from harness.plugins.registry import load_task
from harness.runner import Job, evaluate, prepare
from harness.task import Task

if TYPE_CHECKING:
    from harness.engine.engine import Engine

SAMPLE_LINES = 60  # of the built-in WikiText
SAMPLE_QUESTIONS = 3  # of the built-in CBT, with ten options each
PROMPT, MAX_NEW_TOKENS = "Question: Who wrote the play?\nAnswer:", 8
BARELY_TRAINED, WELL_TRAINED = 0.95, 0.6  # shares of the uniform loss
CHANCE_TOLERANCE = 1.0  # percentage points
# Differences by rounding, in nats, between two ways to compute the same; some 3e-5 in float32.
ROUNDING = {"float32": 2e-3}
ROUNDING_IN_HALF = 0.25
# Relative differences from a published log-probability; those are rounded themselves.
PUBLISHED_TOLERANCE = {"float32": 1e-3}
PUBLISHED_TOLERANCE_IN_HALF = 3e-2
GPT2_NAMES = ("gpt2", "openai-community/gpt2")


class Fact(NamedTuple):
    """A published log-probability."""

    context: str
    continuation: str
    context_ids: Sequence[int]
    continuation_ids: Sequence[int]
    nats: float
    source: str


class Facts(NamedTuple):
    """What is published about a released model."""

    model: str
    parameters: int
    vocabulary: int
    facts: tuple[Fact, ...]


def gpt2_small() -> Facts:
    """Published log-probabilities of the released GPT-2 small, with their sources."""
    value = json.loads((files("harness.commands.setup") / "gpt2_small.json").read_text("utf-8"))
    facts = tuple(Fact(**{name: fact[name] for name in Fact._fields}) for fact in value["facts"])
    return Facts(**{**value, "facts": facts})


def uniform_bound(engine: "Engine") -> Finding:
    """Compare the loss on built-in text with ln V, the loss of uniform logits."""
    loss = _sample_loss(engine)
    bound = uniform_loss(engine.vocabulary)
    seen = f"{loss:.2f} nats per token of built-in text; uniform logits give {bound:.2f}"
    if is_no_better_than_uniform(loss, engine.vocabulary):
        advice = "random or damaged weights, or another model's tokenizer: compare with the origin"
        return Finding("uniform bound", "fail", seen, advice)
    if loss > BARELY_TRAINED * bound:
        return Finding("uniform bound", "warn", seen, "barely better: is the model trained?")
    return Finding("uniform bound", "ok", seen)


def activation(engine: "Engine", other: "Engine") -> Finding:
    """Compare the activation that a checkpoint is run with, with the other that it may have.

    A model that is trained well has the lower loss with the activation that it was trained with.
    The difference is some 1e-4 nats per token, and either sign means nothing on a text that the
    model knows little of.
    """
    chosen, tried = (e.identity.options["activation"] for e in (engine, other))
    loss, loss_of_tried = _sample_loss(engine), _sample_loss(other)
    seen = (
        f"{loss:.5f} nats per token of built-in text with {chosen}, {loss_of_tried:.5f} with "
        f"{tried}"
    )
    if loss > WELL_TRAINED * uniform_loss(engine.vocabulary):
        return Finding("activation", "ok", f"{seen}: both too high to tell which is right")
    if loss_of_tried < loss:
        advice = f"if it was trained with {tried}, add --model-option activation={tried}"
        return Finding("activation", "warn", seen, advice)
    return Finding("activation", "ok", seen)


def shuffled_options(engine: "Engine", task: Task | None = None) -> Finding:
    """Score CBT with each of the ten options declared the right one in turn.

    Exactly a tenth of these answers is right, whatever the model prefers. Anything else means that
    the right option leaks into the requests or the extraction.
    """
    task = task or load_task("cbt-cn")
    sample = built_in_sample(task)
    rows = sample.rows[:SAMPLE_QUESTIONS]
    turned = [{**row.fields, "answer": option} for row in rows for option in row.fields["choices"]]
    chance, accuracy = (
        evaluate(Job(task, task.protocol(), replace(sample, rows=r)), engine).scores[0].value
        for r in (tuple(Row(i, fields) for i, fields in enumerate(turned)), rows)
    )
    seen = f"{chance:.1f} % with each option as the answer in turn, {accuracy:.0f} % with the real"
    expected = random_accuracy(len(rows[0].fields["choices"]))
    if abs(chance - expected) > CHANCE_TOLERANCE:
        advice = f"expected {expected:g} %: the task or the engine is defective; report it"
        return Finding("shuffled options", "fail", seen, advice)
    return Finding("shuffled options", "ok", seen)


def shared_rows(shared: "Engine", separate: "Engine") -> Finding:
    """Compare requests that share their prefix in one row with requests in rows of their own."""
    task = load_task("cbt-cn")
    sample = built_in_sample(task)
    requests = prepare(Job(task, task.protocol(), replace(sample, rows=sample.rows[:1]))).requests
    pairs = zip(_responses(shared, requests), _responses(separate, requests), strict=True)
    largest = max(abs(a.logprob - b.logprob) for a, b in pairs)
    seen = f"{len(requests)} requests differ by at most {largest:.1e} nats"
    if not shared.describe()["sharing"]:
        seen += "; this model cannot share prefixes, which is slower"
    return _rounding("shared rows", shared, largest, seen, "attention masks are")


def cached_steps(engine: "Engine") -> Finding:
    """Compare the log-probabilities of a generated text with those of one pass over it."""
    from harness.engine.queries.query import Span

    request = Generate((PROMPT,), MAX_NEW_TOKENS)
    [encoded] = engine.encode([request], Encoding())
    generated = dict(engine.answer([request], [encoded]))[0]
    assert isinstance(generated, Generated)
    inputs = (*encoded.spans[0].inputs, *generated.tokens)
    span = Span(inputs[:-1], generated.tokens)
    read = span_answers(engine, [span])[span].value.logprobs.tolist()
    largest = max(abs(a - b) for a, b in zip(generated.logprobs, read, strict=True))
    tokens = len(generated.tokens)
    seen = f"a generated text of {tokens} tokens differs from a full pass by {largest:.1e} nats"
    return _rounding("cached steps", engine, largest, seen, "generated texts are")


def _rounding(name: str, engine: "Engine", largest: float, seen: str, wrong: str) -> Finding:
    """Judge a difference between two ways to compute the same."""
    limit = ROUNDING.get(engine.identity.dtype, ROUNDING_IN_HALF)
    if largest <= limit:
        return Finding(name, "ok", seen)
    advice = f"expected at most {limit:g}: {wrong} wrong on this device; report it"
    return Finding(name, "fail", seen, advice)


def released(engine: "Engine", facts: Facts | None = None) -> Finding:
    """Compare with the published log-probabilities of GPT-2 small.

    Another model is fine, unless it has the name of the released one.
    """
    facts = facts or gpt2_small()
    if difference := _difference(engine, facts):
        seen = f"not GPT-2 small: {difference}"
        if engine.identity.name not in GPT2_NAMES:
            return Finding("released model", "ok", seen)
        advice = "but it is called so: fetch the files again, or rename the folder"
        return Finding("released model", "fail", seen, advice)
    seen = f"GPT-2 small as released: {len(facts.facts)} published log-probabilities agree"
    return Finding("released model", "ok", seen)


def _difference(engine: "Engine", facts: Facts) -> str:
    """How the model differs from what is published; empty if it does not."""
    from harness.engine.queries.query import Span

    identity, tokenizer = engine.identity, engine.tokenizer
    if identity.parameters != facts.parameters or len(tokenizer) != facts.vocabulary:
        return f"{identity.parameters:,} parameters, {len(tokenizer):,} tokens"
    texts = [fact.context + fact.continuation for fact in facts.facts]
    for text, fact, ids in zip(texts, facts.facts, tokenizer.encode(texts), strict=True):
        context_ids = fact.context_ids if fact.context else ()  # without a start token
        if tuple(ids) != (*context_ids, *fact.continuation_ids):
            return f"its tokenizer encodes {text!r} differently"
    # By token ids, because no start token may be added.
    spans = [
        Span((*f.context_ids, *f.continuation_ids)[:-1], tuple(f.continuation_ids))
        for f in facts.facts
    ]
    answers = span_answers(engine, spans)
    tolerance = PUBLISHED_TOLERANCE.get(identity.dtype, PUBLISHED_TOLERANCE_IN_HALF)
    for fact, span in zip(facts.facts, spans, strict=True):
        nats = float(answers[span].value.logprobs.astype("float64").sum())
        if not abs(nats - fact.nats) <= tolerance * abs(fact.nats):
            return f"{fact.continuation!r} has {nats:.3f} nats, not {fact.nats:.3f}"
    return ""


def _sample_loss(engine: "Engine") -> float:
    """Nats per token of built-in text."""
    [response] = _responses(engine, [sample_text(engine)])
    return float(-response.logprob / response.num_tokens)


def sample_text(engine: "Engine") -> RollingLoglikelihood:
    """Built-in text: the lines of WikiText that the tokenizer has tokens for.

    One of single characters may have tokens for none of them, but for the letters of text8.
    """
    rows = built_in_sample(load_task("wikitext2")).rows[:SAMPLE_LINES]
    lines = [f"{row.fields['text'].strip()}\n" for row in rows]
    pieces = tuple(line for line in lines if _has_tokens(engine, line))
    if any(piece.strip() for piece in pieces):
        return RollingLoglikelihood(pieces)
    return RollingLoglikelihood((built_in_sample(load_task("text8")).rows[0].fields["bytes"],))


def _has_tokens(engine: "Engine", text: str) -> bool:
    """Whether the tokenizer can express a text; one of single characters may lack some."""
    try:
        engine.encode([RollingLoglikelihood((text,))], Encoding())
    except EncodingError:
        return False
    return True


def built_in_sample(task: Task) -> data.Data:
    """The made-up rows that the package has for a task."""
    return data.load(task.source(task.protocol().options), data.Where(sample=True))


def span_answers(engine: "Engine", spans: Sequence[Any]) -> Mapping[Any, Any]:
    """Span -> answer, computed without the response cache."""
    answers: dict[Any, Any] = {}
    for batch in engine.backend.answer(spans, (), lambda done, total: None):
        answers.update(batch)
    return answers


def _responses(engine: "Engine", requests: Sequence[Request]) -> list[Any]:
    encoded = engine.encode(requests, Encoding())
    responses = dict(engine.answer(requests, encoded))
    return [responses[i] for i in range(len(requests))]
