"""Checks of a model server for `harness doctor`: its self-test, and a comparison with weights."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import numpy as np

from harness.commands.setup import checkpoint_checks as checks
from harness.commands.setup.installation_checks import Finding, guarded
from harness.core import Encoding
from harness.display import terminal
from harness.engine.cache.store import Store
from harness.engine.checkpoint.load import load
from harness.engine.checkpoint.settings import Settings
from harness.engine.endpoint import connect as connecting
from harness.engine.endpoint.connect import Examined
from harness.engine.endpoint.self_test.probing import COARSE
from harness.engine.endpoint.settings import EndpointSettings
from harness.engine.engine import Engine
from harness.engine.queries.query import Span, SpanScores
from harness.plugins.registry import load_task
from harness.runner import Job, prepare

COMPARISON = "comparison"


def server_findings(
    settings: EndpointSettings, compare_with: str | None = None, local: Settings | None = None
) -> Iterator[Finding]:
    """Every finding of a server's self-test, of its replicas, and of a comparison with weights.

    Args:
        settings: how to reach the server.
        compare_with: a checkpoint with the same weights.
        local: how to load that.

    Raises:
        EndpointError: the server cannot be reached, or has no such model.
        CheckpointError: its tokenizer cannot be loaded.
    """
    with closing(connecting.open_transport(settings)) as transport:
        with terminal.ERR.status(f"self-test of {transport.urls[0]}"):
            examined = connecting.examine(transport, settings)
        report = examined.report
        yield from (Finding(*finding) for finding in report.findings)
        if report.failure:
            return
        seen = f"{report.verdict}: {report.calls} calls in {report.seconds:.1f} s"
        yield Finding("self-test", "ok", seen)
        for url in settings.replicas:
            check = partial(_replica, settings, examined, url)
            yield from guarded("replica", check, "leave it out, or repair it")
        endpoint = connecting.endpoint_of(transport, settings, examined, store_results=False)
        engine = Engine(endpoint, store=Store(None))
        check = partial(checks.shuffled_options, engine)
        yield from guarded("shuffled options", check, "the server cannot be trusted")
        if compare_with is not None:
            compare = partial(_comparison, engine, examined, compare_with, local or Settings())
            yield from guarded(COMPARISON, compare, "name the weights that the server has")


def _replica(settings: EndpointSettings, examined: Examined, url: str) -> Finding:
    difference = connecting.check_replica(settings, examined, url)
    return Finding("replica", "ok", f"{url} has the same model, within {difference:.1e} nats")


def _comparison(
    engine: Engine, examined: Examined, name: str, settings: Settings
) -> Iterator[Finding]:
    """Compare log-probabilities with those of a checkpoint that is run in this process."""
    context = engine.identity.context
    local = Engine(load(name, replace(settings, context=context)), store=Store(None))
    if local.tokenizer.digest != engine.tokenizer.digest:
        seen = f"{name} has another tokenizer than the server's model is asked with"
        yield Finding(COMPARISON, "fail", seen, "name the weights of the same model")
        return
    prompts = [known.tokens for known in examined.report.known]
    fixed = [Span(ids[:-1], ids[1:]) for ids in prompts]
    questions = _questions(engine)
    spans = list(dict.fromkeys([*fixed, *(span for group in questions for span in group)]))
    here, there = (_scores(e, spans) for e in (local, engine))
    yield _per_token(here, there, name)
    yield _flips(here, there, questions)


def _questions(engine: Engine) -> list[list[Span]]:
    """The options of some questions of the built-in CBT, as tokens."""
    task = load_task("cbt-cn")
    sample = checks.built_in_sample(task)
    rows = sample.rows[: checks.SAMPLE_QUESTIONS]
    groups: list[list[Span]] = []
    for row in rows:
        requests = prepare(Job(task, task.protocol(), replace(sample, rows=(row,)))).requests
        encoded = engine.encode(requests, Encoding())
        groups.append([span for one in encoded for span in one.spans])
    return groups


def _scores(engine: Engine, spans: Sequence[Span]) -> dict[Span, SpanScores]:
    answers = checks.span_answers(engine, spans)
    return {span: answers[span].value for span in spans}


def _per_token(here: dict[Span, SpanScores], there: dict[Span, SpanScores], name: str) -> Finding:
    differences = np.concatenate([np.abs(here[s].logprobs - there[s].logprobs) for s in here])
    largest, mean = float(differences.max()), float(differences.mean())
    seen = (
        f"{len(differences):,} tokens differ from {name} in this process by at most {largest:.1e} "
        f"nats, {mean:.1e} on average"
    )
    if largest <= COARSE:
        return Finding(COMPARISON, "ok", seen)
    advice = "expected no more than rounding: the server has other weights, or quantised ones"
    return Finding(COMPARISON, "fail", seen, advice)


def _flips(
    here: dict[Span, SpanScores],
    there: dict[Span, SpanScores],
    questions: Sequence[Sequence[Span]],
) -> Finding:
    """How far the lead of one option over another moves, and what that changes."""
    moved, closest, flipped = 0.0, float("inf"), 0
    for group in questions:
        ours, theirs = (
            np.array([side[s].logprobs.astype("float64").sum() for s in group])
            for side in (here, there)
        )
        moved = max(moved, float(np.ptp(ours - theirs)))
        second, best = np.sort(ours)[-2:]
        closest = min(closest, float(best - second))
        flipped += int(ours.argmax() != theirs.argmax())
    flags = sum(int((here[s].greedy != there[s].greedy).sum()) for s in here)
    seen = (
        f"the lead of one option over another moves by at most {moved:.1e} nats, where the closest "
        f"lead is {closest:.2g}; {flipped} of {len(questions)} choices and {flags} greedy flags "
        "are others"
    )
    if not flipped and not flags:
        return Finding("flips", "ok", seen)
    return Finding("flips", "warn", seen, "scores of close choices will differ: compare the dtypes")
