"""A record: one task, one protocol, one checkpoint, with everything that produced the numbers.

The JSON form is what `--json` prints and what lies in the records' folder. The signature is one
line, derived from the record and never stored apart from what it says.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import strict_json
from harness.core import Score, Tokens
from harness.errors import RecordError, UsageError
from harness.report import items as items_file
from harness.report.items import Items

SCHEMA = 1
_SIGNED = ("harness", "lm_eval", "torch", "transformers")  # versions in the signature
ITEMS = ".items.json.gz"  # in place of .json


@dataclass(frozen=True, slots=True)
class Record:
    """The result of one task."""

    task: str
    version: int
    protocol: str  # preset, with `+option=value` for each option set by hand
    options: Mapping[str, str | int]
    model: Mapping[str, Any]  # harness.engine.checkpoint.Identity
    data: Mapping[str, Any]  # road, name, sha256, bytes, rows, warnings
    prompt: Mapping[str, str] | None  # name, sha256
    limit: int | None  # rows taken at random
    seed: int
    rows: int  # read
    examples: int  # with an outcome; of running text, whose rows are parts of one example, rows
    requests: int
    tokens: Tokens
    seconds: float
    scores: tuple[Score, ...]
    preflight: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, float | str] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""  # ISO 8601, UTC
    pool: Mapping[str, Any] | None = None  # rows that example pairs were drawn from, as `data`
    origin: str = "harness"  # the program that computed the scores
    items_sha256: str | None = None  # of the file with the outcomes, which lies beside
    items: Items | None = field(default=None, repr=False, compare=False)
    """The outcomes themselves, of a run in this process; never in the record's own JSON."""

    @property
    def signature(self) -> str:
        """What a score depends on besides the weights, in one line, as sacrebleu's does."""
        options = ",".join(f"{k}={v}" for k, v in sorted(self.options.items()))
        versions = self.environment.get("versions", {})
        scored = self.examples
        of = f"/{self.rows}" if self.rows != scored else ""
        seed = "" if self.limit is None else f"~seed{self.seed}"
        parts = {
            **({"origin": self.origin} if self.origin != "harness" else {}),
            "v": self.version,
            "p": self.protocol,
            "o": options or "none",
            "data": f"{self.data['name']}@{self.data['sha256'][:8]}",
            "n": f"{scored}{of}{seed}",
            "prompt": self.prompt["sha256"][:8] if self.prompt else "none",
            **({"pool": f"{self.pool['name']}@{self.pool['sha256'][:8]}"} if self.pool else {}),
            "tok": self.model["tokenizer"][:8],
            "ctx": self.model["context"],
            "dtype": self.model["dtype"],
            **{name: versions[name] for name in _SIGNED if name in versions},
        }
        return "|".join([self.task, *(f"{k}:{v}" for k, v in parts.items())])

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        plain = asdict(replace(self, items=None))
        del plain["items"]
        plain.update(schema=SCHEMA, signature=self.signature)
        plain["scores"] = [asdict(score) for score in self.scores]
        return plain

    @classmethod
    def from_json(cls, value: Any, name: str) -> "Record":
        """The record in a parsed JSON value that came from `name`.

        Raises:
            RecordError: it is no record of a schema that this version reads.
        """
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            got = f"schema {value.get('schema')!r}" if isinstance(value, dict) else "something else"
            raise RecordError(
                f"{name} is no record: expected a JSON object with schema {SCHEMA}, got {got}"
            )
        fields = {k: v for k, v in value.items() if k not in ("schema", "signature", "items")}
        try:
            fields.setdefault("rows", fields["examples"])  # older records have one number for both
            fields["tokens"] = Tokens(**fields["tokens"])
            fields["scores"] = tuple(
                Score(**{k: v for k, v in score.items() if not k.startswith("paper")})
                for score in fields["scores"]
            )
            record = cls(**fields)
            if value.get("signature") != record.signature:
                raise RecordError(f"{name} was changed: its signature does not fit its fields")
        except (TypeError, KeyError, AttributeError) as error:
            raise RecordError(f"{name} is no record of this version: {error}") from error
        return record

    def filename(self) -> str:
        """`<task>-<protocol>-<digest>.json`; different signatures never share a file."""
        key = hashlib.sha256(f"{self.model['digest']}|{self.signature}".encode()).hexdigest()
        return f"{slug(self.task)}-{slug(self.protocol)[:80]}-{key[:10]}.json"


def slug(text: str) -> str:
    """`text` as a file name: letters, digits, dot, dash and underscore only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "_"


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The JSON files that paths name: files themselves, and those below folders, by name.

    Raises:
        UsageError: a path does not exist or has none.
    """
    for path in paths:
        found = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        if not found or not found[0].exists():
            raise UsageError(
                f"no record in {str(path)!r}; expected a record or a folder with records"
            )
        yield from found


def write(record: Record, root: Path) -> Path:
    """Write a record under `root/<model>/`, whole or not at all.

    Raises:
        RecordError: the folder cannot be written.
    """
    name = slug(Path(record.model["name"]).name or record.model["name"])[:80]
    path = root / f"{name}-{record.model['digest'][:8]}" / record.filename()
    if record.items is not None:
        packed = items_file.pack(items_file.to_json(record.items))
        record = replace(record, items_sha256=hashlib.sha256(packed).hexdigest())
        write_bytes(items_path(path), packed)
    write_text(path, json.dumps(record.to_json(), indent=1, ensure_ascii=False) + "\n")
    return path


def items_path(path: Path) -> Path:
    """The file with the outcomes that belongs to a record's file."""
    return path.with_name(path.name.removesuffix(".json") + ITEMS)


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file's content in one step, so that no reader ever sees half of it.

    Raises:
        RecordError: the file cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise RecordError(
            f"cannot write {str(path)!r}: {error.strerror}; give a folder that can be written"
        ) from error


def check_writable(folder: Path) -> None:
    """Make sure, before anything is computed, that records can be written.

    Raises:
        RecordError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RecordError(
            f"cannot write to output folder {str(folder)!r}: {error.strerror}; give --out a "
            "folder that can be written"
        ) from error


def check_file(path: Path, option: str) -> None:
    """Make sure, before anything is computed, that a file can be written; none is left behind.

    Raises:
        RecordError: it cannot; names the option that gave it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("ab"):
            pass
        if new:
            path.unlink()
    except OSError as error:
        raise RecordError(
            f"cannot write {option} {str(path)!r}: {error.strerror}; name a file that can be "
            "written"
        ) from error


def read(path: Path) -> Record:
    """The record in a file.

    Raises:
        RecordError: the file cannot be read or is no record.
    """
    try:
        value = strict_json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RecordError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise RecordError(f"{str(path)!r} is no JSON file: {error}") from error
    return Record.from_json(value, str(path))


def read_items(path: Path, record: Record) -> Items:
    """The outcomes that belong to a record in a file.

    Raises:
        RecordError: the record has none, or the file beside it is missing or another one.
    """
    beside = items_path(path)
    try:
        data = beside.read_bytes()
    except OSError as error:
        raise RecordError(
            f"{path.name} has no items beside it ({beside.name}: {error.strerror}); run the "
            "benchmark again, with the same command"
        ) from error
    if hashlib.sha256(data).hexdigest() != record.items_sha256:
        raise RecordError(f"{beside.name} does not belong to {path.name}: another checksum")
    return items_file.from_json(items_file.unpack(data, beside.name), beside.name)
