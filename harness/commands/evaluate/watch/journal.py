"""Which checkpoints have been evaluated: the file `watch.json` in the folder of records.

It is written after every record, so that a watch that is killed goes on where it was.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness.commands.evaluate.watch.candidates import Found
from harness.commands.model_options import DTYPE, ModelOptions
from harness.errors import RecordError, UsageError
from harness.files import atomic, output
from harness.records import folder, schema
from harness.records.record import Record
from harness.runner import Job

FILE = "watch.json"

State = tuple[str, str]
"""The path of a checkpoint, and a digest of the state of its files."""


@dataclass(slots=True)
class Entry:
    """One checkpoint in one state of its files, and what is known about it."""

    path: str
    state: str
    records: dict[str, str] = field(default_factory=dict)  # evaluation -> file of the record
    refused: dict[str, str] = field(default_factory=dict)  # key -> reason

    @property
    def key(self) -> State:
        """What identifies the entry."""
        return self.path, self.state


@dataclass(slots=True)
class Journal:
    """The entries of all checkpoints, and the rows that `--budget` allows."""

    out: Path
    entries: dict[State, Entry] = field(default_factory=dict)
    rows: dict[str, dict[str, int | None]] = field(default_factory=dict)  # budget -> task -> limit

    def entry(self, found: Found) -> Entry:
        """The entry of a checkpoint; a new one if it has none in this state."""
        key = (str(found.path.absolute()), found.state)
        return self.entries.get(key) or Entry(*key)

    def below(self, root: Path) -> list[Entry]:
        """The entries of checkpoints below a folder, in the order in which they were evaluated."""
        return [e for e in self.entries.values() if Path(e.path).is_relative_to(root.absolute())]

    def record(self, entry: Entry, evaluation: str) -> Record | None:
        """The record of an evaluation; None if there is none, or its file is gone or damaged."""
        file = entry.records.get(evaluation)
        try:
            return folder.read(self.out / file) if file else None
        except RecordError:
            return None

    def keep(self, entry: Entry) -> None:
        """Write an entry that has changed."""
        self.entries[entry.key] = entry
        self.write()

    def write(self) -> None:
        """Write the file in one step."""
        value = {
            **schema.header("watch"),
            "rows": self.rows,
            "checkpoints": [asdict(entry) for entry in self.entries.values()],
        }
        output.write_text(self.out / FILE, json.dumps(value, indent=1) + "\n")


@contextmanager
def opened(out: Path) -> Iterator[Journal]:
    """The journal of a folder of records, for one process at a time.

    Raises:
        UsageError: another process has it.
        RecordError: the file is damaged.
    """
    with atomic.locked(out, timeout=1) as locked:
        if locked is False:
            raise UsageError(
                f"another harness watch writes to {str(out)!r}; give another folder by --out, or "
                "end that one"
            )
        yield _read(out)


def _read(out: Path) -> Journal:
    path = out / FILE
    if not path.exists():
        return Journal(out)
    fields = schema.fields(schema.load(path), "watch", str(path))
    with schema.malformed(str(path), "watch"):
        entries = [Entry(**entry) for entry in fields["checkpoints"]]
        return Journal(
            out,
            {entry.key: entry for entry in entries},
            {key: dict(rows) for key, rows in fields["rows"].items()},
        )


def evaluation_key(job: Job, model: ModelOptions) -> str:
    """What one record of a checkpoint depends on besides the checkpoint."""
    return _digest([
        job.task.name, job.task.version, job.protocol.label, sorted(job.protocol.options.items()),
        job.data.name, job.data.sha256, job.pool and job.pool.sha256, job.limit, job.seed,
        loading_key(model),
    ])  # fmt: skip


def loading_key(model: ModelOptions) -> str:
    """What loading a checkpoint depends on besides the checkpoint."""
    return _digest([

        model.dtype or DTYPE, model.context, model.trust_remote_code, sorted(model.options),
        model.tokenizer, str(model.config),
    ])  # fmt: skip


def refusal_key(model: ModelOptions) -> str:
    """What the refusal of a checkpoint depends on; another version may know its format."""
    return _digest([version("zero-shot-harness"), loading_key(model)])


def budget_key(jobs: Sequence[Job], model: ModelOptions, seconds: float) -> str:
    """What the rows depend on that fit into a time."""
    return _digest([seconds, *(evaluation_key(job, model) for job in jobs)])


def _digest(parts: Sequence[Any]) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]
