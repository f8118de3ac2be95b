"""What an evaluating command keeps open: its outputs, the response cache, and the records so far.

Errors are found in this order: names and options, data, output folder, and only then the model,
which is slow to load. torch is imported no earlier than that.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.text import Text

from harness.analysis.paper import table3
from harness.commands.options import CacheOptions, DataOptions, RunOptions
from harness.display import terminal
from harness.engine.endpoint.settings import EndpointSettings, is_endpoint
from harness.errors import HarnessError
from harness.files.output import check_writable
from harness.jobs import selection
from harness.jobs.selection import Rows
from harness.records.dump import Writer
from harness.records.folder import write
from harness.records.record import Record
from harness.runner import Job, Observer, Prepared, evaluate, prepare
from harness.task import Protocol, Task

if TYPE_CHECKING:
    from pathlib import Path

    from harness.engine.backends.backend import Backend
    from harness.engine.backends.ray_workers import RayWorkers
    from harness.engine.backends.tensor_parallel import TensorParallel
    from harness.engine.cache.store import Store
    from harness.engine.checkpoint.load import Checkpoint
    from harness.engine.endpoint.backend import Endpoint
    from harness.engine.engine import Engine
    from harness.engine.queries.encode import Encodings

MAX_NAMED = 10  # models that failed, in the last line


@dataclass(slots=True)
class Session:
    """The open outputs and the records so far; both survive an interruption."""

    options: RunOptions
    dump: Writer | None = None
    store: "Store | None" = None
    shared: bool = False  # whether answers are kept in memory if not on disk
    records: list[Record] = field(default_factory=list)
    paths: "list[Path]" = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # models
    closing: ExitStack = field(default_factory=ExitStack)  # stops workers on interruption
    concurrent: int = 1  # models that are evaluated at the same time
    # Made once and shared by all models.
    budgeted: list[Job] = field(default_factory=list)  # jobs on the rows that --budget allows
    prepared: list[tuple[Job, Prepared]] = field(default_factory=list)
    encodings: "Encodings" = field(default_factory=dict)

    def fail(self, model: str, error: HarnessError) -> None:
        """Note that a model failed; raises the error if it is the only model."""
        if len(self.options.model.names) == 1:
            raise error
        self.failed.append(model)
        terminal.note(f"{model} failed: {error}")


def rows(options: DataOptions) -> Rows:
    """The rows that the options choose."""
    return Rows(options.where(), options.limit, options.seed, options.strict)


def job_for(task: Task, protocol: Protocol, options: DataOptions) -> Job:
    """One task under one protocol, with its data; raises as `selection.job_for` does."""
    return selection.job_for(task, protocol, rows(options))


@contextmanager
def open_engine(model: str, session: Session) -> Iterator["Engine"]:
    """Load a model, or connect to its server; workers and connections end with the context.

    Raises:
        CheckpointError: the model cannot be loaded or scored, or its server fails the self-test.
    """
    from harness.engine.engine import Engine

    options = session.options.model
    with ExitStack() as closing:
        doing = "testing" if is_endpoint(model) else "loading"
        with terminal.ERR.status(Text(f"{doing} {model}")):
            engine = Engine(
                _model(model, session, closing),
                budget=options.batch_tokens,
                store=session.store,
                encodings=session.encodings if len(options.names) > 1 else None,
            )
        yield engine


def _model(model: str, session: Session, closing: ExitStack) -> "Checkpoint | Backend":
    """What answers the queries of a model; it is closed with `closing`."""
    from harness.engine.checkpoint.load import load

    options = session.options
    if is_endpoint(model):
        return connected(options.endpoint(model), session.store, closing)
    if options.workers.count:
        return _workers(model, session, closing)
    if options.model.tensor_parallel:
        return _in_parts(model, session, closing)
    return load(model, options.model.settings(options.data.data_dir))


def _in_parts(model: str, session: Session, closing: ExitStack) -> "TensorParallel":
    """Start processes that hold a part of a model each, and end with `closing`."""
    from harness.engine.backends.tensor_parallel import TensorParallel

    options = session.options.model
    settings = options.settings(session.options.data.data_dir)
    parts = TensorParallel(model, settings, budget=options.batch_tokens)
    closing.callback(parts.close)
    return parts


def connected(settings: EndpointSettings, store: "Store | None", closing: ExitStack) -> "Endpoint":
    """A model server that has passed the self-test; the connection ends with `closing`.

    Results of self-tests are kept if answers are kept on disk.
    """
    from harness.engine.endpoint.connect import connect

    endpoint = connect(settings, store_results=store is not None and store.path is not None)
    closing.callback(endpoint.close)
    return endpoint


def _workers(model: str, session: Session, closing: ExitStack) -> "RayWorkers":
    """Start workers that stop with `closing`, or with the session if it is interrupted."""
    from harness.engine.backends.ray_workers import RayWorkers

    options, count = session.options.model, session.options.workers.count or 1
    total = connect_workers(session)
    settings = options.settings(session.options.data.data_dir)
    workers = RayWorkers(model, settings, budget=options.batch_tokens, count=count, total=total)
    for stack in (closing, session.closing):
        stack.callback(workers.close)
    return workers


def connect_workers(session: Session) -> int:
    """Connect to Ray, or start it; return the number of workers of all concurrent models.

    Raises:
        CheckpointError: Ray is not installed, or there is no cluster at the address.
    """
    from harness.engine.backends.ray_workers import connect

    workers = session.options.workers
    total = (workers.count or 1) * session.concurrent
    connect(workers.address, total * (session.options.model.threads or 1))
    return total


def open_store(options: CacheOptions, *, shared: bool = False) -> "Store | None":
    """Open the response cache; with `shared`, one in memory if there is none on disk."""
    from harness.engine.cache.store import Store, default_folder

    if options.off:
        return Store(None) if shared else None
    return Store(options.folder or default_folder())


@contextmanager
def opened(options: RunOptions, *, shared: bool = False) -> Iterator[Session]:
    """Open all outputs before anything is computed; on interruption, report what was kept.

    Args:
        options: of the command.
        shared: whether answers are kept in memory if they are not kept on disk.
    """
    terminal.start_logging()
    out = options.output.out
    check_writable(out)
    dump = Writer(options.output.dump) if options.output.dump else None
    session = Session(options, dump, open_store(options.cache, shared=shared), shared)
    try:
        yield session
    except KeyboardInterrupt:
        count = len(session.paths)
        records = f"{count} record{'s' * (count != 1)}" if count else "no record yet"
        again = "" if options.cache.off else "; the same command again goes on from here"
        raise HarnessError(
            f"interrupted; finished before and kept in {out}: {records}{again}"
        ) from None
    finally:
        if dump:
            dump.close()
        session.closing.close()
        if session.store:
            session.store.close()


def evaluate_job(job: Job, engine: "Engine", session: Session) -> Record:
    """Run one job with a progress bar, and write its record at once."""
    with terminal.progress(job.task.name) as bar:
        # Under --strict the error message has the same facts.
        preflight = (lambda counts: None) if job.strict else bar.preflight
        watch = Observer(bar.advance, preflight, session.dump.write if session.dump else None)
        record = evaluate(job, engine, watch, _prepared(job, session))
    session.paths.append(write(record, session.options.output.out))
    session.records.append(record)
    return record


def _prepared(job: Job, session: Session) -> Prepared | None:
    """The job's requests, made once for all models; None if there is only one model."""
    if len(session.options.model.names) == 1:
        return None
    for other, prepared in session.prepared:
        if other is job:
            return prepared
    prepared = prepare(job)
    session.prepared.append((job, prepared))
    return prepared


def compute(job: Job, options: RunOptions) -> Record:
    """Run one job with one model; the record is neither printed, written nor cached."""
    with (
        open_engine(options.model.names[0], Session(options)) as engine,
        terminal.progress(job.task.name) as bar,
    ):
        return evaluate(job, engine, Observer(bar.advance))


def finish(session: Session, size: str | None = None) -> None:
    """Print the records as JSON, or where they are.

    Raises:
        HarnessError: a model failed.
    """
    output, paths = session.options.output, session.paths
    if output.json:
        values = [table3.with_paper(record, size) for record in session.records]
        terminal.print_json({"records": values})
    elif paths:
        what = paths[0] if len(paths) == 1 else f"{len(paths)} records to {output.out}"
        terminal.ERR.print(f"wrote {what}")
        if not output.signatures:
            terminal.ERR.print("signatures: --signatures or the records")
    if failed := session.failed:
        models = len(session.options.model.names)
        more = ", ..." if len(failed) > MAX_NAMED else ""
        names = ", ".join(failed[:MAX_NAMED])
        raise HarnessError(f"{len(failed)} of {models} models failed: {names}{more}")
