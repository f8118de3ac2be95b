"""An evaluator: the tasks, rows and requests of an evaluation that is repeated during training.

Data is read when the evaluator is made, so that whatever is wrong with it is found before training
starts. Rows are chosen and tokens planned once, at the first evaluation; all later ones use the
same, so that their scores can be compared example by example.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.paper.table3 import preflight_warnings
from harness.data.load import Where
from harness.engine.endpoint.settings import EndpointSettings, is_endpoint
from harness.errors import UsageError
from harness.files.output import check_writable
from harness.jobs.budget import within
from harness.jobs.durations import parse_duration
from harness.jobs.selection import (
    ProtocolChoice,
    Rows,
    jobs_for,
    task_list,
    with_protocols,
)
from harness.records.folder import write
from harness.records.record import Record
from harness.runner import Prepared, encode, prepare
from harness.runner import evaluate as run_job

if TYPE_CHECKING:
    from harness.engine.backends.backend import Backend
    from harness.engine.cache.store import Store
    from harness.engine.checkpoint.load import Checkpoint
    from harness.engine.endpoint.backend import Endpoint
    from harness.engine.engine import Engine
    from harness.engine.queries.encode import Encodings

log = logging.getLogger(__name__)

MIN_CONTEXT = 8


@dataclass(eq=False)
class Evaluator:
    """Evaluates a model in memory again and again, on the same rows.

        evaluator = Evaluator(["lambada"], tokenizer=tokenizer, data_dir="data", budget="30s")
        records = evaluator(model, step=1000)

    Raises:
        UsageError: there is no such task, protocol or option, or options contradict each other.
        DataError: there is no data for a task; tasks of `table3` and `section3` are left out then.
        RecordError: `out` cannot be written to.
    """

    tasks: str | Sequence[str]
    """Names of tasks; `table3` and `section3` stand for all tasks of those tables."""
    _: KW_ONLY
    tokenizer: Any = None
    """Of transformers or tokenizers; or by name, as `--tokenizer` of the command line."""
    protocol: str = "paper"
    set: Mapping[str, str | int] = field(default_factory=dict)
    """Options that are changed in the protocol."""
    data_dir: str | Path | None = None
    """The folder with the original files; None: $HARNESS_DATA."""
    sample: bool = False
    """Whether to use the few built-in rows, whose scores mean nothing."""
    hub: bool = False
    """Whether to download from the hub what `data_dir` lacks."""
    limit: int | None = None
    """Rows of each task, chosen at random by `seed`; None: all."""
    budget: str | float | None = None
    """The time that an evaluation may take: `30s`, or seconds. It limits the rows of each task."""
    seed: int = 0
    context: int | None = None
    """Tokens that the model reads at once; None: 1024, or less if the model has less."""
    batch_tokens: int | None = None
    """Padded tokens per batch; None: by device."""
    strict: bool = False
    cache: bool | str | Path = False
    """Folder of the response cache; True: the user's. Off by default: every evaluation is of new
    weights, none of whose answers would be found again."""
    out: str | Path | None = None
    """The folder that records are written to."""

    rows: dict[str, int | None] = field(default_factory=dict, init=False)
    """Rows of each task, None for all; chosen at the first evaluation."""

    def __post_init__(self) -> None:
        self._check()
        names = [self.tasks] if isinstance(self.tasks, str) else list(self.tasks)
        changed = {name: str(value) for name, value in self.set.items()}
        protocols = with_protocols(task_list(names), ProtocolChoice(self.protocol, changed))
        found = jobs_for(protocols.pairs, self._rows(), required=names)
        for note in [*protocols.notes, *found.reasons.values()]:
            log.warning("%s", note)
        if self.out is not None:
            check_writable(Path(self.out))
        self._jobs = found.jobs
        self._prepared: list[Prepared] = []
        self._encodings: Encodings = {}

    def __getstate__(self) -> dict[str, Any]:
        """The options and the chosen rows; data is read again by `__setstate__`."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()

    def __call__(
        self, model: Any, *, name: str | None = None, step: int | None = None
    ) -> list[Record]:
        """The records of all tasks.

        Args:
            model: a model in memory, the name or path of a checkpoint, or a server.
            name: of the model, in the records.
            step: of the training, in the records.

        Raises:
            HarnessError: any of its kinds; see `records` to get those that were made before.
        """
        return list(self.records(model, name=name, step=step))

    def records(
        self, model: Any, *, name: str | None = None, step: int | None = None
    ) -> Iterator[Record]:
        """The record of each task as soon as it is complete, and written; raises as a call does."""
        from harness.engine.engine import Engine

        with self._store() as store, self._opened(model, name, step) as opened:
            engine = Engine(
                opened, budget=self.batch_tokens, store=store, encodings=self._encodings
            )
            self._plan(engine)
            for job, prepared in zip(self._jobs, self._prepared, strict=True):
                record = run_job(job, engine, prepared=prepared)
                for warning in record.warnings:
                    log.warning("%s: %s", record.task, warning)
                if self.out is not None:
                    write(record, Path(self.out))
                yield record

    def prepare(self, model: Any) -> None:
        """Do what the first evaluation would do first: choose the rows, and plan the tokens.

        Raises:
            CheckpointError: the model cannot be evaluated.
            EncodingError: a request does not fit its context.
        """
        from harness.engine.engine import Engine

        with self._opened(model, None, None) as opened:
            self._plan(Engine(opened, budget=self.batch_tokens, encodings=self._encodings))

    def _plan(self, engine: "Engine") -> None:
        """Choose the rows, and make and encode their requests, unless it has been done."""
        if self._prepared:
            return
        jobs = self._jobs
        if self.rows:  # of the run that is resumed
            jobs = [replace(job, limit=self.rows.get(job.task.name, job.limit)) for job in jobs]
        elif self._seconds is not None:
            jobs, notes = within(jobs, engine, self._seconds)
            for note in notes:
                log.info("%s", note)
        prepared = [prepare(job) for job in jobs]
        for job, first in zip(jobs, prepared, strict=True):
            flags = engine.preflight(first.requests, encode(job, first, engine))
            if job.strict:
                flags.refuse()
            for fact in preflight_warnings(flags.counts()):
                log.warning("%s: %s", job.task.name, fact)
        self.rows = {job.task.name: job.limit for job in jobs}
        self._jobs, self._prepared = jobs, prepared

    def _opened(
        self, model: Any, name: str | None, step: int | None
    ) -> AbstractContextManager["Checkpoint | Backend"]:
        """The model as a checkpoint, or its server, for the time of an evaluation."""
        if isinstance(model, str) and is_endpoint(model):
            model = EndpointSettings(model)
        if isinstance(model, EndpointSettings):
            if (name, step) != (None, None):
                raise UsageError(f"{model.url} is a server; leave out name and step")
            return closing(self._connected(model))
        if isinstance(model, str | Path):
            return nullcontext(self._loaded(str(model)))
        from harness.engine.checkpoint.in_memory import borrowed

        return borrowed(model, self._tokenizer, name=name, context=self.context, step=step)

    @property
    def _tokenizer(self) -> Any:
        """The tokenizer of a model in memory, or its name."""
        return str(self.tokenizer) if isinstance(self.tokenizer, Path) else self.tokenizer

    def _loaded(self, name: str) -> "Checkpoint":
        from harness.engine.checkpoint.load import load
        from harness.engine.checkpoint.settings import Settings

        tokenizer = self._tokenizer
        if not isinstance(tokenizer, str | None):
            raise UsageError(f"model {name!r} is loaded by name; give its tokenizer by name too")
        settings = Settings(context=self.context, tokenizer=tokenizer, data_dir=self._data_dir)
        return load(name, settings)

    def _connected(self, settings: EndpointSettings) -> "Endpoint":
        """A server that has passed the self-test; tokenizer and context are the evaluator's."""
        from harness.engine.endpoint.connect import connect

        tokenizer, batch = self._tokenizer, self.batch_tokens
        if not isinstance(tokenizer, str | None):
            raise UsageError(f"{settings.url} is a server; give the tokenizer of its model by name")
        if batch is not None:
            raise UsageError(f"{settings.url} is a server; leave out batch_tokens, {batch}")
        settings = replace(
            settings,
            tokenizer=tokenizer or settings.tokenizer,
            context=self.context or settings.context,
        )
        return connect(settings, store_results=self.cache is not False)

    def _store(self) -> AbstractContextManager["Store | None"]:
        """The response cache, open for the time of an evaluation."""
        if self.cache is False:
            return nullcontext()
        from harness.engine.cache.store import Store, default_folder

        return closing(Store(default_folder() if self.cache is True else Path(self.cache)))

    def _check(self) -> None:
        """Refuse values that are out of range or contradict each other."""
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit {self.limit}: expected at least 1")
        if self.context is not None and self.context < MIN_CONTEXT:
            raise UsageError(f"context {self.context}: expected at least {MIN_CONTEXT}")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise UsageError(f"batch_tokens {self.batch_tokens}: expected at least 1")
        if self.sample and self.hub:
            raise UsageError("sample and hub name different rows; give one of them")
        _ = self._seconds

    @property
    def _seconds(self) -> float | None:
        """The budget in seconds."""
        if isinstance(self.budget, str):
            return parse_duration(self.budget, example="30s")
        if self.budget is not None and not self.budget > 0:
            raise UsageError(f"budget {self.budget}: expected more than 0 seconds")
        return self.budget

    @property
    def _data_dir(self) -> Path | None:
        folder = self.data_dir or os.environ.get("HARNESS_DATA")
        return Path(folder) if folder else None

    def _rows(self) -> Rows:
        where = Where(sample=self.sample, folder=self._data_dir, hub=self.hub)
        return Rows(where, self.limit, self.seed, self.strict)
