"""A job: one task under one protocol on given data, made into examples and their requests."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.core import Example, Generate, Pool, Request, Response
from harness.data.load import Data
from harness.data.subset import choose
from harness.errors import DataError, RequestError, TaskError
from harness.prompt import Prompt
from harness.task import Protocol, Task, encoding

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
    groups = tuple(seeded(job.task.ask(example, prompt, options), job.seed) for example in examples)
    return Prepared(prompt, examples, groups, rows)


def encode(job: Job, prepared: Prepared, engine: "Engine") -> "list[Encoded]":
    """Encode the first requests of all examples.

    Raises:
        EncodingError: a request cannot be encoded; the message names its example.
    """
    pairs = zip(prepared.examples, prepared.groups, strict=True)
    with naming_examples(job, [example for example, group in pairs for _ in group]):
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
    return seeded(requests, job.seed)


def seeded(requests: Sequence[Request], seed: int) -> tuple[Request, ...]:
    """Put the run's seed before the seed of each sample."""
    return tuple(
        replace(r, seed=(seed, *r.seed)) if isinstance(r, Generate) else r for r in requests
    )


@contextmanager
def naming_examples(job: Job, examples: Sequence[Example]) -> Iterator[None]:
    """Name the example in the error of a request; `examples` has that of each request."""
    try:
        yield
    except RequestError as error:
        if error.request is None:
            raise
        example = examples[error.request]
        raise type(error)(f"{job.task.name} example {example.id}: {error}") from error
