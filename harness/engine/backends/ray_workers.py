"""The backend that runs copies of a checkpoint on Ray actors.

    queries --plan--> parcels --Ray--> workers --> answers, cached by the driver

The driver plans batches as one process would, sends the largest first, and keeps a few in flight at
each worker. Ray restarts workers that die and sends their parcels again.
"""

import logging
import socket
import threading
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from harness.core import Tokens
from harness.engine.backends.backend import BackendOptions
from harness.engine.checkpoint.settings import Identity, Settings
from harness.engine.decoding.plan import MAX_PROMPTS
from harness.engine.queries.prefix_tree import TreeRow, arrange, batches
from harness.engine.queries.query import Advance, Answer, GenerationQuery, Query, Sharing, Span
from harness.errors import CheckpointError, HarnessError, UsageError

if TYPE_CHECKING:
    from harness.engine.backends.cost import Estimate

PARCELS_IN_FLIGHT = 2  # per worker: one is computed, the next waits there
PARCEL_PROMPTS = 64  # a worker decodes these together

_connecting = threading.Lock()  # Ray is started once per process


@dataclass(frozen=True, slots=True)
class Parcel:
    """Queries that one worker answers together."""

    queries: tuple[Query, ...]
    size: int  # tokens to feed


def parcels(
    queries: Sequence[Query], known: Collection[Query], options: BackendOptions
) -> list[Parcel]:
    """Group distinct queries in parcels, the largest first; `known` ones need no answer."""
    scored: dict[Span, list[Query]] = {}
    generated: dict[Span, list[Query]] = {}
    for query in queries:
        if query not in known:
            by_span = generated if isinstance(query, GenerationQuery) else scored
            by_span.setdefault(query.span, []).append(query)
    # Whoever copies a state does so within a parcel: what has a common prefix goes to one worker.
    together = Sharing(0.0, options.budget) if options.copies_states else options.sharing
    rows = arrange([*scored], together)
    groups = [_parcel(batch, scored) for batch in batches(rows, options.budget)]
    sharing = options.sharing and replace(options.sharing, max_spans=MAX_PROMPTS)
    batch: list[TreeRow] = []
    for row in arrange([*generated], sharing):
        batch.append(row)
        if len(_parcel(batch, generated).queries) >= PARCEL_PROMPTS:
            groups.append(_parcel(batch, generated))
            batch = []
    if batch:
        groups.append(_parcel(batch, generated))
    return sorted(groups, key=lambda parcel: -parcel.size)


def _parcel(rows: Sequence[TreeRow], by_span: dict[Span, list[Query]]) -> Parcel:
    groups = list(by_span.values())
    queries = tuple(query for row in rows for s in row.nodes for query in groups[s])
    return Parcel(queries, sum(len(row) for row in rows))


class Worker:
    """Runs in an actor: one checkpoint, and the backend that answers queries with it."""

    def __init__(self, name: str, settings: Settings, budget: int | None) -> None:
        from harness.engine.backends.in_process import InProcess
        from harness.engine.checkpoint.load import load

        self._backend = InProcess(load(name, settings), budget=budget)

    def about(self) -> tuple[Identity, BackendOptions]:
        """What is loaded and how it is run; the same for all workers of a checkpoint."""
        return self._backend.identity, self._backend.options

    def answer(self, queries: Sequence[Query]) -> tuple[dict[Query, Answer], Tokens]:
        """Answers and their cost; raises as `InProcess.answer` does."""
        before = self._backend.tokens
        answers: dict[Query, Answer] = {}
        for batch in self._backend.answer(queries, (), lambda done, total: None):
            answers |= batch
        return answers, self._backend.tokens - before


