"""What `--grid` does: one benchmark under many protocols, so that a reader sees which reading of
the paper gives which number. Equal token sequences are computed once for all of them.
"""  # noqa: D205

from collections.abc import Sequence
from itertools import product

from harness.analysis.paper import published
from harness.analysis.protocol_grid import GridRow, columns
from harness.commands.evaluate.benchmark import run_jobs
from harness.commands.evaluate.run_options import RunOptions
from harness.commands.evaluate.session import finish, job_for, opened
from harness.display import tables, terminal
from harness.errors import DataError, UsageError
from harness.plugins.registry import load_task
from harness.runner import Job
from harness.task import Protocol, Task


def run_grid(name: str, options: RunOptions) -> None:
    """A benchmark under all presets, or all combinations of the varied options; each recorded.

    Raises:
        UsageError: an option or value does not exist.
        DataError: there is no data for any of them, or for one of them under --strict.
    """
    options.check()
    task = load_task(name)
    jobs, missing = _jobs(task, protocols(task, options), options)
    with opened(options, shared=True) as session:
        for model in options.model:
            first = len(session.records)
            run_jobs(jobs, model, session)
            if options.plan:
                for left_out in missing:
                    name = left_out.protocol.label
                    terminal.note(f"{task.name}: {name} cannot be run: {left_out.reason}")
            elif not options.json:
                found = session.records[first:]
                readings = [
                    GridRow(job.protocol, _differs(task, job.protocol), record)
                    for job, record in zip(jobs, found, strict=True)
                ]
                size = published.nearest_size(int(found[0].model["parameters"]))
                tables.show_grid(task.name, columns(readings), [*readings, *missing], size)
        finish(session)


def protocols(task: Task, options: RunOptions) -> list[Protocol]:
    """Distinct protocols in the order they are run; the first label of equal ones stays.

    Raises:
        UsageError: an option, a value or a preset does not exist.
    """
    overrides = options.overrides()
    varied = _varied(options.vary)
    twice = sorted(set(overrides) & set(varied))
    if twice:
        raise UsageError(f"option {twice[0]!r} is both in --set and in --vary; give one of them")
    presets = list(task.protocols) if options.grid else [options.protocol]
    found: dict[tuple[tuple[str, str], ...], Protocol] = {}
    for preset, *values in product(presets, *varied.values()):
        protocol = task.protocol(preset, {**overrides, **dict(zip(varied, values, strict=True))})
        found.setdefault(tuple(sorted(protocol.options.items())), protocol)
    return list(found.values())


def _varied(vary: Sequence[str]) -> dict[str, list[str]]:
    """`stride=32,1024` as name and values.

    Raises:
        UsageError: there is no `=`, or no value.
    """
    found: dict[str, list[str]] = {}
    for text in vary:
        name, equals, values = text.partition("=")
        chosen = [value for value in values.split(",") if value]
        if not equals or not chosen:
            raise UsageError(f"--vary {text!r}: expected key=value,value,...")
        found[name] = [*found.get(name, []), *chosen]
    return found


def _jobs(
    task: Task, wanted: Sequence[Protocol], options: RunOptions
) -> tuple[list[Job], list[GridRow]]:
    jobs: list[Job] = []
    missing: list[GridRow] = []
    for protocol in wanted:
        try:
            jobs.append(job_for(task, protocol, options))
        except (DataError, UsageError) as error:  # no data, or options that contradict each other
            if options.strict:
                raise
            missing.append(GridRow(protocol, _differs(task, protocol), reason=str(error)))
    if not jobs:
        raise DataError(missing[0].reason)
    return jobs, missing


def _differs(task: Task, protocol: Protocol) -> str:
    defaults = task.protocol().options
    changed = {k: v for k, v in protocol.options.items() if v != defaults[k]}
    return ", ".join(f"{k}={v}" for k, v in changed.items())
