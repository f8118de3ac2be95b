"""Records and their outcomes as files: written completely or not at all, and read back."""

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from harness.errors import RecordError
from harness.files import atomic, output
from harness.records import outcomes as outcomes_file
from harness.records import schema
from harness.records.outcomes import Outcomes
from harness.records.record import Record, short_name, slug

OUTCOMES_SUFFIX = ".items.json.gz"
_DIGEST_CHARS = 12  # of the checksum, in the name of the file with the outcomes
OLD_TEMPORARY = ".????????.tmp"  # pattern of the temporary files of version 0.1.0


def write(record: Record, root: Path) -> Path:
    """Write a record and its outcomes under `root/<model>/`, completely or not at all.

    The outcomes are written first, under a name that contains their checksum: whenever the write
    is interrupted, the record on disk is the old or the new one, and its outcomes exist.
    """
    name = slug(short_name(record.model["name"]))[:80]
    path = root / f"{name}-{record.model['digest'][:8]}" / record.filename()
    packed = b""
    if record.outcomes is not None:
        packed = outcomes_file.pack(outcomes_file.to_json(record.outcomes))
        record = replace(record, outcomes_sha256=hashlib.sha256(packed).hexdigest())
    text = json.dumps(record.to_json(), indent=1, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(path.parent, OLD_TEMPORARY)
        with atomic.locked(path.parent) as locked:
            if packed:
                atomic.replace_content(_outcomes_name(path, record), packed)
            # The name of a data file need not be UTF-8; other bytes become question marks.
            atomic.replace_content(path, text.encode("utf-8", "replace"))
            _remove_old_outcomes(path, record, bool(locked))
    except OSError as error:
        raise output.cannot_write(path, error) from error
    return path


def remove(path: Path) -> None:
    """Remove a record and its outcomes; one that cannot be removed stays."""
    with suppress(OSError, RecordError):
        outcomes = outcomes_path(path)
        path.unlink()
        outcomes.unlink()


def _remove_old_outcomes(path: Path, record: Record, locked: bool) -> None:
    """Remove the outcomes of the record that was replaced; a failure does no harm.

    Without a lock, another process may be about to write a record for outcomes that are new.
    """
    stem = path.name.removesuffix(".json")
    for pattern in (f"{stem}.{'?' * _DIGEST_CHARS}{OUTCOMES_SUFFIX}", _old_name(path).name):
        for old in path.parent.glob(pattern):
            with suppress(OSError):
                unused = locked or time.time() - old.stat().st_mtime > atomic.STALE_SECONDS
                if unused and old != _outcomes_name(path, record):
                    old.unlink()


def _old_name(path: Path) -> Path:
    """Where version 0.1.0 put the outcomes of a record."""
    return path.with_name(path.name.removesuffix(".json") + OUTCOMES_SUFFIX)


def _outcomes_name(path: Path, record: Record) -> Path:
    digest = slug(str(record.outcomes_sha256)[:_DIGEST_CHARS])
    return path.with_name(f"{path.name.removesuffix('.json')}.{digest}{OUTCOMES_SUFFIX}")


def outcomes_path(path: Path, record: Record | None = None) -> Path:
    """The file with the outcomes of the record in the file `path`, which is read if not given."""
    named = _outcomes_name(path, record or read(path))
    old = _old_name(path)
    return old if old.exists() and not named.exists() else named


def read(path: Path) -> Record:
    """The record in a file."""
    return Record.from_json(schema.load(path), str(path))


def read_outcomes(path: Path, record: Record) -> Outcomes:
    """The outcomes of a record that was read from `path`.

    Raises:
        RecordError: the record has none, or their file is missing or belongs to another record.
    """
    file = outcomes_path(path, record)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise RecordError(
            f"{path.name} has no outcomes file next to it ({file.name}: {error.strerror}); run the "
            "benchmark again with the same command"
        ) from error
    if hashlib.sha256(data).hexdigest() != record.outcomes_sha256:
        raise RecordError(f"{file.name} does not belong to {path.name}: the checksums differ")
    return outcomes_file.from_json(outcomes_file.unpack(data, file.name), file.name)
