"""The spine: one task's rows and an engine in, a record out.

Knows no benchmark and no tensor. Rows are chosen, read into examples, asked as requests; every
response is turned into outcomes as soon as its example is complete, and then dropped.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from harness.core import (
    Encoding,
    Example,
    Generate,
    Pool,
    Request,
    Response,
    Score,
    Tokens,
)
from harness.data.load import Data
from harness.data.subset import choose
from harness.errors import (
    DataError,
    EncodingError,
    HarnessError,
    RequestError,
    TaskError,
    in_one_line,
)
from harness.metrics import Outcome
from harness.metrics.hf_evaluate import ModuleMetric
from harness.prompt import Prompt
from harness.records import dump
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown, show
from harness.records.provenance import environment
from harness.records.record import Record
from harness.stats import intervals
from harness.task import Measure, Task, encoding
from harness.task import Protocol as TaskProtocol

MOST_ROUNDS = 500  # of requests that follow from answers, per example


class Flags(Protocol):
    """What preflight found; indices into the requests."""

    @property
    def truncated(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def crossing(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def empty(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def lossy(self) -> tuple[int, ...]: ...  # noqa: D102
    def counts(self) -> dict[str, int]: ...  # noqa: D102


class Engine(Protocol):
    """What the runner needs of an engine."""

    tokens: Tokens

    @property
    def identity(self) -> Any: ...  # noqa: D102
    def describe(self) -> dict[str, Any]: ...  # noqa: D102
    def encode(self, requests: Sequence[Request], encoding: Encoding) -> Sequence[Any]: ...  # noqa: D102
    def preflight(self, requests: Sequence[Request], encoded: Sequence[Any]) -> Flags: ...  # noqa: D102
    def answer(  # noqa: D102
        self,
        requests: Sequence[Request],
        encoded: Sequence[Any],
        advance: Callable[[int, int], None],
    ) -> Iterator[tuple[int, Response]]: ...


@dataclass(frozen=True, slots=True)
class Job:
    """One task under one protocol on given data."""

    task: Task
    protocol: TaskProtocol
    data: Data
    limit: int | None = None  # rows, taken at random
    seed: int = 0
    strict: bool = False
    pool: Data | None = None  # rows for the example pairs, where the task has such


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told what happens meanwhile."""

    advance: Callable[[int, int], None] = lambda done, total: None  # tokens
    preflight: Callable[[dict[str, int]], None] = lambda counts: None
    item: Callable[[dict[str, Any]], None] | None = None  # one JSON value an example, for --dump


def evaluate(
    job: Job, engine: Engine, watch: Watch | None = None, asked: "Asked | None" = None
) -> Record:
    """Run a job.

    Args:
        job: the task, its protocol and data.
        engine: with the checkpoint.
        watch: who is told what happens.
        asked: what `ask` gave for this job, if it was called before.

    Raises:
        HarnessError: any of its kinds; a request at fault is named by its example.
    """
    begun, before = time.perf_counter(), engine.tokens
    asked = asked or ask(job)
    # Before anything is computed: a fault in them must not cost the scores.
    notes = job.task.notes(asked.examples, job.protocol.options) if job.task.notes else {}
    found = _collect(job, asked, engine, watch or Watch())
    measures = job.task.measures(job.protocol.options)
    scores = tuple(
        _score(job, measure, outcomes)
        for m, measure in enumerate(measures)
        if (outcomes := [o for group in found.outcomes for o in group[m]]) or not measure.optional
    )
    cost = _Cost(engine.tokens - before, time.perf_counter() - begun)
    return _record(job, asked, engine, found, _Sum(scores, dict(notes), cost))


def _score(job: Job, measure: Measure, outcomes: Sequence[Outcome]) -> Score:
    try:
        return intervals.score(measure, outcomes, job.seed)
    except HarnessError:
        raise
    except Exception as error:  # of the benchmark's own metric
        raise TaskError(
            f"task {job.task.name!r}: the metric of measure {measure.name!r} failed: "
            f"{in_one_line(error)}"
        ) from error


class _Cost(NamedTuple):
    tokens: Tokens
    seconds: float


