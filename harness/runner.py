"""The run loop: a job and an engine in, a record out.

Rows are chosen, read into examples and turned into requests. As soon as all responses of an example
are there, its outcomes are extracted and the responses dropped. Knows neither tasks nor tensors.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from harness.canaries.canaries import Canaries, refuse
from harness.core import Example, Generate, Pool, Request, Response, Score
from harness.data.load import Data
from harness.data.subset import choose
from harness.errors import DataError, RequestError, TaskError
from harness.metrics import Outcome
from harness.metrics.hf_evaluate import ModuleMetric
from harness.prompt import Prompt
from harness.records import dump
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown, show
from harness.records.provenance import environment
from harness.records.record import Record
from harness.stats import intervals
from harness.task import Measure, Protocol, Task, encoding

if TYPE_CHECKING:
    from harness.engine.engine import Engine
    from harness.engine.queries.encode import Encoded

MAX_ROUNDS = 500  # rounds of requests per example


@dataclass(frozen=True, slots=True)
class Job:
    """One task under one protocol on given data."""

    task: Task
    protocol: Protocol
    data: Data
    limit: int | None = None  # number of rows, chosen at random
    seed: int = 0
    strict: bool = False  # refuse what would otherwise be noted or a warning
    pool: Data | None = None  # rows of the few-shot examples, for tasks that have them


@dataclass(frozen=True, slots=True)
class Observer:
    """Callbacks of a run."""

    advance: Callable[[int, int], None] = lambda done, total: None  # tokens
    preflight: Callable[[dict[str, int]], None] = lambda counts: None  # once per round
    item: Callable[[dict[str, Any]], None] | None = None  # one JSON value per example


@dataclass(frozen=True, slots=True)
class Prepared:
    """The examples of a job with their first requests."""

    prompt: Prompt
    examples: tuple[Example, ...]
    groups: tuple[tuple[Request, ...], ...]  # the requests of each example
    rows: int  # number of rows that the examples were read from

    @property
    def requests(self) -> list[Request]:
        """All requests, in order."""
        return [request for group in self.groups for request in group]


def prepare(job: Job) -> Prepared:
    """Choose rows, read examples and make requests: everything that needs no model.

    Raises:
        DataError: a row cannot be read, or none of the rows gives an example.
        UsageError: the limit is not a positive number.
        TaskError: a function of the task fails.
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
        pool = Pool(job.pool.rows, job.pool.source_kind == "sample")
        drawn = job.task.few_shot.draw(pool, options)
        examples = tuple(replace(e, fields={**e.fields, **drawn}) for e in examples)
    groups = tuple(
        _seeded(job.task.ask(example, prompt, options), job.seed) for example in examples
    )
    return Prepared(prompt, examples, groups, rows)


def encode(job: Job, prepared: Prepared, engine: "Engine") -> "list[Encoded]":
    """Encode the first requests of all examples.

    Raises:
        EncodingError: a request cannot be encoded; the message names its example.
    """
    pairs = zip(prepared.examples, prepared.groups, strict=True)
    with _naming_examples(job, [example for example, group in pairs for _ in group]):
        return engine.encode(prepared.requests, encoding(job.protocol.options))


def follow_up(
    job: Job, prompt: Prompt, example: Example, responses: Sequence[Response], rounds: int
) -> tuple[Request, ...]:
    """Requests of an example that depend on its responses so far; none if it is complete.

    Raises:
        TaskError: the example has had `MAX_ROUNDS` rounds, and `follow` returns more requests.
    """
    if job.task.follow is None:
        return ()
    requests = job.task.follow(example, responses, prompt, job.protocol.options)
    if requests and rounds >= MAX_ROUNDS:
        raise TaskError(
            f"task {job.task.name!r}: follow() still returns requests on example {example.id} "
            f"after {rounds:,} rounds; it must end by returning none"
        )
    return _seeded(requests, job.seed)


def _seeded(requests: Sequence[Request], seed: int) -> tuple[Request, ...]:
    """Put the run's seed before the seed of each sample."""
    return tuple(
        replace(r, seed=(seed, *r.seed)) if isinstance(r, Generate) else r for r in requests
    )


def evaluate(
    job: Job, engine: "Engine", observer: Observer | None = None, prepared: Prepared | None = None
) -> Record:
    """Run a job.

    Args:
        job: if it is strict, a warning is an error.
        engine: with the checkpoint.
        observer: callbacks.
        prepared: the result of `prepare` for this job, if it was called before.

    Raises:
        HarnessError: any of its kinds; the message names the example of a bad request.
    """
    begun, before = time.perf_counter(), engine.tokens
    prepared = prepared or prepare(job)
    options = job.protocol.options
    # Before anything is computed: an error in them must not cost the scores.
    notes = job.task.notes(prepared.examples, options) if job.task.notes else {}
    canaries = Canaries(engine.vocabulary)
    results = _Results(tuple(job.task.measures(options)), len(prepared.examples), canaries)
    _answer(job, prepared, engine, observer or Observer(), results)
    prompt, scores, tokens = prepared.prompt, results.scores(job), engine.tokens - before
    warnings = canaries.warnings(scores, tokens, results.flags, results.requests)
    if job.strict:
        refuse(warnings, job.task.name)
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
        rows=prepared.rows,
        # Running text has no examples of its own: its unit is the row, a line.
        examples=prepared.rows if job.task.stream else results.scored_examples(),
        requests=results.requests,
        scores=scores,
        tokens=tokens,
        seconds=time.perf_counter() - begun,
        preflight=dict(results.flags),
        notes=dict(notes),
        engine=engine.describe(),
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        warnings=warnings,
        outcomes=results.table(prepared.examples),
    )


