"""What the commands for benchmarks do: one, a table of them, a list, a preview, a leaderboard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.analysis import leaderboard, runs
from harness.analysis.paper import published, table3
from harness.commands.evaluate import concurrent_models
from harness.commands.evaluate import plan as planning
from harness.commands.evaluate.run_options import RunOptions
from harness.commands.evaluate.session import (
    Session,
    evaluate_job,
    finish,
    job_for,
    open_engine,
    opened,
)
from harness.display import costs, tables, terminal
from harness.errors import DataError, UsageError
from harness.files.output import check_file
from harness.plugins.registry import load_task, task_names
from harness.records.record import Record
from harness.runner import Job, ask
from harness.task import Protocol, Task, encoding, unknown


def run_benchmark(name: str, options: RunOptions) -> None:
    """One benchmark for each model, printed and recorded."""
    options.check()
    task = load_task(name)
    job = job_for(task, task.protocol(options.protocol, options.overrides()), options)
    with opened(options) as session:
        for first in _each_model([job], session):
            if not options.json and not options.plan:
                for record in session.records[first:]:
                    tables.show_record(record)
        finish(session)


def _each_model(jobs: Sequence[Job], session: Session) -> Iterator[int]:
    """Evaluate jobs with model after model, or side by side; where the records of each begin.

    What a model gave is shown also if it then fails.
    """
    first = 0
    if concurrent_models.wanted(session):
        for _ in concurrent_models.evaluate_models(jobs, session):
            yield first
            first = len(session.records)
        return
    for model in session.options.model:
        try:
            run_jobs(jobs, model, session)
        finally:
            yield first
        first = len(session.records)


def run_jobs(jobs: Sequence[Job], model: str, session: Session) -> None:
    """Evaluate jobs with one model, on as many rows as a budget allows; or say what they cost.

    Nobody else holds the engine, so that one model is gone before the next is loaded.
    """
    options = session.options
    several = len({job.task.name for job in jobs}) < len(jobs)  # protocols of one benchmark
    with open_engine(model, session) as engine:
        if options.budget is not None and not session.chosen:
            # The rows are chosen once, so that all models answer the same ones.
            chosen = planning.within(jobs, engine, options.budget / len(options.model))
            session.chosen = _same_rows(chosen) if several else chosen
        jobs = session.chosen or jobs
        if options.plan:
            costs.show_plan(engine.identity.name, jobs, planning.estimates(jobs, engine))
            return
        for job in jobs:
            if several:
                terminal.note(f"{job.task.name}: {job.protocol.label}")
            evaluate_job(job, engine, session)


def _same_rows(jobs: Sequence[Job]) -> list[Job]:
    """The protocols of one benchmark on the rows of the most expensive one, to be compared."""
    limits = [job.limit for job in jobs if job.limit is not None]
    return [replace(job, limit=min(limits)) if limits else job for job in jobs]


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One of the paper's tables: its columns, and how it is shown."""

    command: str
    columns: tuple[str, ...]
    show: Callable[[Sequence[table3.Cell], Sequence[Record], str], None]


TABLE3 = PaperTable("table3", published.COLUMNS, tables.show_table3)
SECTION3 = PaperTable("section3", published.SECTION3, tables.show_section3)


def run_table(table: PaperTable, options: RunOptions) -> None:
    """All columns of a table for each model; benchmarks without data are left out and named.

    Raises:
        DataError: there is no data for any of them, or for one of them under --strict.
    """
    options.check()
    size = published.check_size(options.size) if options.size else None
    if options.leaderboard:
        check_file(options.leaderboard, "--leaderboard")
    jobs, reasons = _table_jobs(published.tasks(table.columns), options)
    with opened(options) as session:
        for first in _each_model(jobs, session):
            records = session.records[first:]
            if records and not options.json:
                beside = size or published.nearest_size(int(records[0].model["parameters"]))
                cells = table3.cells(records, beside, reasons, table.columns)
                table.show(cells, records, beside)
            if options.leaderboard and session.records:
                leaderboard.write(leaderboard.rows(session.records), options.leaderboard)
        finish(session, size)


def _table_jobs(names: Sequence[str], options: RunOptions) -> tuple[list[Job], dict[str, str]]:
    """A job for each benchmark that has data, and why the others have none."""
    jobs: list[Job] = []
    reasons: dict[str, str] = {}
    for task, protocol in table_protocols(names, options):
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


def table_protocols(names: Sequence[str], options: RunOptions) -> list[tuple[Task, Protocol]]:
    """Each benchmark with the preset and the options that it has; `paper` where it has not.

    Raises:
        UsageError: no benchmark has the preset or one of the options.
    """
    tasks = [load_task(name) for name in names]
    presets = dict.fromkeys(preset for task in tasks for preset in task.presets)
    if options.protocol not in presets:
        raise UsageError(unknown("protocol", options.protocol, presets, "no benchmark has a"))
    declared = {task.name: {option.name for option in task.options} for task in tasks}
    known = sorted(set().union(*declared.values()))
    overrides = options.overrides()
    for name in overrides:
        if name not in known:
            raise UsageError(unknown("option", name, known, "no benchmark has an"))
    found = []
    for task in tasks:
        preset = options.protocol if options.protocol in task.presets else "paper"
        if preset != options.protocol:
            terminal.note(f"{task.name} has no protocol {options.protocol!r}, using paper")
        own = {k: v for k, v in overrides.items() if k in declared[task.name]}
        found.append((task, task.protocol(preset, own)))
    return found


def list_tasks() -> None:
    """Names, titles and protocols of all benchmarks."""
    tasks = [load_task(name) for name in published.in_order(task_names())]
    tables.show_mapping(
        "benchmarks (harness tasks NAME explains one)",
        {task.name: f"{task.title} [{', '.join(task.presets)}]" for task in tasks},
    )


def explain_task(name: str) -> None:
    """One benchmark: what it measures, its data, options, presets and scores."""
    tables.show_task(load_task(name))


def show_examples(name: str, options: RunOptions, count: int) -> None:
    """What the model would see of some examples: no weights are loaded, nothing is computed."""
    from harness.display.preview import preview
    from harness.engine.checkpoint.load import tokenizer_and_context
    from harness.engine.queries.encode import Encoder
    from harness.records.trace import trace

    options.check()
    if len(options.model) != 1:
        raise UsageError(f"show takes one --model; {len(options.model)} were given")
    task = load_task(name)
    job = job_for(task, task.protocol(options.protocol, options.overrides()), options)
    terminal.start_logging()
    tokenizer, context = tokenizer_and_context(options.model[0], options.settings())
    asked = ask(job)
    shown = asked.examples[:count]
    groups = asked.groups[:count]
    requests = [request for group in groups for request in group]
    encoded = Encoder(tokenizer, context).encode(requests, encoding(job.protocol.options))
    each = iter(zip(requests, encoded, strict=True))
    for example, group in zip(shown, groups, strict=True):
        references = f"  references: {list(example.references)}" if example.references else ""
        terminal.OUT.print(f"{name} item {example.id}{references}", markup=False)
        traces = [trace(*next(each), tokenizer.strings) for _ in group]
        for line in preview(traces):
            terminal.OUT.print(line)


def write_leaderboard(records: Sequence[Path], out: Path) -> None:
    """Records -> CSV and Markdown."""
    loaded = [run.record for run in runs.load(records, "no")]
    table = leaderboard.rows(sorted(loaded, key=lambda record: record.created))
    for path in leaderboard.write(table, out):
        terminal.OUT.print(f"wrote {path} ({len(table)} rows)", markup=False)
