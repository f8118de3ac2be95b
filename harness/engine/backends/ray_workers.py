"""The same engine on Ray workers, each with the checkpoint resident.

    questions --plan--> parcels --Ray--> workers --> answers, stored by the driver

The driver plans as one process would, hands out whole batches in descending size, keeps a few in
flight at each worker, and writes to the store. Ray starts workers again that die and asks them
again; nothing about distribution is written by hand beyond that.
"""

import logging
import socket
import threading
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, NamedTuple

from harness.core import Tokens
from harness.engine.backends.backend import BackendOptions
from harness.engine.checkpoint.settings import Identity, Settings
from harness.engine.decoding.plan import MAX_PROMPTS, plan_generation
from harness.engine.queries.prefix_tree import TreeRow, arrange, batches
from harness.engine.queries.query import Advance, Answer, GenerationQuery, Query, Span
from harness.errors import CheckpointError, HarnessError, NumericsError

IN_FLIGHT = 2  # parcels at each worker: one is answered, the next is there already
WRITTEN = 64  # prompts of a parcel; a worker decodes so many side by side

_connecting = threading.Lock()  # Ray may be started once in a process


@dataclass(frozen=True, slots=True)
class Parcel:
    """Questions that one worker answers together."""

    questions: tuple[Query, ...]
    size: int  # tokens to be fed; what is handed out first


def parcels(
    asked: Sequence[Query], known: Collection[Query], habits: BackendOptions
) -> list[Parcel]:
    """Batches of questions, the largest first.

    Args:
        asked: distinct questions.
        known: those among them that need no answer.
        habits: how the workers plan.
    """
    left = [question for question in asked if question not in known]
    wanted: dict[Span, list[Query]] = {}
    for question in left:
        if not isinstance(question, GenerationQuery):
            wanted.setdefault(question.span, []).append(question)
    spans = list(wanted)
    rows = arrange(spans, habits.sharing)
    found = [_parcel(batch, lambda s: wanted[spans[s]]) for batch in batches(rows, habits.budget)]
    return sorted([*found, *_written(left, habits)], key=lambda parcel: -parcel.size)


def _written(left: Sequence[Query], habits: BackendOptions) -> Iterator[Parcel]:
    """Prompts in whole rows, about `WRITTEN` at a time."""
    sharing = habits.sharing and replace(habits.sharing, max_spans=MAX_PROMPTS)
    prompts = [query for query in left if isinstance(query, GenerationQuery)]
    planned = plan_generation(prompts, lambda spans, _: arrange(spans, sharing), None)
    queries: list[Query] = []
    size = 0
    for k, row in enumerate(planned):
        queries += row.all_queries()
        size += len(row.row)
        if len(queries) >= WRITTEN or k + 1 == len(planned):
            yield Parcel(tuple(queries), size)
            queries, size = [], 0


def _parcel(rows: Sequence[TreeRow], of: Any) -> Parcel:
    questions = tuple(question for row in rows for s in row.nodes for question in of(s))
    return Parcel(questions, sum(len(row) for row in rows))


class Crew(NamedTuple):
    """How many workers there are."""

    own: int  # of one checkpoint
    everyone: int  # of all checkpoints that are answered at the same time


class Worker:
    """What runs in an actor: one checkpoint, and what answers questions with it."""

    def __init__(self, name: str, settings: Settings, budget: int | None) -> None:
        from harness.engine.backends.in_process import InProcess
        from harness.engine.checkpoint.load import load

        checkpoint = load(name, settings)
        self._identity = checkpoint.identity
        self._local = InProcess(checkpoint, budget=budget, share=True)

    def about(self) -> tuple[Identity, BackendOptions]:
        """What is loaded, and how it is run; the same for all workers of a checkpoint."""
        return self._identity, self._local.options

    def answer(self, asked: Sequence[Query]) -> tuple[dict[Query, Answer], Tokens]:
        """Answers and their cost; raises as `harness.engine.backends.in_process.InProcess` does."""
        before = self._local.tokens
        found: dict[Query, Answer] = {}
        for answers in self._local.answer(asked, (), lambda done, total: None):
            found |= answers
        return found, self._local.tokens - before