def _answer(
    job: Job, prepared: Prepared, engine: "Engine", observer: Observer, results: "_Results"
) -> None:
    """Answer all requests, round after round, and extract the outcomes of each example.

    Each round has the requests that follow from the responses of the one before.
    """
    history: dict[int, list[dump.Exchange]] = defaultdict(list)  # by example
    pending = dict(enumerate(prepared.groups))  # example -> its requests of this round
    rounds = 0
    while pending:
        rounds += 1
        requests = [request for group in pending.values() for request in group]
        owners = [e for e, group in pending.items() for _ in group]  # the example of each
        responses: dict[int, dict[int, Response]] = defaultdict(dict)  # by example and request
        following: dict[int, tuple[Request, ...]] = {}
        with _naming_examples(job, [prepared.examples[e] for e in owners]):
            encoded = engine.encode(requests, encoding(job.protocol.options))
            flags = engine.preflight(requests, encoded)
            observer.preflight(flags.counts())
            if job.strict:
                flags.refuse()
            results.requests += len(requests)
            results.flags.update(flags.counts())
            for i, response in engine.answer(requests, encoded, observer.advance):
                e = owners[i]
                responses[e][i] = response
                if len(responses[e]) < len(pending[e]):
                    continue
                history[e] += [
                    dump.Exchange(requests[k], encoded[k], response)
                    for k, response in sorted(responses.pop(e).items())
                ]
                example, so_far = prepared.examples[e], [x.response for x in history[e]]
                if more := follow_up(job, prepared.prompt, example, so_far, rounds):
                    following[e] = more
                    continue
                results.add(e, example, history[e])
                if observer.item:
                    sums = dump.sums(results.measures, results.outcomes[e])
                    observer.item(dump.item(job.task.name, example.id, history[e], sums))
                del history[e]
        assert not responses, f"{len(responses)} examples were not answered in full"
        pending = dict(sorted(following.items()))


@contextmanager
def _naming_examples(job: Job, examples: Sequence[Example]) -> Iterator[None]:
    """Name the example in the error of a request; `examples` has that of each request."""
    try:
        yield
    except RequestError as error:
        if error.request is None:
            raise
        example = examples[error.request]
        raise type(error)(f"{job.task.name} example {example.id}: {error}") from error


@dataclass(slots=True)
class _Results:
    """The outcomes of a job so far."""

    measures: tuple[Measure, ...]
    count: InitVar[int]  # number of examples
    canaries: Canaries
    requests: int = 0
    flags: Counter[str] = field(default_factory=Counter)  # of preflight
    outcomes: list[list[Sequence[Outcome]]] = field(init=False)  # outcomes[example][measure]
    shown: list[Shown] = field(init=False)  # by example

    def __post_init__(self, count: int) -> None:
        self.outcomes = [[] for _ in range(count)]
        self.shown = [Shown("", "", "")] * count

    def add(self, e: int, example: Example, exchanges: Sequence[dump.Exchange]) -> None:
        """Extract the outcomes of a complete example, and show its responses to the canaries."""
        self.canaries.add(example, exchanges)
        responses = [exchange.response for exchange in exchanges]
        self.outcomes[e] = [measure.extract(example, responses) for measure in self.measures]
        self.shown[e] = show(example, [(x.request, x.response) for x in exchanges])

    def scores(self, job: Job) -> tuple[Score, ...]:
        """One score per measure; optional measures without outcomes have none."""
        scores = []
        for m, measure in enumerate(self.measures):
            outcomes = [outcome for group in self.outcomes for outcome in group[m]]
            if outcomes or not measure.optional:
                scores.append(intervals.score_of_task(job.task.name, measure, outcomes, job.seed))
        return tuple(scores)

    def scored_examples(self) -> int:
        """Number of examples that have an outcome of the model, not only of a baseline."""
        own = [m for m, measure in enumerate(self.measures) if measure.baseline is None]
        return sum(any(group[m] for m in own) for group in self.outcomes)

    def table(self, examples: Sequence[Example]) -> Outcomes:
        """The outcomes by measure, for comparing with another run; those of texts are left out."""
        outcomes = {}
        for m, measure in enumerate(self.measures):
            if not isinstance(measure.metric, ModuleMetric):
                pairs = [(e, o) for e, group in enumerate(self.outcomes) for o in group[m]]
                values = tuple(tuple(map(float, outcome)) for _, outcome in pairs)
                outcomes[measure.name] = MetricOutcomes(tuple(e for e, _ in pairs), values)
        return Outcomes(tuple(e.id for e in examples), tuple(self.shown), outcomes)
