"""`harness run`, `table3`, `section3`: evaluate several tasks with each model."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.analysis.paper import published, table3
from harness.commands.evaluate.benchmark import run_models
from harness.commands.evaluate.session import job_for
from harness.commands.options import DataOptions, ProtocolOptions, RunOptions
from harness.display import tables, terminal
from harness.errors import DataError, UsageError
from harness.files.output import check_file
from harness.plugins.registry import load_task, task_names
from harness.records.record import Record
from harness.runner import Job
from harness.task import Protocol, Task, unknown

TaskProtocols = Mapping[str, ProtocolOptions]
"""Protocol by task; an empty name stands for the protocol of the other tasks."""


class PaperTable(NamedTuple):
    """One of the paper's tables."""

    title: str
    columns: tuple[str, ...]


PAPER_TABLES = {
    "table3": PaperTable("Table 3", published.COLUMNS),
    "section3": PaperTable("Section 3", published.SECTION3),
}


def run_tasks(
    names: Sequence[str], options: RunOptions, per_task: TaskProtocols | None = None
) -> None:
    """Evaluate tasks with each model; print each task's scores and a summary, or a paper's table.

    Args:
        names: of tasks; `table3` and `section3` stand for all tasks of those tables.
        options: of the command.
        per_task: protocols of single tasks.

    Raises:
        DataError: there is no data for a task, unless a table named it; tables leave it out.
    """
    options.check()
    size = options.output.size and published.check_size(options.output.size)
    if options.output.leaderboard:
        check_file(options.output.leaderboard, "--leaderboard")
    pairs = table_protocols(_tasks(names), options.protocol, per_task)
    jobs, reasons = _jobs(pairs, options.data, required=set(names))
    table = PAPER_TABLES.get(names[0]) if len(names) == 1 else None

    def show(records: Sequence[Record]) -> None:
        paper = size or published.nearest_size(int(records[0].model["parameters"]))
        if table:
            cells = table3.cells(records, paper, reasons, table.columns)
            tables.show_paper_table(table.title, cells, records, paper)
            return
        tables.show_records(records)
        if len(records) > 1:
            tables.show_summary(records, paper)
        for reason in reasons.values():
            terminal.OUT.print(f"not run: {reason}")

    run_models(jobs, options, show, size=size)


def _tasks(names: Sequence[str]) -> list[str]:
    """Task names, with those of tables spelled out; each once."""
    choices = [*PAPER_TABLES, *task_names()]
    tasks: list[str] = []
    for name in names:
        if name not in choices:
            raise UsageError(unknown("task", name, choices, see="`harness tasks`"))
        table = PAPER_TABLES.get(name)
        tasks += published.tasks(table.columns) if table else [name]
    return list(dict.fromkeys(tasks))


def _jobs(
    pairs: Sequence[tuple[Task, Protocol]], options: DataOptions, required: set[str]
) -> tuple[list[Job], dict[str, str]]:
    """A job for each task that has data, and why each other task has none."""
    jobs: list[Job] = []
    reasons: dict[str, str] = {}
    for task, protocol in pairs:
        try:
            jobs.append(job_for(task, protocol, options))
        except DataError as error:
            if options.strict or task.name in required:
                raise
            reasons[task.name] = str(error)
    if not jobs:
        raise DataError(
            f"none of the {len(reasons)} tasks can be run; {next(iter(reasons.values()))}"
        )
    return jobs, reasons


def table_protocols(
    names: Sequence[str], options: ProtocolOptions, per_task: TaskProtocols | None = None
) -> list[tuple[Task, Protocol]]:
    """Each task with its options and protocol; `paper` if it has no protocol of that name."""
    tasks = [load_task(name) for name in names]
    protocols = dict.fromkeys(name for task in tasks for name in task.protocols)
    if options.name not in protocols:
        raise UsageError(unknown("protocol", options.name, protocols, "no task has a"))
    declared = {task.name: {option.name for option in task.options} for task in tasks}
    overrides = options.overrides()
    all_options = sorted(set().union(*declared.values()))
    for name in overrides:
        if name not in all_options:
            raise UsageError(unknown("option", name, all_options, "no task has an"))
    pairs = []
    for task in tasks:
        own = (per_task or {}).get(task.name, ProtocolOptions(""))
        name = own.name or options.name
        if not own.name and name not in task.protocols:
            terminal.note(f"{task.name} has no protocol {name!r}, using paper")
            name = "paper"
        shared = {k: v for k, v in overrides.items() if k in declared[task.name]}
        pairs.append((task, task.protocol(name, {**shared, **own.overrides()})))
    return pairs
