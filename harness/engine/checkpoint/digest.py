"""SHA-256 digests, and a cache of those that take long to compute.

SHA-256 identifies, but is slow on gigabytes. A cached digest is used only for bytes with the same
XXH3 checksum, which is fast and computed each time. It notices a file that is replaced in place,
with its size and times kept.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.files import atomic

_SHA256 = re.compile("[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20
_MAX_CACHED = 4096  # entries of a file; the oldest are dropped


def cache_root() -> Path:
    """The user's cache folder of this program; `HARNESS_CACHE` overrides it."""
    if folder := os.environ.get("HARNESS_CACHE"):
        return Path(folder)
    from platformdirs import user_cache_path

    return user_cache_path("zero-shot-harness")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""

    def compute() -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    import xxhash

    checksum = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum.update(chunk)
    return cached_digest(f"{file_state([path])}|{checksum.hexdigest()}", compute)


def file_state(paths: Iterable[Path]) -> str:
    """Path, size, times and inode of files in one line; nobody can set the time of the inode."""
    parts: list[object] = []
    for path in paths:
        stat = path.stat()
        parts += [path.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    return "|".join(map(str, parts))


def cached_digest(key: str, compute: Callable[[], str]) -> str:
    """Return the SHA-256 cached under a key, or compute and cache it.

    The key must include a checksum of all bytes that the digest covers.
    """
    file = cache_root() / "digests.json"
    if digest := cached_entries(file, _is_digest).get(key):
        return str(digest)
    digest = compute()
    with suppress(OSError):
        atomic.remove_leftovers(file.parent, "digests.*.tmp")  # name in old versions
    store_entry(file, key, digest, _is_digest)
    return digest


def combined_digest(parts: Sequence[str]) -> str:
    """One digest of several strings, in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def cached_entries(file: Path, is_valid: Callable[[Any], bool]) -> dict[str, Any]:
    """The valid entries of a JSON file in the cache; none if it is missing or damaged."""
    try:
        entries = json.loads(file.read_text("utf-8")).items()
    except (OSError, ValueError, RecursionError, AttributeError):
        return {}
    return {key: value for key, value in entries if is_valid(value)}


def store_entry(file: Path, key: str, value: Any, is_valid: Callable[[Any], bool]) -> None:
    """Add an entry to a JSON file in the cache, which keeps the newest ones.

    The file is read again, because another process may have added to it. A folder that cannot be
    written only costs time.
    """
    entries = {**cached_entries(file, is_valid), key: value}
    newest = dict(list(entries.items())[-_MAX_CACHED:])
    with suppress(OSError):
        atomic.replace_content(file, json.dumps(newest).encode())


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
