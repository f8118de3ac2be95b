"""What a command holds open while it runs: options, outputs, store, and what is done so far.

Everything that can be wrong is found in this order: names and options, data, output folder, and
only then the model, which is slow to load. torch is imported no earlier than that.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from harness.analysis.paper import table3
from harness.commands.evaluate.run_options import RunOptions
from harness.data import load as data
from harness.display import terminal
from harness.errors import HarnessError, UsageError
from harness.files.output import check_writable
from harness.records.dump import Writer
from harness.records.folder import write
from harness.records.record import Record
from harness.runner import Asked, Job, Watch, ask, evaluate
from harness.task import Protocol, Task

if TYPE_CHECKING:
    from harness.engine.cache.store import Store
    from harness.engine.engine import Engine
    from harness.engine.queries.encode import Encodings


@dataclass(slots=True)
class Session:
    """Where results go, and what has been done so far; that survives an interruption."""

    options: RunOptions
    dump: Writer | None
    store: "Store | None"
    records: list[Record] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    # What several checkpoints have in common is made once.
    closing: ExitStack = field(default_factory=ExitStack)  # lets workers go on interruption
    abreast: int = 1  # checkpoints that are evaluated at the same time
    chosen: list[Job] = field(default_factory=list)  # jobs on the rows that a budget allows
    asked: list[tuple[Job, Asked]] = field(default_factory=list)
    encodings: "Encodings" = field(default_factory=dict)


def job_for(task: Task, protocol: Protocol, options: RunOptions) -> Job:
    """One benchmark under one protocol, with its data.

    Raises:
        UsageError: options contradict each other.
        DataError: there is no data, or it is malformed.
    """
    task.measures(protocol.options)  # refuses options that contradict each other
    if options.data_file and options.hub and not task.few_shot:
        raise UsageError("--data-file and --hub name different rows; give one of them")
    rows = data.load(task.source(protocol.options), options.where(), strict=options.strict)
    pool = None
    if task.few_shot:
        source = task.few_shot.source(protocol.options)
        pool = data.load_pool(source, options.where(), strict=options.strict)
    return Job(task, protocol, rows, options.limit, options.seed, options.strict, pool)


@contextmanager
def open_engine(model: str, session: Session) -> Iterator["Engine"]:
    """An engine with a model; its workers, if any, are gone before the next model is loaded.

    Raises:
        CheckpointError: the model cannot be loaded or scored.
    """
    with ExitStack() as closing:
        with terminal.ERR.status(Text(f"loading {model}")):
            engine = _engine(model, session, closing)
        yield engine


def _engine(model: str, session: Session, closing: ExitStack) -> "Engine":
    from harness.engine.checkpoint.load import load, tokenizer_and_context
    from harness.engine.engine import Engine

    options = session.options
    encodings = session.encodings if len(options.model) > 1 else None
    if not options.workers:
        checkpoint = load(model, options.settings())
        return Engine(
            checkpoint, budget=options.batch_tokens, store=session.store, encodings=encodings
        )
    from harness.engine.backends.ray_workers import Crew, Workers

    everyone = connect_workers(session)
    # The checkpoint is in the workers; this process has the tokenizer alone.
    tokenizer, _ = tokenizer_and_context(model, options.settings())
    workers = Workers(
        model, options.settings(), options.batch_tokens, Crew(options.workers, everyone)
    )
    for stack in (closing, session.closing):
        stack.callback(workers.close)
    return Engine.over(
        workers, workers.identity, tokenizer, store=session.store, encodings=encodings
    )


def connect_workers(session: Session) -> int:
    """Connect to Ray, or start it; how many workers of all models there are at the same time.

    Raises:
        CheckpointError: Ray is not installed, or there is no cluster at the address.
    """
    from harness.engine.backends.ray_workers import connect

    options = session.options
    everyone = (options.workers or 1) * session.abreast
    connect(options.address, everyone * (options.threads or 1))
    return everyone


def store_for(options: RunOptions, *, shared: bool = False) -> "Store | None":
    """The store of answers that the options name; `shared` keeps them in memory if not on disk."""
    from harness.engine.cache.store import Store, default_folder

    if options.no_cache:
        return Store(None) if shared else None
    return Store(options.cache or default_folder())


@contextmanager
def opened(options: RunOptions, *, shared: bool = False) -> Iterator[Session]:
    """Outputs opened before anything is computed; an interruption says what stays.

    Args:
        options: of the command.
        shared: whether answers are kept in memory where they are not kept on disk.
    """
    terminal.start_logging()
    check_writable(options.out)
    dump = Writer(options.dump) if options.dump else None
    session = Session(options, dump, store_for(options, shared=shared))
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
        session.closing.close()
        if session.store:
            session.store.close()


def evaluate_job(job: Job, engine: "Engine", session: Session) -> Record:
    """Run one job with a progress bar, and write its record at once."""
    options, dump = session.options, session.dump
    with terminal.progress(job.task.name) as bar:
        # Under --strict the refusal says it.
        preflight = (lambda counts: None) if options.strict else bar.preflight
        watch = Watch(bar.advance, preflight, dump.write if dump else None)
        record = evaluate(job, engine, watch, _asked(job, session))
    session.paths.append(write(record, options.out))
    session.records.append(record)
    return record


def _asked(job: Job, session: Session) -> Asked | None:
    """The job's requests, if another checkpoint will be asked the same."""
    if len(session.options.model) == 1:
        return None
    for known, asked in session.asked:
        if known is job:
            return asked
    asked = ask(job)
    session.asked.append((job, asked))
    return asked


def compute(job: Job, options: RunOptions) -> Record:
    """A job for one model, neither printed, nor written, nor stored."""
    with (
        open_engine(options.model[0], Session(options, None, None)) as engine,
        terminal.progress(job.task.name) as bar,
    ):
        return evaluate(job, engine, Watch(bar.advance))


def finish(session: Session, size: str | None = None) -> None:
    """Print the records as JSON, or say where they are."""
    if session.options.json:
        values = [table3.with_paper(record, size) for record in session.records]
        terminal.print_json({"records": values})
        return
    for path in session.paths:
        terminal.ERR.print(f"wrote {path}", markup=False)
