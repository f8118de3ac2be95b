"""Files that are written whole or not at all, and no litter of processes that were killed.

Whatever is temporary bears the mark of its process, `.<mark>.tmp` or `converting-<mark>-...`, so
that a later process can tell what nobody will finish.
"""

import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

STALE_SECONDS = (
    3600.0  # seconds after which a temporary file of an unknown process is taken for left
)
LOCK_TIMEOUT = 10.0  # seconds to wait for another process that writes to the same folder
_MARKED = re.compile(
    r"(\.|converting-)(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]{1,10})-[0-9a-f]{8}(\.tmp|-\w+)"
)
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def process_mark() -> str:
    """What tells a temporary file of this process from all others."""
    return f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


def temporary_path(folder: Path) -> Path:
    """A new name for a temporary file in a folder."""
    return folder / f".{process_mark()}.tmp"


def remove_leftovers(folder: Path, *unmarked: str) -> None:
    """Remove what killed processes left in a folder; what cannot be removed stays.

    A file or folder with a mark goes when its process is gone. One of another machine, or without
    a mark, goes when it has not been changed for an hour.

    Args:
        folder: where to look, not below it.
        unmarked: patterns of temporary names without a mark, such as older versions gave.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            marked = _MARKED.fullmatch(path.name)
            if marked is None and not any(path.match(pattern) for pattern in unmarked):
                continue
            with suppress(OSError):
                if _left(path, marked):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _left(path: Path, marked: re.Match[str] | None) -> bool:
    if marked and marked["host"] == _host():
        return not _alive(int(marked["pid"]))
    return time.time() - path.stat().st_mtime > STALE_SECONDS


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # there is one, and it belongs to somebody else
        return True
    return True


@cache
def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def replace_content(path: Path, data: bytes) -> None:
    """Replace a file's content in one step, so that no reader ever sees half of it.

    Links are followed and stay. A new file has the mode that the umask gives, an old one keeps
    its own. What is not a regular file, such as a pipe, is written to.

    Raises:
        OSError: the file cannot be written.
    """
    if str(path) in _STREAMS:
        with os.fdopen(os.dup(_STREAMS[str(path)]), "wb") as stream:
            stream.write(data)
        return
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            stream.write(data)
        return
    target = Path(os.path.realpath(path))  # Path.resolve raises on circular links
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    made = temporary_path(target.parent)
    try:
        handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            made.chmod(stat.S_IMODE(target.stat().st_mode))
        made.replace(target)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keep other processes from writing to a folder, as far as they ask; whether that was possible.

    A lock goes with its process, however that ends.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield False
        return
    handle = None
    held = False
    try:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            held = _lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield held
    finally:
        if handle is not None:
            os.close(handle)


def _lock(handle: int, how: int) -> bool:
    import fcntl

    deadline = time.monotonic() + LOCK_TIMEOUT
    while time.monotonic() < deadline:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            time.sleep(0.01)
        else:
            return True
    return False