class _Sum(NamedTuple):
    """What a run came to."""

    scores: tuple[Score, ...]
    notes: Mapping[str, float | str]
    cost: _Cost


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job asks of the engine."""

    prompt: Prompt
    examples: tuple[Example, ...]
    groups: tuple[tuple[Request, ...], ...]  # one an example
    rows: int  # that the examples were read from

    @property
    def requests(self) -> list[Request]:
        """All requests, in order."""
        return [request for group in self.groups for request in group]


def ask(job: Job) -> Asked:
    """Choose rows, read examples, make requests: all that needs no model.

    Raises:
        DataError: a row cannot be read, or none of the rows gives an example.
        UsageError: the limit is not a positive number.
        TaskError: a function of the benchmark fails.
    """
    options = job.protocol.options
    prompt = job.task.prompt(options)
    runs = choose(job.data.rows, job.limit, seed=job.seed, stream=job.task.stream)
    rows = sum(len(run) for run in runs)
    examples = tuple(example for run in runs for example in job.task.read(run, options))
    if not examples:
        raise DataError(
            f"{job.task.name}: none of the {rows} rows taken from {job.data.name} gives an "
            "example; take more with --limit"
        )
    if job.task.few_shot and job.pool:
        pool = Pool(job.pool.rows, job.pool.road == "sample")
        drawn = job.task.few_shot.draw(pool, options)
        examples = tuple(replace(e, fields={**e.fields, **drawn}) for e in examples)
    groups = tuple(
        _seeded(job.task.ask(example, prompt, options), job.seed) for example in examples
    )
    return Asked(prompt, examples, groups, rows)


def _seeded(requests: Sequence[Request], seed: int) -> tuple[Request, ...]:
    """The requests with the run's seed before each sample's own."""
    return tuple(
        replace(r, seed=(seed, *r.seed)) if isinstance(r, Generate) else r for r in requests
    )


@dataclass(slots=True)
class _Found:
    """What a job's rounds have brought so far."""

    requests: int
    flags: Counter[str]
    outcomes: list[list[Sequence[Outcome]]]  # outcomes[example][measure]
    shown: list[Shown]  # of each example


def _collect(job: Job, asked: Asked, engine: Engine, watch: Watch) -> _Found:
    """Answer all requests, and those that follow from the answers, and extract outcomes."""
    measures = job.task.measures(job.protocol.options)
    nothing = Shown("", "", "")
    found = _Found(0, Counter(), [[] for _ in asked.examples], [nothing for _ in asked.examples])
    history: dict[int, list[tuple[Request, Any, Response]]] = defaultdict(list)
    groups = dict(enumerate(asked.groups))
    rounds = 0
    while groups:
        rounds += 1
        following: dict[int, tuple[Request, ...]] = {}
        for e, answered in _round(job, asked, groups, engine, watch, found):
            history[e] += answered
            example, responses = asked.examples[e], [response for *_, response in history[e]]
            more = follow_up(job, History(example, responses, rounds), asked.prompt)
            if more:
                following[e] = more
                continue
            outcomes = [measure.extract(example, responses) for measure in measures]
            pairs = [(request, response) for request, _, response in history[e]]
            found.outcomes[e], found.shown[e] = outcomes, show(example, pairs)
            if watch.item:
                sums = _sums(measures, outcomes)
                watch.item(dump.item(job.task.name, example.id, history[e], sums))
            del history[e]
        groups = dict(sorted(following.items()))
    return found


class History(NamedTuple):
    """What an example has been asked so far."""

    example: Example
    responses: Sequence[Response]
    rounds: int  # of requests


def follow_up(job: Job, history: History, prompt: Prompt) -> tuple[Request, ...]:
    """Requests of an example that depend on its responses so far; none if it has all.

    Raises:
        TaskError: the example has had `MOST_ROUNDS` rounds, and `follow` asks for more.
    """
    if job.task.follow is None:
        return ()
    example, responses, rounds = history
    more = job.task.follow(example, responses, prompt, job.protocol.options)
    if more and rounds >= MOST_ROUNDS:
        raise TaskError(
            f"task {job.task.name!r}: follow() still asks on example {example.id} after "
            f"{rounds:,} rounds; it must end by giving no request"
        )
    return _seeded(more, job.seed)