class RayWorkers:
    """Answers queries with several actors that hold the same checkpoint.

    Args:
        name: of the checkpoint.
        settings: how each worker loads it.
        budget: padded tokens per batch.
        count: number of workers.
        total: number of workers of all checkpoints that are evaluated at the same time.

    Raises:
        CheckpointError: a worker cannot load the checkpoint.
    """

    def __init__(
        self, name: str, settings: Settings, *, budget: int | None, count: int, total: int
    ) -> None:
        from harness.engine.checkpoint.load import tokenizer_and_context

        ray = _ray()
        self.tokens = Tokens()
        self.tokenizer, _ = tokenizer_and_context(name, settings)
        # Ray places workers by their number of threads, so that they do not share cores.
        threads = settings.threads or 1
        settings = replace(settings, threads=threads)
        resources = ray.cluster_resources()
        cpus = resources.get("CPU", 0)
        if cpus < total * threads:  # they would wait for ever
            raise CheckpointError(
                f"{total} workers of {threads} threads do not fit the cluster's {cpus:.0f} CPUs; "
                "give fewer --workers or --threads"
            )
        remote = ray.remote(Worker).options(
            num_cpus=threads,
            num_gpus=1 if resources.get("GPU", 0) >= total else 0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy="SPREAD",
        )
        self._actors = [remote.remote(name, settings, budget) for _ in range(count)]
        try:
            about = ray.get([actor.about.remote() for actor in self._actors])
        except BaseException as error:
            self.close()  # also after an interruption
            if not isinstance(error, ray.exceptions.RayError):
                raise
            cause = getattr(error, "cause", None) or error
            reason = str(cause).strip().split("\n")[-1][:300]
            raise CheckpointError(f"a worker could not load {name!r}: {reason}") from error
        self.identity, self.options = about[0]

    def close(self) -> None:
        """Stop the actors; may be called again."""
        ray = _ray()
        actors, self._actors = self._actors, []
        for actor in actors:
            ray.kill(actor)

    def answer(
        self, queries: Sequence[Query], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each parcel, as `Backend.answer` describes.

        Raises:
            HarnessError: a worker raised it.
        """
        ray = _ray()
        waiting = deque(parcels(queries, known, self.options))
        total = sum(parcel.size for parcel in waiting)
        done = 0
        advance(done, total)
        free = deque(actor for _ in range(PARCELS_IN_FLIGHT) for actor in self._actors)
        in_flight: dict[Any, tuple[Any, Parcel]] = {}
        while waiting or in_flight:
            while waiting and free:
                actor, parcel = free.popleft(), waiting.popleft()
                in_flight[actor.answer.remote(parcel.queries)] = (actor, parcel)
            [ready], _ = ray.wait(list(in_flight), num_returns=1)
            actor, parcel = in_flight.pop(ready)
            free.append(actor)
            answers, cost = _result(ready)
            self.tokens += cost
            done += parcel.size
            advance(done, total)
            yield answers

    def estimate(self, counts: Mapping[Query, int], known: Collection[Query]) -> "Estimate":
        """Raise a UsageError: the workers' rates are not measured."""
        raise UsageError("--plan and --budget are for one process; leave out --workers")


def _result(ready: Any) -> tuple[dict[Query, Answer], Tokens]:
    """The result of a worker; an error of ours is raised as it was there."""
    ray = _ray()
    try:
        result: tuple[dict[Query, Answer], Tokens] = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HarnessError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise CheckpointError(f"the workers are gone: {str(error).splitlines()[0]}") from error
    return result


def _ray() -> Any:
    """Import Ray; raises a CheckpointError if it is not installed."""
    try:
        return import_module("ray")
    except ImportError as error:
        raise CheckpointError(
            "--workers and --address need Ray; pip install 'zero-shot-harness[cluster]'"
        ) from error


def connect(address: str | None, cpus: int) -> None:
    """Join a Ray cluster, or start one on this machine with this number of CPUs.

    Several threads may call it at the same time; the first one connects for all of them.

    Raises:
        CheckpointError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _ray()
    with _connecting:
        if ray.is_initialized():
            return
        where = {"address": address} if address else {"num_cpus": cpus, "include_dashboard": False}
        try:
            if address:
                _check_listening(address)
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"no Ray cluster at {address!r} ({str(error).splitlines()[0][:120]}); start one "
                "with ray start --head"
            ) from error


def _check_listening(address: str) -> None:
    """Connect to the address once (or raise OSError), because Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()
