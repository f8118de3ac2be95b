"""Evaluate one checkpoint of a watched folder, and remember what has been evaluated."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from harness.commands.evaluate.benchmark import OF_ONE_MODEL
from harness.commands.evaluate.session import Session, evaluate_job
from harness.commands.evaluate.watch.candidates import Found
from harness.commands.evaluate.watch.journal import (
    Entry,
    Journal,
    State,
    budget_key,
    evaluation_key,
    refusal_key,
)
from harness.commands.evaluate.watch.progress import Evaluated
from harness.display import terminal
from harness.errors import in_one_line
from harness.jobs import budget
from harness.records.record import Record
from harness.runner import Job

if TYPE_CHECKING:
    from harness.engine.checkpoint.settings import Settings
    from harness.engine.engine import Engine


class _Changed(Exception):
    """A checkpoint has changed while it was read."""


@dataclass(slots=True)
class Evaluation:
    """Evaluates checkpoints with the same jobs.

    Args:
        root: the watched folder.
        jobs: for every checkpoint.
        session: has the outputs and the options.
        journal: of the folder of records.
    """

    root: Path
    jobs: Sequence[Job]
    session: Session
    journal: Journal
    _budget: str | None = None  # key of the rows that --budget allows
    _records: dict[State, dict[str, Record]] = field(default_factory=dict)  # by evaluation
    _failed: set[State] = field(default_factory=set)  # not for good: not in the journal

    def __post_init__(self) -> None:
        options = self.session.options
        if options.plan.budget is not None:
            self._budget = budget_key(self.jobs, options.model, options.plan.budget)
        if self._budget in self.journal.rows:
            self._limit(self.journal.rows[self._budget])
        for entry in self.journal.below(self.root):
            found = ((key, self.journal.record(entry, key)) for key in self._keys())
            if records := {key: record for key, record in found if record is not None}:
                self._records[entry.key] = records

    def is_done(self, found: Found) -> bool:
        """Whether a checkpoint in this state needs no more work."""
        entry = self.journal.entry(found)
        if entry.key in self._failed or self._refusal in entry.refused:
            return True
        return self._rows_are_known and set(self._keys()) <= self._done(entry)

    def was_tried(self, path: Path) -> bool:
        """Whether a checkpoint was evaluated or refused, in whatever state it was."""
        tried = [*self._records, *self._failed, *(entry.key for entry in self._refused())]
        return str(path.absolute()) in {tried_path for tried_path, _ in tried}

    def evaluated(self) -> list[Evaluated]:
        """The checkpoints so far; each once, even if its files were written again unchanged."""
        found = {}
        for (path, _), records in self._records.items():
            ordered = tuple(records[key] for key in self._keys() if key in records)
            found[path, ordered[0].model["digest"]] = Evaluated(self._relative(path), ordered)
        return list(found.values())

    def refused(self) -> list[str]:
        """The checkpoints that could not be evaluated and may still be there."""
        evaluated = {path for path, _ in self._records}
        paths = dict.fromkeys(e.path for e in self._refused() if e.path not in evaluated)
        return [str(self._relative(path)) for path in paths if Path(path).exists()]

    def run(self, found: Found) -> None:
        """Evaluate a checkpoint; name one that cannot be evaluated.

        Raises:
            HarnessError: the reason is not the checkpoint.
        """
        entry = self.journal.entry(found)
        try:
            with self._engine(found) as engine:
                self._choose_rows(engine)
                for job, key in zip(self.jobs, self._keys(), strict=True):
                    if key not in self._done(entry):
                        self._evaluate(job, key, engine, entry)
        except Exception as error:
            self._fail(found, entry, error)

    def _evaluate(self, job: Job, key: str, engine: "Engine", entry: Entry) -> None:
        """Run one job and remember its record, without the outcomes."""
        record = evaluate_job(job, engine, self.session)
        for warning in record.warnings:
            terminal.note(f"{self._relative(entry.path)}: {record.task}: {warning}")
        self.session.records.clear()
        self._records.setdefault(entry.key, {})[key] = replace(record, outcomes=None)
        path = self.session.paths[-1]
        entry.records[key] = str(path.relative_to(self.session.options.output.out))
        self.journal.keep(entry)

    @contextmanager
    def _engine(self, found: Found) -> Iterator["Engine"]:
        """Load a checkpoint, and make sure that it did not change meanwhile."""
        from harness.engine.checkpoint.load import load
        from harness.engine.engine import Engine

        options, name = self.session.options, str(found.path)
        settings = replace(options.model.settings(options.data.data_dir), copied=True)
        with terminal.ERR.status(Text(f"loading {name}")), _conversion_removed(found, settings):
            checkpoint = load(name, settings)
        if found.has_changed():
            raise _Changed
        yield Engine(
            checkpoint,
            budget=options.model.batch_tokens,
            store=self.session.store,
            encodings=self.session.encodings,
        )

    def _fail(self, found: Found, entry: Entry, error: Exception) -> None:
        """Name a checkpoint that could not be evaluated; raise what is not its fault."""
        from harness.engine.model.out_of_memory import is_out_of_memory

        causes = [error, error.__cause__ or error]
        name = self._relative(entry.path)
        if found.is_gone():
            terminal.note(f"{name} was deleted before it was evaluated")
        elif found.has_changed():
            terminal.note(f"{name} was written to while it was read; it is tried again")
        elif any(isinstance(cause, OSError) or is_out_of_memory(cause) for cause in causes):
            terminal.note(f"{name} is left out until the next start: {in_one_line(error)}")
            self._failed.add(entry.key)
        elif isinstance(error, OF_ONE_MODEL):
            terminal.note(f"{name} is left out: {error}")
            entry.refused[self._refusal] = str(error)
            self.journal.keep(entry)
        else:
            raise error

    def _choose_rows(self, engine: "Engine") -> None:
        """Choose the rows that --budget allows, once for all checkpoints."""
        if self._rows_are_known:
            return
        assert self._budget is not None
        chosen = budget.within(self.jobs, engine, self.session.options.plan.budget or 0)
        for note in chosen.notes:
            terminal.note(note)
        self.journal.rows[self._budget] = {job.task.name: job.limit for job in chosen.jobs}
        self.journal.write()
        self._limit(self.journal.rows[self._budget])

    @property
    def _rows_are_known(self) -> bool:
        return self._budget is None or self._budget in self.journal.rows

    def _limit(self, rows: Mapping[str, int | None]) -> None:
        self.jobs = [replace(job, limit=rows[job.task.name]) for job in self.jobs]

    def _keys(self) -> list[str]:
        """The key of each job."""
        return [evaluation_key(job, self.session.options.model) for job in self.jobs]

    @property
    def _refusal(self) -> str:
        return refusal_key(self.session.options.model)

    def _done(self, entry: Entry) -> set[str]:
        return set(self._records.get(entry.key, ()))

    def _refused(self) -> list[Entry]:
        return [e for e in self.journal.below(self.root) if self._refusal in e.refused]

    def _relative(self, path: str) -> Path:
        return Path(path).relative_to(self.root.absolute())


@contextmanager
def _conversion_removed(found: Found, settings: "Settings") -> Iterator[None]:
    """Remove what a checkpoint was converted to; the cache would grow with every step."""
    from harness.engine.checkpoint.digest import cache_root
    from harness.engine.checkpoint.formats import registry
    from harness.engine.checkpoint.locate import locate

    if found.is_model_folder:
        yield
        return
    cache = cache_root() / "converted"
    known = set(cache.glob("*"))
    folder = locate(str(found.path), settings).folder
    log = logging.getLogger(registry.__name__)
    level = log.level
    log.setLevel(logging.WARNING)  # it has just said what it recognises
    try:
        yield
    finally:
        log.setLevel(level)
        if folder.parent == cache and folder not in known:
            shutil.rmtree(folder, ignore_errors=True)
