"""The file of the response cache: an SQLite database that several processes share.

Nothing that is wrong with the file ends a run. A damaged file is set aside and a new one started.
A file that cannot be written, or stays locked, is only read.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

TIMEOUT = 60.0  # seconds to wait for another process
_DAMAGED_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
# SQLite's messages quote names and tokens of a damaged schema, which may not be UTF-8.
_FAULTS = (sqlite3.Error, OSError, UnicodeDecodeError)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS checkpoints (
    id INTEGER PRIMARY KEY,
    weights TEXT NOT NULL, tokenizer TEXT NOT NULL, numerics TEXT NOT NULL,
    name TEXT NOT NULL, used REAL NOT NULL, hits INTEGER NOT NULL DEFAULT 0,
    UNIQUE (weights, tokenizer, numerics)
);
CREATE TABLE IF NOT EXISTS answers (
    checkpoint INTEGER NOT NULL, key BLOB NOT NULL,
    asked INTEGER NOT NULL, value BLOB NOT NULL, crc INTEGER NOT NULL, stored REAL NOT NULL,
    PRIMARY KEY (checkpoint, key)
) WITHOUT ROWID;
"""
T = TypeVar("T")


class Damage(sqlite3.DatabaseError):
    """The file is an SQLite database, but not a response cache."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class SqliteFile:
    """A response cache on disk, or in memory if `path` is None."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.writable = True  # False once a write has failed; the file is then only read
        self._timeout = TIMEOUT
        self._open: sqlite3.Connection | None = None

    def run(self, action: Callable[[sqlite3.Connection], T], default: T) -> T:
        """The result of an action on the database, or `default` if the file has a problem."""
        try:
            return action(self.connection())
        except _FAULTS as error:
            if _code(error) in _DAMAGED_CODES and self.writable:
                self._set_aside(error)
            else:
                self._stop_writing(error)
        return default

    def connection(self) -> sqlite3.Connection:
        """The open connection; it only reads if the file cannot be written.

        Raises:
            sqlite3.Error, OSError, UnicodeDecodeError: the file is damaged, locked, or cannot be
                read.
        """
        if self._open is None and self.writable:
            try:
                self._open = _open_to_write(self.path, self._timeout)
            except _FAULTS as error:
                if _code(error) in _DAMAGED_CODES:
                    raise
                self._stop_writing(error)
        if self._open is None:
            self._open = _open_to_read(self.path, self._timeout)
        return self._open

    def close(self) -> None:
        """Close the connection; the next action opens another one."""
        if self._open is not None:
            with suppress(sqlite3.Error):
                self._open.close()
            self._open = None

    def _set_aside(self, error: Exception) -> None:
        """Rename a damaged file; a new one is made when it is needed."""
        self.close()
        if self.path is None or not self.path.exists():
            return
        candidates = (self.path.with_name(f"{self.path.name}.damaged{n}") for n in count(1))
        target = next(path for path in candidates if not path.exists())
        message = "the response cache is damaged (%s): set aside as %s; a new one is started"
        log.warning(message, error, target)
        try:
            self.path.rename(target)
            for ending in ("-wal", "-shm"):
                self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
        except OSError as problem:
            self._stop_writing(problem)

    def _stop_writing(self, error: Exception) -> None:
        """Go on without writing; warn once, and do not wait for a lock again."""
        if self.writable:
            reason = getattr(error, "strerror", None) or error
            message = "the response cache is not written from here on: %s (%s)"
            log.warning(message, reason, self.path)
        self.writable = False
        if _code(error) in _BUSY_CODES:
            self._timeout = 0.0
            if self._open is not None:
                self._open.execute("PRAGMA busy_timeout = 0")


@contextmanager
def transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Commit what the block does, or undo it if the block raises."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back when a disk is full
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _open_to_write(path: Path | None, timeout: float) -> sqlite3.Connection:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    return _opened(str(path.absolute()) if path else ":memory:", timeout, write=True)


def _open_to_read(path: Path | None, timeout: float) -> sqlite3.Connection:
    """Open a file that is only read.

    SQLite writes a file next to the database even to read it. If the folder cannot be written, the
    database is declared immutable, which needs no such file. Should another process write to it
    all the same, the checksum of each answer tells.
    """
    if path is None or not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        return _opened(uri, timeout, write=False)
    except sqlite3.OperationalError:
        if os.access(path.parent, os.W_OK):
            raise
        return _opened(f"{uri}&immutable=1", timeout, write=False)


def _opened(database: str, timeout: float, *, write: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(database, timeout=timeout, isolation_level=None, uri=not write)
    # Text that is not UTF-8 is damage of one value, not an error of the whole query.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        if write:
            _retry(lambda: connection.execute("PRAGMA journal_mode = WAL"), timeout)
            connection.execute("PRAGMA synchronous = NORMAL")
            _retry(lambda: connection.executescript(_SCHEMA), timeout)
        _check_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(connection: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(_SCHEMA)
        for table in ("checkpoints", "answers"):
            columns = f"PRAGMA table_info({table})"
            if connection.execute(columns).fetchall() != fresh.execute(columns).fetchall():
                raise Damage(f"its table {table} does not have the expected columns")


def _code(error: Exception) -> int:
    """SQLite's primary error code; 0 for other errors."""
    if isinstance(error, UnicodeDecodeError):
        return sqlite3.SQLITE_CORRUPT
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _retry(action: Callable[[], object], timeout: float) -> None:
    """Repeat an action until a lock is gone: SQLite does not wait for it to change the journal."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            if _code(error) not in _BUSY_CODES or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
