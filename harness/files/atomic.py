"""Write files in one step, and remove what killed processes left behind.

Temporary files and folders carry a mark of their process, as `.<mark>.tmp` or
`converting-<mark>-...`, so that a later process can tell which are abandoned.
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

STALE_SECONDS = 3600.0  # age from which a temporary file of an unknown process is abandoned
LOCK_TIMEOUT = 10.0  # seconds to wait for another process that writes to the same folder
_MARKED_NAME = re.compile(
    r"(\.|converting-)(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]{1,10})-[0-9a-f]{8}(\.tmp|-\w+)"
)
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def process_mark() -> str:
    """A mark that is new at every call and names this machine and process."""
    return f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


def temporary_path(folder: Path) -> Path:
    """A new name for a temporary file in a folder."""
    return folder / f".{process_mark()}.tmp"


def remove_leftovers(folder: Path, *unmarked: str) -> None:
    """Remove what killed processes left in a folder; errors are ignored.

    Files with the mark of a process on this machine are removed once that process has ended, others
    once they have not been changed for an hour.

    Args:
        folder: Folder to clean; its subfolders are not searched.
        unmarked: Patterns of temporary names without a mark, for example of older versions.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            marked = _MARKED_NAME.fullmatch(path.name)
            if marked is None and not any(path.match(pattern) for pattern in unmarked):
                continue
            with suppress(OSError):
                if _is_abandoned(path, marked):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_abandoned(path: Path, marked: re.Match[str] | None) -> bool:
    if marked and marked["host"] == _host():
        return not _is_running(int(marked["pid"]))
    return time.time() - path.stat().st_mtime > STALE_SECONDS


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to another user
        return True
    return True


@cache
def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def replace_content(path: Path, data: bytes) -> None:
    """Replace the content of a file in one step, so that no reader sees half of it.

    Links are followed and stay. A new file has the mode that the umask gives; an old one keeps its
    mode. What is not a regular file, such as a pipe, is written to.

    Raises:
        OSError: the file cannot be written.
    """
    descriptor = _STREAMS.get(str(path))
    if descriptor is not None or (path.exists() and not path.is_file()):
        with open(path if descriptor is None else os.dup(descriptor), "wb") as stream:  # noqa: PTH123
            stream.write(data)
        return
    target = Path(os.path.realpath(path))  # Path.resolve raises on circular links
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    temporary = temporary_path(target.parent)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def locked(folder: Path, timeout: float | None = None) -> Iterator[bool | None]:
    """Lock a folder against other processes that use this function; yields whether that succeeded.

    The operating system releases the lock when the process ends.

    Args:
        folder: the folder.
        timeout: seconds to wait for another process; default: `LOCK_TIMEOUT`.

    Yields:
        Whether the lock is held; None where the file system has no locks.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows has no fcntl
        yield None
        return
    try:
        deadline = time.monotonic() + (LOCK_TIMEOUT if timeout is None else timeout)
        is_locked: bool | None = False
        while is_locked is False:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_locked = True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.01)
            except OSError:  # the file system has no locks
                is_locked = None
        yield is_locked
    finally:
        os.close(descriptor)
