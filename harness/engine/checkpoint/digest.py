"""Digests of files and of other bytes, and a cache of those that are dear.

SHA-256 is what identifies; it is slow on gigabytes. A cached one is taken only for bytes with the
same XXH3 checksum, which runs at the speed of memory and is computed each time: a file that is
replaced in place, its size and times kept, is noticed.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import xxhash
from platformdirs import user_cache_path

from harness.files import atomic

_SHA256 = re.compile("[0-9a-f]{64}")
_CHUNK = 1 << 20  # bytes read at a time
_REMEMBERED = 4096  # digests in the cache; the oldest are dropped


def cache_root() -> Path:
    """The user's cache folder of this program; `HARNESS_CACHE` moves it."""
    return Path(os.environ.get("HARNESS_CACHE") or user_cache_path("zero-shot-harness"))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""

    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    checksum = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum.update(chunk)
    return remembered(f"{state([path])}|{checksum.hexdigest()}", compute)


def state(paths: Iterable[Path]) -> str:
    """Where files are and what the file system says of their content, in one line.

    The time of the last change of the inode is part of it, which nobody can set.
    """
    parts = []
    for path in paths:
        stat = path.stat()
        numbers = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        parts.append("|".join(map(str, (path.resolve(), *numbers))))
    return "|".join(parts)


def remembered(key: str, compute: Callable[[], str]) -> str:
    """The digest that is cached under a key, or the computed one, which is then cached.

    Args:
        key: holds a checksum of all the bytes that the digest covers.
        compute: gives a SHA-256 in hexadecimal.
    """
    memory = cache_root() / "digests.json"
    if key in (known := _load(memory)):
        return known[key]
    digest = compute()
    # Read again: another process may have added to it meanwhile.
    _store(memory, {**_load(memory), key: digest})
    return digest


def combined(parts: Sequence[str]) -> str:
    """One digest of several strings, in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _load(memory: Path) -> dict[str, str]:
    """The cache; whatever in it is not a digest counts as not there."""
    try:
        known = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, str) and _SHA256.fullmatch(v)}


def _store(memory: Path, known: dict[str, str]) -> None:
    """Write the cache; a folder that cannot be written only costs time."""
    kept = dict(list(known.items())[-_REMEMBERED:])
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(memory.parent, "digests.*.tmp")
        temporary = memory.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(kept), "utf-8")
        temporary.replace(memory)
    except OSError:
        return
