"""Answers on disk: a SQLite file that survives being killed and is shared by several processes.

A store keeps bytes under (checkpoint, key); `harness.engine.memory` says what they mean. It only
ever saves time: a damaged file is set aside and a fresh one begun, damaged answers are dropped,
and where nothing can be written the run goes on without.
"""

import logging
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from harness.engine.digest import cache_root

log = logging.getLogger(__name__)

FILE = "answers.sqlite"
FOLDER = "answers"  # in the user's cache
PATIENCE = 60.0  # seconds to wait for another process
_AT_ONCE = 500  # keys of one query
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT)
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


class Producer(NamedTuple):
    """What an answer depends on besides its question."""

    weights: str  # digest
    tokenizer: str  # digest
    numerics: str


class Stored(NamedTuple):
    """One answer as bytes."""

    asked: int  # tokens that it would cost to ask separately
    value: bytes


@dataclass(frozen=True, slots=True)
class Holding:
    """What a store has of one checkpoint."""

    id: int
    name: str  # under which it was used last
    producer: Producer
    answers: int
    bytes: int
    hits: int  # answers that were taken from here
    used: float  # seconds since 1970


def default_folder() -> Path:
    """Where answers are stored if nobody says otherwise."""
    return cache_root() / FOLDER


class Store:
    """A store in a folder, or in memory where there is none.

    Raises nothing because of its file: what is wrong with it is a notice.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / FILE if folder else None
        self._open: sqlite3.Connection | None = None
        self._writing = True

    @property
    def path(self) -> Path | None:
        """The file; None in memory."""
        return self._path

    def get(
        self, producer: Producer, keys: Iterable[bytes], *, count: bool = True
    ) -> dict[bytes, Stored]:
        """The answers to those keys that are there, and sound; counted as taken if asked for."""
        return self._guarded(lambda: self._get(producer, keys, count), {})

    def put(self, producer: Producer, name: str, answers: Mapping[bytes, Stored]) -> None:
        """Keep answers, all of them or none; those that are there already stay."""
        if self._writing and answers:
            self._guarded(lambda: self._put(producer, name, answers), None)

    def holdings(self) -> list[Holding]:
        """What there is of each checkpoint, the last used first."""
        rows: list[Any] = self._guarded(
            lambda: (
                self._connection()
                .execute(
                    "SELECT id, name, weights, tokenizer, numerics, count(key), "
                    "coalesce(sum(length(value) + length(key)), 0), hits, used FROM checkpoints "
                    "LEFT JOIN answers ON checkpoint = id GROUP BY id ORDER BY used DESC"
                )
                .fetchall()
            ),
            [],
        )
        return [Holding(r[0], r[1], Producer(*r[2:5]), *r[5:]) for r in rows]

    def damaged(self) -> int | None:
        """How many answers are damaged and were dropped; None if the whole file is."""

        def check() -> int:
            connection = self._connection()
            if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check failed")
            rows = connection.execute("SELECT checkpoint, key, asked, value, crc FROM answers")
            bad = [(row[0], row[1]) for row in rows if _crc(*row[1:4]) != row[4]]
            self._drop(bad)
            return len(bad)

        return self._guarded(check, None)

    def prune(
        self,
        *,
        before: float | None = None,
        checkpoints: Sequence[int] = (),
        size: int | None = None,
    ) -> int:
        """Drop answers; how many.

        Args:
            before: those stored earlier, in seconds since 1970.
            checkpoints: those of these, by id.
            size: the oldest ones, until the file is no larger than this, in bytes.
        """

        def drop() -> int:
            connection = self._connection()
            gone = 0
            if before is not None:
                gone += connection.execute(
                    "DELETE FROM answers WHERE stored < ?", [before]
                ).rowcount
            for owner in checkpoints:
                gone += connection.execute(
                    "DELETE FROM answers WHERE checkpoint = ?", [owner]
                ).rowcount
            if size is not None:
                gone += self._drop_oldest(size)
            connection.execute(
                "DELETE FROM checkpoints WHERE id NOT IN (SELECT checkpoint FROM answers)"
            )
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return gone

        return self._guarded(drop, 0)

    def close(self) -> None:
        """Let go of the file."""
        if self._open is not None:
            with suppress(sqlite3.Error):
                self._open.close()
            self._open = None

    # --- inside ---------------------------------------------------------------------------

    def _get(self, producer: Producer, keys: Iterable[bytes], count: bool) -> dict[bytes, Stored]:
        connection = self._connection()
        owner = self._known(producer)
        if owner is None:
            return {}
        found: dict[bytes, Stored] = {}
        bad: list[tuple[int, bytes]] = []
        wanted = list(keys)
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            for key, asked, value, crc in connection.execute(
                "SELECT key, asked, value, crc FROM answers "
                f"WHERE checkpoint = ? AND key IN ({marks})",
                [owner, *part],
            ):
                if _crc(key, asked, value) == crc:
                    found[key] = Stored(asked, value)
                else:
                    bad.append((owner, key))
        if bad:
            log.warning("%d damaged answers in %s are asked again", len(bad), self._path)
        if self._writing and (found or bad):
            self._drop(bad)
            connection.execute(
                "UPDATE checkpoints SET hits = hits + ?, used = ? WHERE id = ?",
                [len(found) if count else 0, time.time(), owner],
            )
        return found

    def _put(self, producer: Producer, name: str, answers: Mapping[bytes, Stored]) -> None:
        now = time.time()
        with self._transaction() as connection:
            owner = self._known(producer)
            if owner is None:
                connection.execute(
                    "INSERT INTO checkpoints (weights, tokenizer, numerics, name, used) "
                    "VALUES (?, ?, ?, ?, ?)",
                    [*producer, name, now],
                )
                owner = self._known(producer)
            connection.executemany(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                [(owner, key, a, v, _crc(key, a, v), now) for key, (a, v) in answers.items()],
            )
            connection.execute(
                "UPDATE checkpoints SET used = ?, name = ? WHERE id = ?", [now, name, owner]
            )

    def _known(self, producer: Producer) -> int | None:
        """The id of a checkpoint; another process may have pruned it, so it is asked each time."""
        row = (
            self._connection()
            .execute(
                "SELECT id FROM checkpoints WHERE weights = ? AND tokenizer = ? AND numerics = ?",
                producer,
            )
            .fetchone()
        )
        return int(row[0]) if row else None

    def _drop(self, keys: Iterable[tuple[int, bytes]]) -> None:
        self._connection().executemany(
            "DELETE FROM answers WHERE checkpoint = ? AND key = ?", list(keys)
        )

    def _drop_oldest(self, size: int) -> int:
        connection = self._connection()
        total = sum(holding.bytes for holding in self.holdings())
        gone: list[tuple[int, bytes]] = []
        for owner, key, length in connection.execute(
            "SELECT checkpoint, key, length(value) + length(key) FROM answers ORDER BY stored"
        ):
            if total <= size:
                break
            total -= length
            gone.append((owner, key))
        self._drop(gone)
        return len(gone)

    def _connection(self) -> sqlite3.Connection:
        if self._open is None:
            self._open = self._connect()
        return self._open

    def _connect(self) -> sqlite3.Connection:
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self._path or ":memory:", timeout=PATIENCE, isolation_level=None
        )
        _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"))
        connection.execute("PRAGMA synchronous = NORMAL")
        _patiently(lambda: connection.executescript(_SCHEMA))
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _guarded(self, action: Callable[[], T], fallback: T) -> T:
        """The action's result; whatever is wrong with the file is dealt with here."""
        try:
            return action()
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if code in _DAMAGED:
                self._set_aside(error)
            else:
                self._stop(str(error))
        except OSError as error:
            self._stop(error.strerror or str(error))
        return fallback

    def _set_aside(self, error: Exception) -> None:
        """Rename a damaged file, so that a fresh one is begun when it is needed."""
        self.close()
        if self._path is None or not self._path.exists():
            return
        aside = next(
            path
            for n in count(1)
            if not (path := self._path.with_name(f"{FILE}.damaged{n}")).exists()
        )
        log.warning("the store is damaged (%s): set aside as %s, begun afresh", error, aside)
        try:
            self._path.rename(aside)
            for ending in ("-wal", "-shm"):
                self._path.with_name(FILE + ending).unlink(missing_ok=True)
        except OSError as problem:
            self._stop(problem.strerror or str(problem))

    def _stop(self, reason: str) -> None:
        """Go on without storing; said once."""
        if self._writing:
            log.warning("answers are not stored from here on: %s (%s)", reason, self._path)
        self._writing = False


def _crc(key: bytes, asked: int, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key, asked & 0xFFFFFFFF))


def _patiently(action: Callable[[], object]) -> None:
    """Try until a lock is gone: changing the journal does not wait for other processes itself."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            locked = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not locked or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
