"""Digests of files, cached by path, size and modification time."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_path

from harness import safe_files


def cache_root() -> Path:
    """The user's cache folder of this program; `HARNESS_CACHE` moves it."""
    return Path(os.environ.get("HARNESS_CACHE") or user_cache_path("zero-shot-harness"))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; read once, then remembered while size and time stay."""
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    memory = cache_root() / "digests.json"
    known = _load(memory)
    if key not in known:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # Read again: another process may have added to it meanwhile.
        _store(memory, {**_load(memory), key: digest})
        return digest
    return known[key]


def combined(parts: Sequence[str]) -> str:
    """One digest of several strings, in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _load(memory: Path) -> dict[str, str]:
    try:
        known = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _store(memory: Path, known: dict[str, str]) -> None:
    """Write the cache; a folder that cannot be written only costs time."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        safe_files.sweep(memory.parent, "digests.*.tmp")
        temporary = memory.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(known))
        temporary.replace(memory)
    except OSError:
        return
