"""`--grid` and `--vary`: one task under many protocols, to see which of them gives which score.

Equal token sequences are computed once for all protocols.
"""

from collections.abc import Sequence
from itertools import product

from harness.analysis.paper import published
from harness.analysis.protocol_grid import GridRow, columns
from harness.commands.evaluate.benchmark import run_models
from harness.commands.evaluate.session import job_for
from harness.commands.options import DataOptions, ProtocolOptions, RunOptions
from harness.display import tables, terminal
from harness.errors import DataError, UsageError
from harness.plugins.registry import load_task
from harness.records.record import Record
from harness.runner import Job
from harness.task import Protocol, Task


def run_grid(name: str, options: RunOptions) -> None:
    """Evaluate a task under all its protocols, or all combinations of the varied options."""
    options.check()
    task = load_task(name)
    jobs, missing = _jobs(task, protocols(task, options.protocol), options.data)

    def show(records: Sequence[Record]) -> None:
        rows = [
            GridRow(job.protocol, _changes(task, job.protocol), record)
            for job, record in zip(jobs, records, strict=False)  # fewer records if the model failed
        ]
        size = published.nearest_size(records[0].parameters)
        tables.show_grid(task.name, columns(rows), [*rows, *missing], size)

    run_models(jobs, options, show, share_answers=True)
    if options.plan.plan:
        for row in missing:
            terminal.note(f"{task.name}: {row.protocol.label} cannot be run: {row.reason}")


def protocols(task: Task, options: ProtocolOptions) -> list[Protocol]:
    """The distinct protocols in the order they are run; equal ones keep the first label."""
    overrides = options.overrides()
    varied = _varied(options.vary)
    twice = sorted(set(overrides) & set(varied))
    if twice:
        raise UsageError(f"option {twice[0]!r} is both in --set and in --vary; give one of them")
    names = list(task.protocols) if options.grid else [options.name]
    distinct: dict[tuple[tuple[str, str], ...], Protocol] = {}
    for name, *values in product(names, *varied.values()):
        protocol = task.protocol(name, {**overrides, **dict(zip(varied, values, strict=True))})
        distinct.setdefault(tuple(sorted(protocol.options.items())), protocol)
    return list(distinct.values())


def _varied(vary: Sequence[str]) -> dict[str, list[str]]:
    """`stride=32,1024` as name and values."""
    values_of: dict[str, list[str]] = {}
    for text in vary:
        name, equals, values = text.partition("=")
        chosen = [value for value in values.split(",") if value]
        if not equals or not chosen:
            raise UsageError(f"--vary {text!r}: expected key=value,value,...")
        values_of[name] = [*values_of.get(name, []), *chosen]
    return values_of


def _jobs(
    task: Task, chosen: Sequence[Protocol], options: DataOptions
) -> tuple[list[Job], list[GridRow]]:
    """A job per protocol that can be run, and a row with the reason for every other."""
    jobs: list[Job] = []
    missing: list[GridRow] = []
    for protocol in chosen:
        try:
            jobs.append(job_for(task, protocol, options))
        except (DataError, UsageError) as error:  # no data, or options that contradict each other
            if options.strict:
                raise
            missing.append(GridRow(protocol, _changes(task, protocol), reason=str(error)))
    if not jobs:
        raise DataError(missing[0].reason)
    return jobs, missing


def _changes(task: Task, protocol: Protocol) -> str:
    """The options that differ from the task's defaults."""
    defaults = task.protocol().options
    changed = {k: v for k, v in protocol.options.items() if v != defaults[k]}
    return ", ".join(f"{k}={v}" for k, v in changed.items())
