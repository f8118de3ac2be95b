"""What the commands do, apart from parsing the command line.

Everything that can be wrong is found in this order: names and options, data, output folder, and
only then the model, which is slow to load. torch is imported no earlier than that.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from harness import data, display, terminal
from harness.errors import DataError, HarnessError, UsageError
from harness.options import RunOptions
from harness.plugins import load_task, task_names
from harness.report import paper, table3
from harness.report.dump import Writer
from harness.report.record import Record, check_writable, write
from harness.runner import Job, Watch, ask, evaluate
from harness.task import Protocol, Task, encoding, unknown

if TYPE_CHECKING:
    from harness.engine.engine import Engine
    from harness.engine.store import Store


@dataclass(slots=True)
class Session:
    """Where results go, and what has been done so far; that survives an interruption."""

    options: RunOptions
    dump: Writer | None
    store: "Store | None"
    records: list[Record] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)


def run_benchmark(name: str, options: RunOptions) -> None:
    """One benchmark for each model, printed and recorded."""
    options.check()
    task = load_task(name)
    job = _job(task, task.protocol(options.protocol, options.overrides()), options)
    with _session(options) as session:
        for model in options.model:
            # No name holds the engine, so that one model is gone before the next is loaded.
            record = _evaluate(job, _engine(model, session), session)
            if not options.json:
                display.show_record(record)
        _finish(session)


@dataclass(frozen=True, slots=True)
class PaperTable:
    """One of the paper's tables: its columns, and how it is shown."""

    command: str
    columns: tuple[str, ...]
    show: Callable[[Sequence[table3.Cell], Sequence[Record], str], None]


TABLE3 = PaperTable("table3", paper.COLUMNS, display.show_table3)
SECTION3 = PaperTable("section3", paper.SECTION3, display.show_section3)


def run_table(table: PaperTable, options: RunOptions) -> None:
    """All columns of a table for each model; benchmarks without data are left out and named.

    Raises:
        DataError: there is no data for any of them, or for one of them under --strict.
    """
    options.check()
    size = paper.check_size(options.size) if options.size else None
    if options.data_file:
        raise UsageError(
            f"--data-file names the file of one benchmark; {table.command} takes --data-dir"
        )
    jobs, reasons = _table_jobs(paper.tasks(table.columns), options)
    with _session(options) as session:
        for model in options.model:
            first = len(session.records)
            try:
                _evaluate_all(jobs, _engine(model, session), session)
            finally:
                records = session.records[first:]
                if records and not options.json:
                    beside = size or paper.nearest_size(int(records[0].model["parameters"]))
                    cells = table3.cells(records, beside, reasons, table.columns)
                    table.show(cells, records, beside)
        _finish(session, size)


def _evaluate_all(jobs: Sequence[Job], engine: "Engine", session: Session) -> None:
    for job in jobs:
        _evaluate(job, engine, session)


def _table_jobs(names: Sequence[str], options: RunOptions) -> tuple[list[Job], dict[str, str]]:
    """A job for each benchmark that has data, and why the others have none."""
    jobs: list[Job] = []
    reasons: dict[str, str] = {}
    for task, protocol in _table_protocols(names, options):
        try:
            jobs.append(_job(task, protocol, options))
        except DataError as error:
            if options.strict:
                raise
            reasons[task.name] = str(error)
    if not jobs:
        raise DataError(
            f"none of the {len(reasons)} benchmarks can be run; {next(iter(reasons.values()))}"
        )
    return jobs, reasons


def _table_protocols(names: Sequence[str], options: RunOptions) -> list[tuple[Task, Protocol]]:
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


def _job(task: Task, protocol: Protocol, options: RunOptions) -> Job:
    task.measures(protocol.options)  # refuses options that contradict each other
    rows = data.load(task.source(protocol.options), options.where(), strict=options.strict)
    pool = None
    if task.few_shot:
        pool = data.load_pool(task.few_shot.source(protocol.options), options.where())
    return Job(task, protocol, rows, options.limit, options.seed, options.strict, pool)


def _engine(model: str, session: Session) -> "Engine":
    options = session.options
    with terminal.ERR.status(Text(f"loading {model}")):
        from harness.engine.checkpoint import load
        from harness.engine.engine import Engine

        checkpoint = load(model, options.settings())
        return Engine(checkpoint, budget=options.batch_tokens, store=session.store)


def _store(options: RunOptions) -> "Store | None":
    from harness.engine.store import Store, default_folder

    return None if options.no_cache else Store(options.cache or default_folder())


@contextmanager
def _session(options: RunOptions) -> Iterator[Session]:
    """Outputs opened before anything is computed; an interruption says what stays."""
    terminal.start_logging()
    check_writable(options.out)
    dump = Writer(options.dump) if options.dump else None
    session = Session(options, dump, _store(options))
    try:
        yield session
    except KeyboardInterrupt:
        count = len(session.paths)
        records = f"{count} record{'s' * (count != 1)}" if count else "no record yet"
        again = "" if options.no_cache else "; the same command again goes on from here"
        raise HarnessError(
            f"interrupted; finished before and kept in {options.out}: {records}{again}"
        ) from None
    finally:
        if dump:
            dump.close()
        if session.store:
            session.store.close()


def _evaluate(job: Job, engine: "Engine", session: Session) -> Record:
    """Run one job with a progress bar, and write its record at once."""
    options, dump = session.options, session.dump
    with terminal.progress(job.task.name) as bar:
        # Under --strict the refusal says it.
        preflight = (lambda counts: None) if options.strict else bar.preflight
        watch = Watch(bar.advance, preflight, dump.write if dump else None)
        record = evaluate(job, engine, watch)
    session.paths.append(write(record, options.out))
    session.records.append(record)
    return record


def _finish(session: Session, size: str | None = None) -> None:
    if session.options.json:
        values = [table3.with_paper(record, size) for record in session.records]
        terminal.OUT.file.write(json.dumps({"records": values}, ensure_ascii=False) + "\n")
        terminal.OUT.file.flush()
        return
    for path in session.paths:
        terminal.ERR.print(f"wrote {path}", markup=False)


def list_tasks() -> None:
    """Names, titles and protocols of all benchmarks."""
    tasks = [load_task(name) for name in paper.in_order(task_names())]
    display.show_mapping(
        "benchmarks (harness tasks NAME explains one)",
        {task.name: f"{task.title} [{', '.join(task.presets)}]" for task in tasks},
    )


def explain_task(name: str) -> None:
    """One benchmark: what it measures, its data, options, presets and scores."""
    display.show_task(load_task(name))


def show_examples(name: str, options: RunOptions, count: int) -> None:
    """What the model would see of some examples: no weights are loaded, nothing is computed."""
    from harness.engine.checkpoint import tokenizer_and_context
    from harness.engine.encode import Encoder
    from harness.report.preview import preview

    options.check()
    task = load_task(name)
    job = _job(task, task.protocol(options.protocol, options.overrides()), options)
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
        for line in preview([next(each) for _ in group], tokenizer.strings):
            terminal.OUT.print(line)


def write_leaderboard(records: Sequence[Path], out: Path) -> None:
    """Records -> CSV and Markdown."""
    from harness.report import leaderboard

    table = leaderboard.rows(leaderboard.load(records))
    for path in leaderboard.write(table, out):
        terminal.OUT.print(f"wrote {path} ({len(table)} rows)", markup=False)
