"""Several checkpoints at once, each on Ray workers of its own.

The command's `--workers` are dealt out evenly. A checkpoint for which there is no worker left
begins when another is done. Each has its own connection to the store; tokens and requests are
shared.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import replace

from harness.commands.evaluate.session import (
    Session,
    connect_workers,
    evaluate_job,
    open_engine,
    store_for,
)
from harness.display import terminal
from harness.errors import HarnessError
from harness.runner import Job


def wanted(session: Session) -> bool:
    """Whether the command has several models and several workers for them."""
    options = session.options
    return len(options.model) > 1 and (options.workers or 0) > 1


def evaluate_models(jobs: Sequence[Job], session: Session) -> Iterator[str]:
    """Evaluate jobs with all models; each model as soon as its records are in the session.

    Raises:
        Exception: a model failed; the others were evaluated before that is said.
    """
    models = session.options.model
    lanes = [_lane(session) for _ in models]
    connect_workers(lanes[0])  # by this thread, before the others need it
    failed: list[Exception] = []
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(_at_once(session)))
        # An interruption takes the workers away, so that no thread waits for them.
        for lane in lanes:
            stack.callback(lane.closing.close)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        running: dict[Future[None], int] = {
            pool.submit(_evaluate, model, jobs, lane): i
            for i, (model, lane) in enumerate(zip(models, lanes, strict=True))
        }
        for future in as_completed(running):
            lane = lanes[running[future]]
            session.records += lane.records
            session.paths += lane.paths
            error = future.exception()
            if isinstance(error, Exception):
                failed.append(error)
            elif error is not None:
                raise error
            yield models[running[future]]
    if failed:
        # The command ends with one of the errors, a defect of ours before any other.
        failed.sort(key=lambda error: not isinstance(error, HarnessError))
        for error in failed[:-1]:
            terminal.note(f"{type(error).__name__}: {error}")
        raise failed[-1]


def _at_once(session: Session) -> int:
    """How many models are evaluated at a time."""
    return min(len(session.options.model), session.options.workers or 1)


def _lane(session: Session) -> Session:
    """A session for one model: its share of the workers, and results of its own."""
    count = (session.options.workers or 1) // _at_once(session)
    return replace(
        session,
        options=replace(session.options, workers=count),
        abreast=_at_once(session),
        store=None,
        records=[],
        paths=[],
        closing=ExitStack(),
    )


def _evaluate(model: str, jobs: Sequence[Job], lane: Session) -> None:
    lane.store = store_for(lane.options)  # in the thread that uses it
    try:
        with open_engine(model, lane) as engine:
            for job in jobs:
                evaluate_job(job, engine, lane)
    finally:
        lane.closing.close()
        if lane.store:
            lane.store.close()
