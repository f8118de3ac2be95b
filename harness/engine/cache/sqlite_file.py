"""How the file of stored answers is opened: to write, to read where that is all that can be done.

Knows SQLite's errors and the tables, and nothing of what is in them.
"""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

TIMEOUT = 60.0  # seconds to wait for another process
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
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


class Damage(sqlite3.DatabaseError):
    """The file is an SQLite file, but not a store."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def damaged(error: Exception) -> bool:
    """Whether an error says that the file is damaged."""
    return _code(error) in _DAMAGED


def busy(error: Exception) -> bool:
    """Whether an error says that another process holds a lock."""
    return _code(error) in _BUSY


def open_to_write(path: Path | None, timeout: float) -> sqlite3.Connection:
    """A connection to the file, made if need be, or to memory where there is none.

    Args:
        path: the file.
        timeout: seconds to wait for another process.

    Raises:
        sqlite3.Error: the file is damaged, locked, or cannot be written.
        OSError: its folder cannot be made.
    """
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    connection = _connect(path or ":memory:", timeout)
    try:
        _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), timeout)
        connection.execute("PRAGMA synchronous = NORMAL")
        _patiently(lambda: connection.executescript(_SCHEMA), timeout)
        _check_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path | None, timeout: float) -> sqlite3.Connection:
    """A connection that only reads.

    SQLite wants to write a file beside the store even to read it. Where the folder cannot be
    written the file is declared immutable, which does without; every answer has a checksum of
    its own, should another process write to it all the same.

    Raises:
        sqlite3.Error: the file is damaged, locked, or cannot be read.
        OSError: there is none.
    """
    if path is None or not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    place = f"{path.absolute().as_uri()}?mode=ro"
    try:
        return _checked(place, timeout)
    except sqlite3.OperationalError:
        if os.access(path.parent, os.W_OK):
            raise
        return _checked(f"{place}&immutable=1", timeout)


def _checked(place: str, timeout: float) -> sqlite3.Connection:
    connection = _connect(place, timeout)
    try:
        _check_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(where: Path | str, timeout: float) -> sqlite3.Connection:
    uri = isinstance(where, str) and where.startswith("file:")
    connection = sqlite3.connect(where, timeout=timeout, isolation_level=None, uri=uri)
    # Text that is not UTF-8 is damage of one value, not an error of the whole query.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return connection


def _check_schema(connection: sqlite3.Connection) -> None:
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(_SCHEMA)
        for name in ("checkpoints", "answers"):
            columns = f"PRAGMA table_info({name})"
            if connection.execute(columns).fetchall() != fresh.execute(columns).fetchall():
                raise Damage(f"its table {name} does not have the expected columns")


def _code(error: Exception) -> int:
    """SQLite's primary code of an error; 0 where there is none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _patiently(action: Callable[[], object], timeout: float) -> None:
    """Try until a lock is gone: changing the journal does not wait for other processes itself."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            if not busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
