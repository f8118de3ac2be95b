"""Several models at once, each on Ray workers of its own.

The command's `--workers` are split evenly. A model for which no worker is left starts when another
has finished. Each has its own connection to the response cache; tokens and requests are shared.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import replace

from harness.commands.evaluate.session import (
    Session,
    connect_workers,
    evaluate_job,
    open_engine,
    open_store,
)
from harness.commands.options import WorkersOptions
from harness.display import terminal
from harness.errors import HarnessError
from harness.records.record import Record
from harness.runner import Job


def evaluate_models(
    jobs: Sequence[Job], session: Session, show: Callable[[Sequence[Record]], None]
) -> None:
    """Evaluate jobs with all models, and show each model's records as soon as it has finished.

    Models that fail are noted in the session.

    Raises:
        Exception: a model met a defect; the others were evaluated before it is raised.
    """
    models = session.options.model.names
    lanes = [_lane(session) for _ in models]
    connect_workers(lanes[0])  # in this thread, before the others need it
    defects: list[Exception] = []
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(_at_once(session)))
        # An interruption stops the workers, so that no thread waits for them.
        for lane in lanes:
            stack.callback(lane.closing.close)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        running: dict[Future[None], tuple[str, Session]] = {
            pool.submit(_evaluate, model, jobs, lane): (model, lane)
            for model, lane in zip(models, lanes, strict=True)
        }
        for future in as_completed(running):
            model, lane = running[future]
            session.records += lane.records
            session.paths += lane.paths
            error = future.exception()
            if isinstance(error, HarnessError):
                session.fail(model, error)
            elif isinstance(error, Exception):
                defects.append(error)
            elif error is not None:
                raise error
            if lane.records:
                show(lane.records)
    _raise_last(defects)


def _raise_last(defects: Sequence[Exception]) -> None:
    """Raise the last of several errors and note the others; nothing if there is none."""
    for defect in defects[:-1]:
        terminal.note(f"{type(defect).__name__}: {defect}")
    if defects:
        raise defects[-1]


def _at_once(session: Session) -> int:
    """How many models are evaluated at a time."""
    return min(len(session.options.model.names), session.options.workers.count or 1)


def _lane(session: Session) -> Session:
    """A session for one model, with its share of the workers and its own records."""
    workers = session.options.workers
    share = WorkersOptions((workers.count or 1) // _at_once(session), workers.address)
    return replace(
        session,
        options=replace(session.options, workers=share),
        concurrent=_at_once(session),
        store=None,
        records=[],
        paths=[],
        closing=ExitStack(),
    )


def _evaluate(model: str, jobs: Sequence[Job], lane: Session) -> None:
    """Evaluate all jobs with one model, in a thread."""
    lane.store = open_store(lane.options.cache, shared=lane.shared)  # one connection per thread
    try:
        with open_engine(model, lane) as engine:
            for job in jobs:
                evaluate_job(job, engine, lane)
    finally:
        lane.closing.close()
        if lane.store:
            lane.store.close()
