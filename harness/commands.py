"""What the commands do, apart from parsing the command line.

Everything that can be wrong is found in this order: names and options, data, output folder, and
only then the model, which is slow to load. torch is imported no earlier than that.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from harness import data, terminal
from harness.errors import DataError, HarnessError, RecordError, UsageError
from harness.plugins import load_task, task_names
from harness.report import paper, table3
from harness.report.record import Record, check_writable, write
from harness.runner import Job, Watch, ask, evaluate
from harness.task import Task, encoding

if TYPE_CHECKING:
    from harness.engine.checkpoint import Settings
    from harness.engine.engine import Engine


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options that all benchmark commands share, as the command line gives them."""

    model: tuple[str, ...]
    revision: str | None = None
    trust_remote_code: bool = False
    device: str | None = None
    dtype: str = "float32"
    context: int | None = None
    batch_tokens: int | None = None
    data_dir: Path | None = None
    data_file: Path | None = None
    sample: bool = False
    hub: bool = False
    limit: int | None = None
    seed: int = 0
    protocol: str = "paper"
    set: tuple[str, ...] = ()
    out: Path = Path("results/records")
    dump: Path | None = None
    json: bool = False
    strict: bool = False
    size: str | None = None  # table3: the paper's model to compare with

    def where(self) -> data.Where:
        """The roads to the data."""
        return data.Where(self.data_file, self.sample, self.data_dir, self.hub)

    def settings(self) -> "Settings":
        """How to load a checkpoint."""
        from harness.engine.checkpoint import Settings

        return Settings(
            self.device, self.dtype, self.context, self.revision, self.trust_remote_code
        )

    def overrides(self) -> dict[str, str]:
        """`--set key=value` as a mapping.

        Raises:
            UsageError: one has no `=`.
        """
        pairs = [pair.partition("=") for pair in self.set]
        for name, equals, _ in pairs:
            if not equals:
                raise UsageError(f"--set {name!r}: expected key=value")
        return {name: value for name, _, value in pairs}


@dataclass(slots=True)
class Outcome:
    """What has been done so far; survives an interruption."""

    records: list[Record] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)


def run_benchmark(name: str, options: RunOptions) -> None:
    """One benchmark for each model, printed and recorded."""
    job = _job(load_task(name), options)
    with _session(options) as (done, dump):
        for model in options.model:
            engine = _engine(model, options)
            record = _evaluate(job, engine, options, done, dump)
            if not options.json:
                terminal.show_record(record)
        _finish(done, options)


def run_table3(options: RunOptions) -> None:
    """All columns of Table 3 for each model; benchmarks without data are left out and named.

    Raises:
        DataError: there is no data for any of them, or for one of them under --strict.
    """
    size = paper.check_size(options.size) if options.size else None
    if options.data_file:
        raise UsageError("--data-file names the file of one benchmark; table3 takes --data-dir")
    jobs, reasons = _table3_jobs(options)
    with _session(options) as (done, dump):
        for model in options.model:
            first = len(done.records)
            try:
                engine = _engine(model, options)
                for job in jobs:
                    _evaluate(job, engine, options, done, dump)
            finally:
                records = done.records[first:]
                if records and not options.json:
                    beside = size or paper.nearest_size(int(records[0].model["parameters"]))
                    cells = table3.cells(records, beside, reasons)
                    terminal.show_table3(cells, records, beside)
        _finish(done, options)


def _table3_jobs(options: RunOptions) -> tuple[list[Job], dict[str, str]]:
    jobs: list[Job] = []
    reasons: dict[str, str] = {}
    for name in paper.tasks():
        task = load_task(name)
        preset = options.protocol if options.protocol in task.presets else "paper"
        if preset != options.protocol and not options.json:
            terminal.ERR.print(f"note: {name} has no protocol {options.protocol!r}, using paper")
        try:
            jobs.append(_job(task, options, preset))
        except DataError as error:
            if options.strict:
                raise
            reasons[name] = str(error)
    if not jobs:
        raise DataError(next(iter(reasons.values())))
    return jobs, reasons


def _job(task: Task, options: RunOptions, preset: str | None = None) -> Job:
    overrides = options.overrides()
    if preset is not None:  # table3: an option counts for the benchmarks that have it
        known = {option.name for option in task.options}
        overrides = {k: v for k, v in overrides.items() if k in known}
    protocol = task.protocol(preset or options.protocol, overrides)
    if options.limit is not None and options.limit < 1:
        raise UsageError(f"--limit {options.limit}: expected at least 1")
    task.measures(protocol.options)  # refuses options that contradict each other
    rows = data.load(task.source(protocol.options), options.where(), strict=options.strict)
    return Job(task, protocol, rows, options.limit, options.seed, options.strict)


