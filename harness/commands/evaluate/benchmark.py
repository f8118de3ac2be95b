"""`harness TASK`, and the loop over models of all commands that evaluate."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.commands.evaluate.session import (
    Session,
    evaluate_job,
    finish,
    job_for,
    open_engine,
    opened,
)
from harness.commands.options import RunOptions
from harness.display import costs, tables, terminal
from harness.errors import (
    CanaryError,
    CheckpointError,
    EncodingError,
    RequestError,
    TaskError,
)
from harness.jobs import budget
from harness.plugins.registry import load_task
from harness.records.record import Record
from harness.runner import Job

if TYPE_CHECKING:
    from harness.engine.engine import Engine

Show = Callable[[Sequence[Record]], None]
OF_ONE_MODEL = (CanaryError, CheckpointError, RequestError, TaskError)
"""Errors that say nothing about the other models of a command."""


def run_benchmark(name: str, options: RunOptions) -> None:
    """Evaluate one task with each model; print and record the scores."""
    options.check()
    task = load_task(name)
    protocol = task.protocol(options.protocol.name, options.protocol.overrides())
    job = job_for(task, protocol, options.data)

    run_models([job], options, tables.show_records)


def run_models(
    jobs: Sequence[Job],
    options: RunOptions,
    show: Show,
    *,
    share_answers: bool = False,
    size: str | None = None,
) -> None:
    """Evaluate jobs with all models; record and show the scores of each.

    Args:
        jobs: for every model.
        options: of the command.
        show: prints the records of one model, also if it fails in the end.
        share_answers: keep answers in memory if they are not kept on disk.
        size: the paper's model to compare with; default: the nearest.

    Raises:
        HarnessError: a model failed; the others were evaluated before it is raised.
    """

    def show_model(records: Sequence[Record]) -> None:
        if options.output.leaderboard:
            from harness.analysis import leaderboard

            leaderboard.write(leaderboard.rows(session.records), options.output.leaderboard)
        if not options.output.json:
            show(records)
            if options.output.signatures:
                tables.show_signatures(records)

    with opened(options, shared=share_answers) as session:
        if len(options.model.names) > 1 and (options.workers.count or 1) > 1:
            from harness.commands.evaluate.concurrent_models import evaluate_models

            evaluate_models(jobs, session, show_model)
        else:
            _one_by_one(jobs, session, show_model)
        if not options.output.json:
            _show_steps(session.records)
        finish(session, size)


def _show_steps(records: Sequence[Record]) -> None:
    """Print the scores of training runs by step, if there are several steps of one."""
    from harness.analysis.steps import step_curves
    from harness.display.curves import show_step_curves

    if len({record.model["step"] for record in records}) > 1:
        show_step_curves([curve for curve in step_curves(records) if len(curve.points) > 1])


def _one_by_one(jobs: Sequence[Job], session: Session, show: Show) -> None:
    """Evaluate jobs with one model after the other; one that fails does not stop the others."""
    for model in session.options.model.names:
        first = len(session.records)
        try:
            _run_model(model, jobs, session)
        except OF_ONE_MODEL as error:
            session.fail(model, error)
        finally:
            if session.records[first:]:
                show(session.records[first:])


def _run_model(model: str, jobs: Sequence[Job], session: Session) -> None:
    """Evaluate jobs with one model, or print what they cost.

    The engine is closed at the end, so that one model is gone before the next is loaded.
    """
    plan = session.options.plan
    grid = len({job.task.name for job in jobs}) < len(jobs)  # several protocols of one task
    with open_engine(model, session) as engine:
        if plan.budget is not None and not session.budgeted:
            # The rows are chosen once, so that all models answer the same ones.
            share = plan.budget / len(session.options.model.names)
            budgeted = budget.within(jobs, engine, share)
            for note in budgeted.notes:
                terminal.note(note)
            session.budgeted = _same_rows(budgeted.jobs) if grid else budgeted.jobs
        jobs = session.budgeted or jobs
        if plan.plan:
            identity, estimates = engine.identity, budget.estimates(jobs, engine)
            costs.show_plan(identity.name, jobs, estimates, by_server=bool(identity.endpoint))
            return
        _evaluate_jobs(jobs, engine, session, grid)


def _evaluate_jobs(
    jobs: Sequence[Job], engine: "Engine", session: Session, show_protocols: bool
) -> None:
    """Evaluate jobs; raises at the end if the model cannot read the requests of some.

    The texts of the others may be shorter, or have other characters.
    """
    errors: list[EncodingError] = []
    for job in jobs:
        if show_protocols:
            terminal.note(f"{job.task.name}: {job.protocol.label}")
        try:
            evaluate_job(job, engine, session)
        except EncodingError as error:
            if job.strict:
                raise
            errors.append(error)
    for refusal in errors[:-1]:
        terminal.note(f"not run: {refusal}")
    if errors:
        raise errors[-1]


def _same_rows(jobs: Sequence[Job]) -> list[Job]:
    """Give all protocols of a task the rows of the most expensive one, so that they compare."""
    limits = [job.limit for job in jobs if job.limit is not None]
    return [replace(job, limit=min(limits)) if limits else job for job in jobs]
