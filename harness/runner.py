"""The spine: one task's rows and an engine in, a record out.

Knows no benchmark and no tensor. Rows are chosen, read into examples, asked as requests; every
response is turned into outcomes as soon as its example is complete, and then dropped.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from harness import stats
from harness.core import Encoding, Example, Request, Response, Row, Score, Tokens
from harness.data import Data
from harness.errors import EncodingError, RequestError, UsageError
from harness.metrics import Outcome
from harness.prompt import Prompt
from harness.report import dump
from harness.report.provenance import environment
from harness.report.record import Record
from harness.task import Measure, Task, encoding
from harness.task import Protocol as TaskProtocol

BLOCK = 5000  # characters of neighbouring rows that --limit keeps together: about 1,024 tokens


class Flags(Protocol):
    """What preflight found; indices into the requests."""

    @property
    def truncated(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def crossing(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def empty(self) -> tuple[int, ...]: ...  # noqa: D102
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


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told what happens meanwhile."""

    advance: Callable[[int, int], None] = lambda done, total: None  # tokens
    preflight: Callable[[dict[str, int]], None] = lambda counts: None
    item: Callable[[dict[str, Any]], None] | None = None  # one JSON value an example, for --dump


def evaluate(job: Job, engine: Engine, watch: Watch | None = None) -> Record:
    """Run a job.

    Raises:
        HarnessError: any of its kinds; a request at fault is named by its example.
    """
    begun, before = time.perf_counter(), engine.tokens
    asked = ask(job)
    try:
        flags, outcomes = _collect(job, asked, engine, watch or Watch())
    except RequestError as error:
        if error.request is None:
            raise
        example = asked.examples[asked.owners[error.request]]
        raise type(error)(f"{job.task.name} item {example.id}: {error}") from error
    measures = job.task.measures(job.protocol.options)
    scores = tuple(
        stats.score(measure, [o for group in outcomes for o in group[m]], job.seed)
        for m, measure in enumerate(measures)
    )
    cost = _Cost(engine.tokens - before, time.perf_counter() - begun)
    return _record(job, asked, engine, flags, scores, cost)


class _Cost(NamedTuple):
    tokens: Tokens
    seconds: float


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

    @property
    def owners(self) -> list[int]:
        """The example of each request."""
        return [e for e, group in enumerate(self.groups) for _ in group]


def ask(job: Job) -> Asked:
    """Choose rows, read examples, make requests: all that needs no model.

    Raises:
        DataError: a row cannot be read.
        UsageError: the limit is no positive number.
    """
    options = job.protocol.options
    prompt = job.task.prompt(options)
    runs = choose(job.data.rows, job.limit, seed=job.seed, stream=job.task.stream)
    examples = tuple(example for run in runs for example in job.task.read(run, options))
    groups = tuple(tuple(job.task.ask(example, prompt, options)) for example in examples)
    return Asked(prompt, examples, groups, sum(len(run) for run in runs))


def _collect(
    job: Job, asked: Asked, engine: Engine, watch: Watch
) -> tuple[dict[str, int], list[list[Sequence[Outcome]]]]:
    """Preflight counts, and outcomes[example][measure]."""
    requests = asked.requests
    encoded = engine.encode(requests, encoding(job.protocol.options))
    flags = engine.preflight(requests, encoded)
    watch.preflight(flags.counts())
    if job.strict:
        _refuse(flags)
    measures = job.task.measures(job.protocol.options)
    outcomes: list[list[Sequence[Outcome]]] = [[] for _ in asked.examples]
    answers = engine.answer(requests, encoded, watch.advance)
    for e, responses in _by_example(answers, asked):
        example = asked.examples[e]
        outcomes[e] = [measure.extract(example, responses) for measure in measures]
        if watch.item:
            pairs = list(zip(asked.groups[e], responses, strict=True))
            watch.item(dump.item(job.task.name, example.id, pairs, _sums(measures, outcomes[e])))
    return flags.counts(), outcomes


def _sums(measures: Sequence[Measure], found: Sequence[Sequence[Outcome]]) -> dict[str, float]:
    """One example's statistics by name."""
    return {
        name: sum(outcome[s] for outcome in outcomes)
        for measure, outcomes in zip(measures, found, strict=True)
        for s, name in enumerate(measure.statistics)
    }


def _record(
    job: Job,
    asked: Asked,
    engine: Engine,
    flags: dict[str, int],
    scores: tuple[Score, ...],
    cost: _Cost,
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
        limit=job.limit,
        seed=job.seed,
        examples=asked.rows,
        requests=len(asked.requests),
        tokens=cost.tokens,
        seconds=cost.seconds,
        scores=scores,
        preflight=flags,
        notes=dict(job.task.notes(asked.examples, options)) if job.task.notes else {},
        engine=engine.describe(),
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def choose(
    rows: Sequence[Row], limit: int | None, *, seed: int, stream: bool
) -> list[Sequence[Row]]:
    """Runs of rows to read: all of them, or `limit` taken at random, in file order.

    Of a stream, blocks of neighbouring rows are taken, so that text stays text.

    Raises:
        UsageError: `limit` is less than 1.
    """
    if limit is None or limit >= len(rows) > 0:
        return [rows]
    if limit < 1:
        raise UsageError(f"--limit {limit}: expected at least 1")
    rng = random.Random(seed)
    if not stream:
        return [[rows[i] for i in sorted(rng.sample(range(len(rows)), limit))]]
    blocks = _blocks(rows)
    rng.shuffle(blocks)
    taken: list[Sequence[Row]] = []
    left = limit
    for block in blocks:
        if left <= 0:
            break
        taken.append(block[:left])
        left -= len(taken[-1])
    return sorted(taken, key=lambda run: run[0].number)


def _blocks(rows: Sequence[Row]) -> list[Sequence[Row]]:
    blocks: list[Sequence[Row]] = []
    start = size = 0
    for i, row in enumerate(rows):
        size += sum(len(v) for v in row.fields.values() if isinstance(v, str | bytes)) + 1
        if size >= BLOCK or i == len(rows) - 1:
            blocks.append(rows[start : i + 1])
            start, size = i + 1, 0
    return blocks


def _by_example(
    answers: Iterator[tuple[int, Response]], asked: Asked
) -> Iterator[tuple[int, list[Response]]]:
    """(example, its responses in order), each as soon as it has all."""
    place = [(e, k) for e, group in enumerate(asked.groups) for k in range(len(group))]
    waiting: dict[int, dict[int, Response]] = defaultdict(dict)
    for i, response in answers:
        e, k = place[i]
        waiting[e][k] = response
        if len(waiting[e]) == len(asked.groups[e]):
            have = waiting.pop(e)
            yield e, [have[k] for k in range(len(have))]
    assert not waiting, f"{len(waiting)} examples were not answered in full"


def _refuse(flags: Flags) -> None:
    """--strict: no truncated, crossing or empty request."""
    for kind, found in (
        ("is cut to fit the context", flags.truncated),
        ("has a token across context and continuation", flags.crossing),
        ("has no token to score", flags.empty),
    ):
        if found:
            raise EncodingError(
                f"a request {kind} ({len(found)} in all); refused by --strict", found[0]
            )
