"""`harness run`, `table3`, `section3`: evaluate several tasks with each model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.analysis import leaderboard
from harness.analysis.paper import published, table3
from harness.commands.evaluate.benchmark import run_models
from harness.commands.evaluate.session import finish, job_for, opened
from harness.commands.options import DataOptions, ProtocolOptions, RunOptions
from harness.display import tables, terminal
from harness.display.summary import show_summary
from harness.errors import DataError, UsageError
from harness.files.output import check_file
from harness.plugins.registry import load_task, task_names
from harness.records.record import Record
from harness.runner import Job
from harness.task import Protocol, Task, unknown

TaskProtocols = Mapping[str, ProtocolOptions]
"""Protocol by task; an empty name stands for the protocol of the other tasks."""


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One of the paper's tables: its columns, and the function that prints it."""

    columns: tuple[str, ...]
    show: Callable[[Sequence[table3.Cell], Sequence[Record], str], None]


PAPER_TABLES = {
    "table3": PaperTable(published.COLUMNS, tables.show_table3),
    "section3": PaperTable(published.SECTION3, tables.show_section3),
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
    output = options.output
    size, board = output.size, output.leaderboard
    size = size and published.check_size(size)
    if board:
        check_file(board, "--leaderboard")
    pairs = table_protocols(_tasks(names), options.protocol, per_task)
    jobs, reasons = _jobs(pairs, options.data, required=set(names))
    table = PAPER_TABLES.get(names[0]) if len(names) == 1 else None

    with opened(options) as session:

        def show(records: Sequence[Record]) -> None:
            if board:
                leaderboard.write(leaderboard.rows(session.records), board)
            if output.json:
                return
            paper = size or published.nearest_size(int(records[0].model["parameters"]))
            if table:
                table.show(table3.cells(records, paper, reasons, table.columns), records, paper)
            else:
                _show_tasks(records, paper, reasons)
            if output.signatures:
                tables.show_signatures(records)

        run_models(jobs, session, show)
        finish(session, size)


def _show_tasks(records: Sequence[Record], size: str, reasons: Mapping[str, str]) -> None:
    """Print the scores of each task, and a summary if there are several."""
    for record in records:
        tables.show_record(record)
    if len(records) > 1:
        show_summary(records, size)
    for reason in reasons.values():
        terminal.OUT.print(f"not run: {reason}", markup=False)


def _tasks(names: Sequence[str]) -> list[str]:
    """Task names, with those of tables spelled out; each once.

    Raises:
        UsageError: there is no such task or table.
    """
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
    """Each task with the protocol and the options that it has; `paper` if it has no such protocol.

    Raises:
        UsageError: no task has the protocol or one of the options.
    """
    tasks = [load_task(name) for name in names]
    presets = dict.fromkeys(preset for task in tasks for preset in task.protocols)
    if options.name not in presets:
        raise UsageError(unknown("protocol", options.name, presets, "no task has a"))
    declared = {task.name: {option.name for option in task.options} for task in tasks}
    overrides = options.overrides()
    known = sorted(set().union(*declared.values()))
    for name in overrides:
        if name not in known:
            raise UsageError(unknown("option", name, known, "no task has an"))
    pairs = []
    for task in tasks:
        own = (per_task or {}).get(task.name, ProtocolOptions(""))
        preset = own.name or options.name
        if not own.name and preset not in task.protocols:
            terminal.note(f"{task.name} has no protocol {preset!r}, using paper")
            preset = "paper"
        shared = {k: v for k, v in overrides.items() if k in declared[task.name]}
        pairs.append((task, task.protocol(preset, {**shared, **own.overrides()})))
    return pairs
