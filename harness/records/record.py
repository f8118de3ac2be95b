"""A record: one task, one protocol, one checkpoint, with everything that produced the numbers.

The JSON form is what `--json` prints and what lies in the records' folder. The signature is one
line, derived from the record and never stored apart from what it says.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.core import Score, Tokens
from harness.errors import RecordError, UsageError
from harness.files import atomic, strict_json
from harness.records import items as items_file
from harness.records.items import Items

SCHEMA = 1
_SIGNED = ("harness", "lm_eval", "torch", "transformers")  # versions in the signature
ITEMS = ".items.json.gz"
_SHOWN = 12  # digits of the items' checksum in their name
OLD_TEMPORARY = ".????????.tmp"  # as older versions named them in the folder of a record
_OTHERS = {  # what files of ours hold beside records, and the keys that tell
    "what harness jitter measured": {"schema", "movements"},
    "the items of a record": {"schema", "ids", "outcomes"},
    "the runs of a baseline": {"schema", "runs"},
}


@dataclass(frozen=True, slots=True)
class Record:
    """The result of one task."""

    task: str
    version: int
    protocol: str  # preset, with `+option=value` for each option set by hand
    options: Mapping[str, str | int]
    model: Mapping[str, Any]  # harness.engine.checkpoint.settings.Identity
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
        return "|".join([self.task, *(f"{k}:{v}" for k, v in self.signed_parts().items())])

    def signed_parts(self) -> dict[str, str]:
        """The signature's parts by their keys in it, without the benchmark's name."""
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
        return {name: str(value) for name, value in parts.items()}

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
        if other := other_kind(value):
            raise RecordError(f"{name} is not a record: it holds {other}")
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

    @property
    def numerics(self) -> str:
        """What moves the last digits of the scores and no more: device, products, libraries.

        Runs of one signature with different numerics measure the same thing, and differ by
        rounding. Records of other programs say no more than the device.
        """
        said = self.engine.get("numerics")
        return str(said or f"device:{str(self.model.get('device')).partition(':')[0]}")

    def filename(self) -> str:
        """`<task>-<protocol>-<digest>.json`; runs that may differ in a score never share a file."""
        parts = (self.model["digest"], self.signature, self.numerics)
        key = hashlib.sha256("|".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
        return f"{slug(self.task)}-{slug(self.protocol)[:80]}-{key[:10]}.json"


def slug(text: str) -> str:
    """`text` as a file name: letters, digits, dot, dash and underscore only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "_"


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """The JSON files that paths name: files themselves, and those of records below folders.

    Raises:
        UsageError: a path does not exist or has none.
    """
    for path in paths:
        found = below(path) if path.is_dir() else [path]
        if not found or not found[0].exists():
            raise UsageError(
                f"no record in {str(path)!r}; expected a record or a folder with records"
            )
        yield from found


def below(folder: Path) -> list[Path]:
    """The JSON files below a folder, by name, but for those that are ours and hold no record."""
    return [path for path in sorted(folder.rglob("*.json")) if not _other_kind(path)]


def _other_kind(path: Path) -> str:
    """What a file of ours holds that is not a record; empty if it may be one."""
    try:
        return other_kind(strict_json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return ""  # reading it as a record says what is wrong with it


def other_kind(value: Any) -> str:
    """What a JSON value of ours is that is not a record; empty if it may be one."""
    keys = set(value) if isinstance(value, dict) else set()
    return next((what for what, own in _OTHERS.items() if own <= keys), "")


def write(record: Record, root: Path) -> Path:
    """Write a record under `root/<model>/`, whole or not at all, with its items.

    The items come first, under a name of their own that the record's checksum leads to: whenever
    this is interrupted, the record on disk is an old or a new one, and its items are there.

    Raises:
        RecordError: the folder cannot be written.
    """
    name = slug(Path(record.model["name"]).name or record.model["name"])[:80]
    path = root / f"{name}-{record.model['digest'][:8]}" / record.filename()
    packed = b""
    if record.items is not None:
        packed = items_file.pack(items_file.to_json(record.items))
        record = replace(record, items_sha256=hashlib.sha256(packed).hexdigest())
    text = json.dumps(record.to_json(), indent=1, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(path.parent, OLD_TEMPORARY)
        with atomic.locked(path.parent) as alone:
            if packed:
                atomic.replace_content(_items_name(path, record), packed)
            # The name of a data file need not be UTF-8; what is not becomes a question mark.
            atomic.replace_content(path, text.encode("utf-8", "replace"))
            _remove_old_items(path, record, alone)
    except OSError as error:
        raise _cannot_write(path, error) from error
    return path


def _remove_old_items(path: Path, record: Record, alone: bool) -> None:
    """Remove what belonged to the record that was replaced; it hurts nobody if that fails.

    Without a lock another process may be about to refer to items that nobody refers to yet.
    """
    stem = path.name.removesuffix(".json")
    for pattern in (f"{stem}.{'?' * _SHOWN}{ITEMS}", _old_items_name(path).name):
        for old in path.parent.glob(pattern):
            with suppress(OSError):
                left = alone or time.time() - old.stat().st_mtime > atomic.STALE_SECONDS
                if left and old != _items_name(path, record):
                    old.unlink()


def _old_items_name(path: Path) -> Path:
    """Where older versions put the items of a record's file."""
    return path.with_name(path.name.removesuffix(".json") + ITEMS)


def _items_name(path: Path, record: Record) -> Path:
    digest = slug(str(record.items_sha256)[:_SHOWN])
    return path.with_name(f"{path.name.removesuffix('.json')}.{digest}{ITEMS}")


def items_path(path: Path, record: Record | None = None) -> Path:
    """The file with the items that belongs to a record's file.

    Args:
        path: of the record's file.
        record: in that file; read if it is not given.

    Raises:
        RecordError: the record cannot be read.
    """
    named = _items_name(path, record or read(path))
    old = _old_items_name(path)
    return old if old.exists() and not named.exists() else named


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`; what cannot be encoded, half of a surrogate pair, becomes `?`."""
    write_bytes(path, text.encode("utf-8", "replace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file's content in one step, as `harness.files.atomic.replace_content` does.

    Raises:
        RecordError: the file cannot be written.
    """
    try:
        atomic.replace_content(path, data)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> RecordError:
    return RecordError(
        f"cannot write {str(path)!r}: {error.strerror}; give a folder that can be written"
    )


def check_writable(folder: Path) -> None:
    """Make sure, before anything is computed, that records can be written.

    Raises:
        RecordError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(folder)
        made = atomic.temporary_path(folder)
        made.touch()
        made.unlink()
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
            path.resolve().unlink()  # a link to a file that is not there yet stays
    except OSError as error:
        raise RecordError(
            f"cannot write {option} {str(path)!r}: {error.strerror}; name a file that can be "
            "written"
        ) from error


def read(path: Path) -> Record:
    """The record in a file.

    Raises:
        RecordError: the file cannot be read or is not a record.
    """
    try:
        value = strict_json.loads(path.read_bytes())
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
    beside = items_path(path, record)
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


def read_with_items(path: Path) -> tuple[Record, Items]:
    """The record in a file and its outcomes, of one run even while another one replaces it.

    Raises:
        RecordError: the file is not a record, or its items are missing or damaged.
    """
    while True:
        record = read(path)
        try:
            return record, read_items(path, record)
        except RecordError:
            if read(path).items_sha256 == record.items_sha256:
                raise