def _round(
    job: Job,
    asked: Asked,
    groups: Mapping[int, Sequence[Request]],
    engine: Engine,
    watch: Watch,
    found: _Found,
) -> Iterator[tuple[int, list[tuple[Request, Any, Response]]]]:
    """(example, its requests, their tokens and responses), each as soon as it has all."""
    owners = [e for e, group in groups.items() for _ in group]
    requests = [request for group in groups.values() for request in group]
    try:
        encoded = engine.encode(requests, encoding(job.protocol.options))
        flags = engine.preflight(requests, encoded)
        watch.preflight(flags.counts())
        if job.strict:
            _refuse(flags)
        found.requests += len(requests)
        found.flags.update(flags.counts())
        answers = engine.answer(requests, encoded, watch.advance)
        yield from _by_example(answers, encoded, groups)
    except RequestError as error:
        if error.request is None:
            raise
        example = asked.examples[owners[error.request]]
        raise type(error)(f"{job.task.name} item {example.id}: {error}") from error


def _sums(measures: Sequence[Measure], found: Sequence[Sequence[Outcome]]) -> dict[str, float]:
    """One example's statistics by name; those of texts have none."""
    return {
        name: sum(outcome[s] for outcome in outcomes)
        for measure, outcomes in zip(measures, found, strict=True)
        if outcomes and not isinstance(measure.metric, ModuleMetric)
        for s, name in enumerate(measure.statistics)
    }


def _record(
    job: Job,
    asked: Asked,
    engine: Engine,
    found: _Found,
    result: _Sum,
) -> Record:
    options = job.protocol.options
    prompt = asked.prompt
    return Record(
        task=job.task.name,
        version=job.task.version,
        protocol=job.protocol.label,
        options={k: int(v) if v.isdigit() else v for k, v in options.items()},
        model=asdict(engine.identity),
        data=job.data.facts(),
        prompt={"name": prompt.name, "sha256": prompt.sha256} if prompt.name else None,
        pool=job.pool.facts() if job.pool else None,
        limit=job.limit,
        seed=job.seed,
        rows=asked.rows,
        examples=_scored(job, asked, found),
        requests=found.requests,
        tokens=result.cost.tokens,
        seconds=result.cost.seconds,
        scores=result.scores,
        preflight=dict(found.flags),
        notes=result.notes,
        engine=engine.describe(),
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        outcomes=_items(job, asked, found),
    )


def _scored(job: Job, asked: Asked, found: _Found) -> int:
    """How many examples have an outcome of the model; of running text all rows, its lines."""
    if job.task.stream:
        return asked.rows
    measures = job.task.measures(job.protocol.options)
    own = [m for m, measure in enumerate(measures) if measure.baseline is None]
    return sum(any(group[m] for m in own) for group in found.outcomes)


def _items(job: Job, asked: Asked, found: _Found) -> Outcomes:
    """What each example came to, for comparing with another run."""
    outcomes = {}
    for m, measure in enumerate(job.task.measures(job.protocol.options)):
        if not isinstance(measure.metric, ModuleMetric):
            pairs = [(e, o) for e, group in enumerate(found.outcomes) for o in group[m]]
            outcomes[measure.name] = MetricOutcomes(
                tuple(e for e, _ in pairs), tuple(tuple(map(float, o)) for _, o in pairs)
            )
    return Outcomes(tuple(e.id for e in asked.examples), tuple(found.shown), outcomes)


def _by_example(
    answers: Iterator[tuple[int, Response]],
    encoded: Sequence[Any],
    groups: Mapping[int, Sequence[Request]],
) -> Iterator[tuple[int, list[tuple[Request, Any, Response]]]]:
    """(example, its requests, their tokens and responses in order), each as soon as it has all."""
    place = [(e, k) for e, group in groups.items() for k in range(len(group))]
    waiting: dict[int, dict[int, tuple[Any, Response]]] = defaultdict(dict)
    for i, response in answers:
        e, k = place[i]
        waiting[e][k] = encoded[i], response
        if len(waiting[e]) == len(groups[e]):
            have = waiting.pop(e)
            yield e, [(request, *have[k]) for k, request in enumerate(groups[e])]
    assert not waiting, f"{len(waiting)} examples were not answered in full"


def _refuse(flags: Flags) -> None:
    """--strict: no truncated, crossing, empty or lossy request."""
    for kind, found in (
        ("is cut to fit the context", flags.truncated),
        ("has a token across context and continuation", flags.crossing),
        ("has no token to score", flags.empty),
        ("has text that the tokenizer loses", flags.lossy),
    ):
        if found:
            raise EncodingError(
                f"a request {kind} ({len(found)} in all); refused by --strict", found[0]
            )