def _engine(model: str, options: RunOptions) -> "Engine":
    with terminal.ERR.status(f"loading {model}"):
        from harness.engine.checkpoint import load
        from harness.engine.engine import Engine

        return Engine(load(model, options.settings()), budget=options.batch_tokens)


@contextmanager
def _session(options: RunOptions) -> Iterator[tuple[Outcome, IO[str] | None]]:
    """Outputs opened before anything is computed; an interruption says what stays."""
    check_writable(options.out)
    done = Outcome()
    dump = _open_dump(options.dump)
    try:
        yield done, dump
    except KeyboardInterrupt:
        kept = f"{len(done.paths)} records in {options.out}" if done.paths else "no record yet"
        raise HarnessError(f"interrupted; what was finished stays: {kept}") from None
    finally:
        if dump:
            dump.close()


def _open_dump(path: Path | None) -> IO[str] | None:
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"cannot write --dump {str(path)!r}: {error.strerror}; name a file that can be written"
        ) from error


def _evaluate(
    job: Job, engine: "Engine", options: RunOptions, done: Outcome, dump: IO[str] | None
) -> Record:
    """Run one job with a progress bar, and write its record at once."""

    def write_item(item: dict[str, Any]) -> None:
        assert dump is not None
        dump.write(json.dumps(item, ensure_ascii=False) + "\n")
        dump.flush()

    with terminal.progress(job.task.name) as bar:
        watch = Watch(bar.advance, lambda counts: None, write_item if dump else None)
        record = evaluate(job, engine, watch)
    done.paths.append(write(record, options.out))
    done.records.append(record)
    return record


def _finish(done: Outcome, options: RunOptions) -> None:
    if options.json:
        values = [table3.with_paper(record) for record in done.records]
        terminal.OUT.file.write(json.dumps({"records": values}, ensure_ascii=False) + "\n")
        return
    for path in done.paths:
        terminal.ERR.print(f"wrote {path}", markup=False)


def list_tasks() -> None:
    """Names and titles of all benchmarks."""
    terminal.show_mapping(
        "benchmarks (harness tasks NAME explains one)",
        {name: load_task(name).title for name in task_names()},
    )


def explain_task(name: str) -> None:
    """One benchmark: what it measures, its data, options, presets and scores."""
    task = load_task(name)
    options = task.protocol().options
    source = task.source(options)
    out = terminal.OUT
    out.print(f"{task.name} (version {task.version}): {task.title}\n", markup=False)
    out.print(task.description + "\n", markup=False)
    hub = f"{source.hub.repo} {source.hub.file} at {source.hub.revision}" if source.hub else "-"
    facts = {
        "rows": source.title,
        "file": " or ".join(source.files),
        "from": source.origin,
        "hub": hub,
        "published": f"{source.rows or 'unknown number of'} rows",
    }
    terminal.show_mapping("data", facts)
    terminal.show_mapping(
        "options (--set NAME=VALUE)",
        {o.name: f"{o.help} [{', '.join(o.choices)}; default {o.default}]" for o in task.options},
    )
    terminal.show_mapping(
        "protocols (--protocol NAME)",
        {
            preset: ", ".join(f"{k}={v}" for k, v in changes.items()) or "the defaults"
            for preset, changes in task.presets.items()
        },
    )
    terminal.show_mapping(
        "scores",
        {
            m.name: f"{m.help} ({m.metric.unit})" + (f" -> {m.column}" if m.column else "")
            for m in task.measures(options)
        },
    )


def show_examples(name: str, options: RunOptions, count: int) -> None:
    """What the model would see of some examples: no weights are loaded, nothing is computed."""
    from harness.engine.checkpoint import tokenizer_and_context
    from harness.engine.encode import Encoder
    from harness.report.preview import preview

    job = _job(load_task(name), options)
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
        for request, tokens in (next(each) for _ in group):
            for line in preview(request, tokens, tokenizer.strings):
                terminal.OUT.print(line)


def write_leaderboard(records: Sequence[Path], out: Path) -> None:
    """Records -> CSV and Markdown."""
    from harness.report import leaderboard

    table = leaderboard.rows(leaderboard.load(records))
    for path in leaderboard.write(table, out):
        terminal.OUT.print(f"wrote {path} ({len(table)} rows)", markup=False)


def environment_data_dir() -> Path | None:
    """The data folder that HARNESS_DATA names."""
    folder = os.environ.get("HARNESS_DATA")
    return Path(folder) if folder else None
