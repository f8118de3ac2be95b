"""`harness table3`, `harness section3`: evaluate all tasks of one of the paper's tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.analysis import leaderboard
from harness.analysis.paper import published, table3
from harness.commands.evaluate.benchmark import run_models
from harness.commands.evaluate.session import finish, job_for, opened
from harness.commands.options import DataOptions, ProtocolOptions, RunOptions
from harness.display import tables, terminal
from harness.errors import DataError, UsageError
from harness.files.output import check_file
from harness.plugins.registry import load_task
from harness.records.record import Record
from harness.runner import Job
from harness.task import Protocol, Task, unknown


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One of the paper's tables: its columns, and the function that prints it."""

    columns: tuple[str, ...]
    show: Callable[[Sequence[table3.Cell], Sequence[Record], str], None]


PAPER_TABLES = {
    "table3": PaperTable(published.COLUMNS, tables.show_table3),
    "section3": PaperTable(published.SECTION3, tables.show_section3),
}


def run_table(name: str, options: RunOptions) -> None:
    """Evaluate all tasks of a table with each model; tasks without data are named and left out.

    Raises:
        DataError: there is no data for any of them, or for one of them under --strict.
    """
    options.check()
    table = PAPER_TABLES[name]
    size, board = options.table.size, options.table.leaderboard
    if size:
        size = published.check_size(size)
    if board:
        check_file(board, "--leaderboard")
    pairs = table_protocols(published.tasks(table.columns), options.protocol)
    jobs, reasons = table_jobs(pairs, options.data)

    with opened(options) as session:

        def show(records: Sequence[Record]) -> None:
            if board:
                leaderboard.write(leaderboard.rows(session.records), board)
            if options.output.json:
                return
            beside = size or published.nearest_size(int(records[0].model["parameters"]))
            table.show(table3.cells(records, beside, reasons, table.columns), records, beside)
            if options.output.signatures:
                tables.show_signatures(records)

        run_models(jobs, session, show)
        finish(session, size)


def table_jobs(
    pairs: Sequence[tuple[Task, Protocol]], options: DataOptions
) -> tuple[list[Job], dict[str, str]]:
    """A job for each task that has data, and why each other task has none."""
    jobs: list[Job] = []
    reasons: dict[str, str] = {}
    for task, protocol in pairs:
        try:
            jobs.append(job_for(task, protocol, options))
        except DataError as error:
            if options.strict:
                raise
            reasons[task.name] = str(error)
    if not jobs:
        raise DataError(
            f"none of the {len(reasons)} benchmarks can be run; {next(iter(reasons.values()))}"
        )
    return jobs, reasons


def table_protocols(names: Sequence[str], options: ProtocolOptions) -> list[tuple[Task, Protocol]]:
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
    names_of_options = sorted(set().union(*declared.values()))
    for name in overrides:
        if name not in names_of_options:
            raise UsageError(unknown("option", name, names_of_options, "no task has an"))
    pairs = []
    for task in tasks:
        preset = options.name if options.name in task.protocols else "paper"
        if preset != options.name:
            terminal.note(f"{task.name} has no protocol {options.name!r}, using paper")
        own = {k: v for k, v in overrides.items() if k in declared[task.name]}
        pairs.append((task, task.protocol(preset, own)))
    return pairs
