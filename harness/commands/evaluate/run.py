"""`harness run`, `table3`, `section3`: evaluate several tasks with each model."""

from collections.abc import Mapping, Sequence

from harness.analysis.paper import published, table3
from harness.commands.evaluate.benchmark import run_models
from harness.commands.evaluate.session import rows
from harness.commands.options import ProtocolOptions, RunOptions
from harness.display import tables, terminal
from harness.files.output import check_file
from harness.jobs.selection import (
    PAPER_TABLES,
    Jobs,
    ProtocolChoice,
    jobs_for,
    task_list,
    with_protocols,
)
from harness.records.record import Record
from harness.task import Protocol, Task

TaskProtocols = Mapping[str, ProtocolOptions]
"""Protocol by task; an empty name stands for the protocol of the other tasks."""


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
    jobs, reasons = jobs_of(names, options, per_task)
    table = PAPER_TABLES.get(names[0]) if len(names) == 1 else None

    def show(records: Sequence[Record]) -> None:
        paper = size or published.nearest_size(records[0].parameters)
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


def jobs_of(
    names: Sequence[str], options: RunOptions, per_task: TaskProtocols | None = None
) -> Jobs:
    """A job for each task, and why other tasks have none; raises as `run_tasks` does."""
    pairs = table_protocols(task_list(names), options.protocol, per_task)
    return jobs_for(pairs, rows(options.data), required=names)


def table_protocols(
    names: Sequence[str], options: ProtocolOptions, per_task: TaskProtocols | None = None
) -> list[tuple[Task, Protocol]]:
    """Each task with its options and protocol; `paper` if it has no protocol of that name."""
    own = {task: _choice(of_task) for task, of_task in (per_task or {}).items()}
    found = with_protocols(names, _choice(options), own)
    for note in found.notes:
        terminal.note(note)
    return found.pairs


def _choice(options: ProtocolOptions) -> ProtocolChoice:
    return ProtocolChoice(options.name, options.overrides())