class RayWorkers:
    """Actors that hold one checkpoint each.

    Args:
        name: of the checkpoint.
        settings: how each loads it.
        budget: padded tokens a batch.
        crew: how many actors, among how many in all.

    Attributes:
        tokens: what the answers so far have cost.
        identity: of the checkpoint.
        tokenizer: of the checkpoint, which is loaded here as well.
        options: how the workers compute answers.

    Raises:
        CheckpointError: a worker cannot load it.
    """

    def __init__(self, name: str, settings: Settings, budget: int | None, crew: Crew) -> None:
        from harness.engine.checkpoint.load import tokenizer_and_context

        ray = _ray()
        self.tokens = Tokens()
        self.tokenizer, _ = tokenizer_and_context(name, settings)
        # Workers are counted by their threads, so that two do not share a core.
        settings = replace(settings, threads=settings.threads or 1)
        there = ray.cluster_resources()
        if there.get("CPU", 0) < crew.everyone * (
            settings.threads or 1
        ):  # they would wait for ever
            raise CheckpointError(
                f"{crew.everyone} workers of {settings.threads} threads do not fit the cluster's "
                f"{there.get('CPU', 0):.0f} CPUs; give fewer --workers or --threads"
            )
        remote = ray.remote(Worker).options(
            num_cpus=settings.threads,
            num_gpus=1 if there.get("GPU", 0) >= crew.everyone else 0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy="SPREAD",
        )
        self._actors = [remote.remote(name, settings, budget) for _ in range(crew.own)]
        try:
            about = ray.get([actor.about.remote() for actor in self._actors])
        except BaseException as error:
            self.close()  # also if the wait is interrupted
            if not isinstance(error, ray.exceptions.RayError):
                raise
            cause = getattr(error, "cause", None) or error
            reason = str(cause).strip().split("\n")[-1][:300]
            raise CheckpointError(f"a worker could not load {name!r}: {reason}") from error
        self.identity: Identity = about[0][0]
        self.options: BackendOptions = about[0][1]

    def close(self) -> None:
        """Let the actors go, and what they hold; once they are gone this does nothing."""
        ray = _ray()
        actors, self._actors = self._actors, []
        for actor in actors:
            ray.kill(actor)

    def answer(
        self, queries: Sequence[Query], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each parcel, as it comes back.

        Raises:
            NumericsError: a log-probability is not finite; its `request` is the index in `queries`.
            HarnessError: a worker could not answer.
        """
        ray = _ray()
        waiting = deque(parcels(queries, known, self.options))
        total = sum(parcel.size for parcel in waiting)
        done = 0
        advance(done, total)
        free = deque(actor for _ in range(IN_FLIGHT) for actor in self._actors)
        flying: dict[Any, tuple[Any, Parcel]] = {}
        while waiting or flying:
            while waiting and free:
                actor, parcel = free.popleft(), waiting.popleft()
                flying[actor.answer.remote(parcel.questions)] = (actor, parcel)
            [ready], _ = ray.wait(list(flying), num_returns=1)
            actor, parcel = flying.pop(ready)
            free.append(actor)
            answers, cost = self._result(ready, parcel, queries)
            self.tokens += cost
            done += parcel.size
            advance(done, total)
            yield answers

    def _result(
        self, ready: Any, parcel: Parcel, queries: Sequence[Query]
    ) -> tuple[dict[Query, Answer], Tokens]:
        """What came back; an error of ours as it was raised there."""
        ray = _ray()
        try:
            found: tuple[dict[Query, Answer], Tokens] = ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, NumericsError) and cause.request is not None:
                at = queries.index(parcel.questions[cause.request])
                raise NumericsError(str(cause), at) from error
            if isinstance(cause, HarnessError):
                raise type(cause)(str(cause)) from error
            raise
        except ray.exceptions.RayError as error:
            raise CheckpointError(f"the workers are gone: {str(error).splitlines()[0]}") from error
        return found


def _ray() -> Any:
    """The library.

    Raises:
        CheckpointError: it is not installed.
    """
    try:
        return import_module("ray")
    except ImportError as error:
        raise CheckpointError(
            "--workers and --address need Ray; pip install 'zero-shot-harness[cluster]'"
        ) from error


def connect(address: str | None, cpus: int) -> None:
    """Join a Ray cluster, or start one on this machine with so many CPUs to give away.

    Several threads may call it at the same time; the first one connects for all of them.

    Raises:
        CheckpointError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _ray()
    with _connecting:
        if not ray.is_initialized():
            _initialise(ray, address, cpus)


def _initialise(ray: Any, address: str | None, cpus: int) -> None:
    try:
        if address:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"no Ray cluster at {address!r} ({str(error).splitlines()[0][:120]}); start one with "
            "ray start --head"
        ) from error


def _knock(address: str) -> None:
    """See whether anybody listens; Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()
