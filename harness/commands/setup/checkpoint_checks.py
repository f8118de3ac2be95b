"""Is this checkpoint sane? Small questions whose answers are known beforehand; for `doctor`.

Each canary is a function of an engine and gives one finding, so that a broken engine or model can
be handed to it: every one of them can fail.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.commands.setup.installation_checks import Finding
from harness.core import (
    Encoding,
    Generate,
    Generated,
    Request,
    Response,
    RollingLoglikelihood,
    Row,
)
from harness.data import load as data
from harness.plugins.registry import load_task
from harness.runner import Job, evaluate, prepare
from harness.task import Task

if TYPE_CHECKING:
    from harness.engine.engine import Engine

LINES = 60  # of the built-in WikiText
QUESTIONS = 3  # of the built-in CBT, each with ten choices
PROMPT, WRITTEN = "Question: Who wrote the play?\nAnswer:", 8
HARDLY = 0.95  # of the uniform loss: a model that has learnt little
POINTS = 1.0  # that shuffled options may be off chance
# What rows with and without shared prefixes may differ by, in nats; rounding gives some 3e-5.
CLOSE = {"float32": 2e-3}
CLOSE_IN_HALF = 0.25
SAME = {"float32": 1e-3}  # of a published log-probability, relative; they are rounded themselves
SAME_IN_HALF = 3e-2
RELEASED = ("gpt2", "openai-community/gpt2")


class Fact(NamedTuple):
    """A published log-probability."""

    context: str
    continuation: str
    context_ids: tuple[int, ...]
    continuation_ids: tuple[int, ...]
    nats: float
    source: str


class Facts(NamedTuple):
    """What is known of a released model."""

    model: str
    parameters: int
    vocabulary: int
    facts: tuple[Fact, ...]


def gpt2_small() -> Facts:
    """Published log-probabilities of the released GPT-2 small, with their sources."""
    value = json.loads((files("harness.commands.setup") / "gpt2_small.json").read_text("utf-8"))
    facts = tuple(
        Fact(
            f["context"],
            f["continuation"],
            tuple(f["context_ids"]),
            tuple(f["continuation_ids"]),
            f["nats"],
            f["source"],
        )
        for f in value["facts"]
    )
    return Facts(value["model"], value["parameters"], value["vocabulary"], facts)


def uniform_bound(engine: "Engine") -> Finding:
    """Loss on built-in text against ln V, the loss of a model that knows nothing."""
    task = load_task("wikitext2")
    rows = data.load(task.source(task.protocol().options), data.Where(sample=True)).rows[:LINES]
    pieces = tuple(f"{row.fields['text'].strip()}\n" for row in rows)
    [response] = _answers(engine, [RollingLoglikelihood(pieces)])
    loss = -response.logprob / response.num_tokens
    bound = math.log(len(engine.tokenizer))
    seen = f"{loss:.2f} nats a token of the built-in text; uniform logits give {bound:.2f}"
    if loss >= bound:
        advice = "random or damaged weights, or another model's tokenizer: compare with the origin"
        return Finding("uniform bound", "fail", seen, advice)
    if loss > HARDLY * bound:
        return Finding("uniform bound", "warn", seen, "hardly better: is it trained?")
    return Finding("uniform bound", "ok", seen)


def shuffled_options(engine: "Engine", task: Task | None = None) -> Finding:
    """CBT with each of the ten options declared the right one in turn.

    An extractor that takes one of ten is right in exactly a tenth of these, whatever the model
    says. Anything else means that the answer has leaked into the question or the scoring.
    """
    task = task or load_task("cbt-cn")
    protocol = task.protocol()
    found = data.load(task.source(protocol.options), data.Where(sample=True))
    given = found.rows[:QUESTIONS]
    turned = [{**r.fields, "answer": choice} for r in given for choice in r.fields["choices"]]
    every = tuple(Row(i, fields) for i, fields in enumerate(turned))
    chance, right = (
        evaluate(Job(task, protocol, replace(found, rows=rows)), engine).scores[0].value
        for rows in (every, given)
    )
    seen = f"{chance:.1f} % with each option as the answer in turn, {right:.0f} % with the real one"
    if abs(chance - 10) > POINTS:
        advice = "expected 10 %: a benchmark or the engine is defective; reinstall, or report it"
        return Finding("shuffled options", "fail", seen, advice)
    return Finding("shuffled options", "ok", seen)


def shared_rows(shared: "Engine", separate: "Engine") -> Finding:
    """The same requests over shared prefixes, as one tree, and in rows of their own."""
    task = load_task("cbt-cn")
    protocol = task.protocol()
    found = data.load(task.source(protocol.options), data.Where(sample=True))
    job = Job(task, protocol, replace(found, rows=found.rows[:1]))
    requests = prepare(job).requests
    one, two = _answers(shared, requests), _answers(separate, requests)
    worst = max(abs(a.logprob - b.logprob) for a, b in zip(one, two, strict=True))
    close = CLOSE.get(shared.identity.dtype, CLOSE_IN_HALF)
    seen = f"{len(requests)} requests differ by at most {worst:.1e} nats"
    if not worst <= close:
        advice = f"expected {close:g}: the attention masks are wrong on this device; report it"
        return Finding("shared rows", "fail", seen, advice)
    if shared.backend.options.sharing is None:  # it may stop sharing when it is asked
        return Finding("shared rows", "ok", f"{seen}; this model shares no prefixes: slower")
    return Finding("shared rows", "ok", seen)


def cached_steps(engine: "Engine") -> Finding:
    """A short answer, and its log-probabilities once more as those of a given text."""
    from harness.engine.queries.query import Span

    encoding = Encoding()
    request = Generate((PROMPT,), WRITTEN)
    [encoded] = engine.encode([request], encoding)
    written = dict(engine.answer([request], [encoded]))[0]
    assert isinstance(written, Generated)
    inputs = (*encoded.spans[0].inputs, *written.tokens)
    span = Span(inputs[:-1], written.tokens)
    read = _asked(engine, [span])[span].value.logprobs.tolist()
    worst = max(abs(a - b) for a, b in zip(written.logprobs, read, strict=True))
    close = CLOSE.get(engine.identity.dtype, CLOSE_IN_HALF)
    seen = f"an answer of {len(written.tokens)} tokens differs from a full pass by {worst:.1e} nats"
    if not worst <= close:
        advice = f"expected {close:g}: generated answers are wrong on this device; report it"
        return Finding("cached steps", "fail", seen, advice)
    return Finding("cached steps", "ok", seen)


def released(engine: "Engine", known: Facts | None = None) -> Finding:
    """Whether this is GPT-2 small as released, by its published log-probabilities."""
    known = known or gpt2_small()
    who = engine.identity
    named = who.name in RELEASED
    if who.parameters != known.parameters or len(engine.tokenizer) != known.vocabulary:
        size = f"{who.parameters:,} parameters, {len(engine.tokenizer):,} tokens"
        return _verdict(f"not GPT-2 small: {size}", named)
    texts = [fact.context + fact.continuation for fact in known.facts]
    for text, fact, ids in zip(texts, known.facts, engine.tokenizer.encode(texts), strict=True):
        before = fact.context_ids if fact.context else ()
        if tuple(ids) != (*before, *fact.continuation_ids):
            return _verdict(f"not GPT-2 small: its tokenizer reads {text!r} otherwise", named)
    measured = _nats(engine, known.facts)
    same = SAME.get(who.dtype, SAME_IN_HALF)
    for fact, nats in zip(known.facts, measured, strict=True):
        if not abs(nats - fact.nats) <= same * abs(fact.nats):
            seen = (
                f"not GPT-2 small: {fact.continuation!r} has {nats:.3f} nats, not {fact.nats:.3f}"
            )
            return _verdict(seen, named)
    seen = f"GPT-2 small as released: {len(measured)} published log-probabilities agree"
    return Finding("released model", "ok", seen)


def _verdict(seen: str, named: bool) -> Finding:
    """Another model is nothing bad, unless it goes by the name of the released one."""
    if not named:
        return Finding("released model", "ok", seen)
    advice = "but it is called so: fetch the files again, or give the folder another name"
    return Finding("released model", "fail", seen, advice)


def _nats(engine: "Engine", facts: Sequence[Fact]) -> list[float]:
    """Log-probability of each continuation, asked by token ids: no start token of ours."""
    from harness.engine.queries.query import Span

    spans = [Span((*f.context_ids, *f.continuation_ids)[:-1], f.continuation_ids) for f in facts]
    found = _asked(engine, spans)
    return [float(found[span].value.logprobs.astype("float64").sum()) for span in spans]


def _asked(engine: "Engine", spans: Sequence[Any]) -> dict[Any, Any]:
    """The answers to spans, by span; asked past the store."""
    found: dict[Any, Any] = {}
    for answers in engine.backend.answer(spans, (), lambda done, total: None):
        found.update(answers)
    return found


def _answers(engine: "Engine", requests: Sequence[Request]) -> list[Any]:
    encoded = engine.encode(requests, Encoding())
    found: dict[int, Response] = dict(engine.answer(requests, encoded))
    return [found[i] for i in range(len(requests))]
