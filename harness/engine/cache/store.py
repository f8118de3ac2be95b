"""Answers on disk: a SQLite file that survives being killed and is shared by several processes.

A store keeps bytes under (checkpoint, key); `response_cache` says what they mean. It only
ever saves time: a damaged file is set aside and a fresh one begun, damaged answers are dropped,
and where nothing can be written the run still reads what is there and stores no more.
"""

import logging
import math
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from harness.engine.cache import sqlite_file
from harness.engine.checkpoint.digest import cache_root

log = logging.getLogger(__name__)

FILE_NAME = "answers.sqlite"
FOLDER_NAME = "answers"  # in the user's cache
_AT_ONCE = 500  # keys of one query
_LATEST = 253402300799.0  # the end of year 9999, in seconds since 1970
# A checkpoint that can be known again.
_NAMED = "typeof(weights) = 'text' AND typeof(tokenizer) = 'text' AND typeof(numerics) = 'text'"
T = TypeVar("T")


class CheckpointKey(NamedTuple):
    """What an answer depends on besides its question."""

    weights: str  # digest
    tokenizer: str  # digest
    numerics: str


class StoredAnswer(NamedTuple):
    """One answer as bytes."""

    asked: int  # tokens that it would cost to ask separately
    value: bytes


Check = Callable[[bytes, StoredAnswer], object]
"""Called with a key and what is stored under it; a ValueError says that it is damaged."""


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """What a store has of one checkpoint."""

    id: int
    name: str  # under which it was used last
    key: CheckpointKey
    answers: int
    bytes: int
    hits: int  # answers that were taken from here
    used: float  # seconds since 1970


def default_folder() -> Path:
    """Where answers are stored if nobody says otherwise."""
    return cache_root() / FOLDER_NAME


class Store:
    """A store in a folder, or in memory where there is none.

    Raises nothing because of its file: what is wrong with it is a notice.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / FILE_NAME if folder else None
        self._open: sqlite3.Connection | None = None
        self._writing = True
        self._timeout = sqlite_file.TIMEOUT

    @property
    def path(self) -> Path | None:
        """The file; None in memory."""
        return self._path

    @property
    def writing(self) -> bool:
        """Whether answers are stored; not any more where the file could not be written."""
        return self._writing

    def get(
        self,
        producer: CheckpointKey,
        keys: Iterable[bytes],
        *,
        count: bool = True,
        check: Check = lambda key, stored: None,
    ) -> dict[bytes, StoredAnswer]:
        """The answers to those keys that are there, and sound.

        Args:
            producer: whose answers.
            keys: of the questions.
            count: whether they count as taken from here.
            check: refuses answers that do not fit their question; they are damaged as well.
        """
        found: dict[bytes, StoredAnswer] = {}
        bad: list[tuple[int, bytes]] = []
        owner = self._guarded(lambda: self._read(producer, keys, check, found, bad), None)
        if bad:
            log.warning("%d damaged answers in %s are asked again", len(bad), self._path)
        if self._writing and (found or bad):
            taken = len(found) if count else 0
            self._guarded(lambda: self._note(owner, taken, bad), None)
        return found

    def put(
        self, producer: CheckpointKey, name: str, answers: Mapping[bytes, StoredAnswer]
    ) -> None:
        """Keep answers, all of them or none; those that are there already stay."""
        if self._writing and answers:
            self._guarded(lambda: self._put(producer, name, answers), None)

    def entries(self) -> list[CheckpointEntry]:
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
        return [_holding(row) for row in rows]

    def damaged(self, check: Check = lambda key, stored: None) -> int | None:
        """How many answers are damaged, and dropped if the file can be written.

        Args:
            check: refuses answers that cannot be.

        Returns:
            None if the whole file is damaged.
        """

        def find() -> list[tuple[int, bytes]]:
            if self._connection().execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite_file.Damage("quick_check failed")
            with self._transaction("DEFERRED") as connection:  # one state of the file, not two
                known = connection.execute(f"SELECT id FROM checkpoints WHERE {_NAMED}")
                owners = {row[0] for row in known}
                rows = connection.execute("SELECT checkpoint, key, asked, value, crc FROM answers")
                return [
                    (owner, key)
                    for owner, key, asked, value, crc in rows
                    if owner not in owners or _sound(key, asked, value, crc, check) is None
                ]

        bad = self._guarded(find, None)
        if bad and self._writing:
            self._guarded(lambda: self._drop(bad), None)
        if self._writing:
            self._guarded(self._repair, None)
        return None if bad is None else len(bad)

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

    def _read(
        self,
        producer: CheckpointKey,
        keys: Iterable[bytes],
        check: Check,
        found: dict[bytes, StoredAnswer],
        bad: list[tuple[int, bytes]],
    ) -> int | None:
        """Fill in what is there and what of it is damaged; the checkpoint's id."""
        owner = self._known(producer)
        wanted = list(keys) if owner is not None else []
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            for key, asked, value, crc in self._connection().execute(
                "SELECT key, asked, value, crc FROM answers "
                f"WHERE checkpoint = ? AND key IN ({marks})",
                [owner, *part],
            ):
                stored = _sound(key, asked, value, crc, check)
                if stored is None:
                    bad.append((owner or 0, key))
                else:
                    found[key] = stored
        return owner

    def _note(self, owner: int | None, taken: int, bad: Sequence[tuple[int, bytes]]) -> None:
        """Write down what was taken, and drop what is damaged."""
        self._drop(bad)
        self._connection().execute(
            "UPDATE checkpoints SET hits = hits + ?, used = ? WHERE id = ?",
            [taken, time.time(), owner],
        )

    def _repair(self) -> None:
        """Take out what is of a wrong type where checkpoints are listed."""
        connection = self._connection()
        connection.execute(f"DELETE FROM checkpoints WHERE NOT ({_NAMED})")
        for column, kind, value in (
            ("name", "text", "unknown"),
            ("hits", "integer", 0),
            ("used", "real", 0.0),
        ):
            connection.execute(
                f"UPDATE checkpoints SET {column} = ? WHERE typeof({column}) <> ?", [value, kind]
            )

    def _put(
        self, producer: CheckpointKey, name: str, answers: Mapping[bytes, StoredAnswer]
    ) -> None:
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

    def _known(self, producer: CheckpointKey) -> int | None:
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
        total = sum(holding.bytes for holding in self.entries())
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
        """A connection that writes; one that only reads where that fails."""
        if self._writing:
            try:
                return sqlite_file.open_to_write(self._path, self._timeout)
            except (sqlite3.Error, OSError) as error:
                if sqlite_file.damaged(error):
                    raise
                self._stop(error)
        return sqlite_file.open_to_read(self._path, self._timeout)

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        connection.execute(f"BEGIN {kind}")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls back where a disk is full
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _guarded(self, action: Callable[[], T], fallback: T) -> T:
        """The action's result; whatever is wrong with the file is dealt with here."""
        try:
            return action()
        except (sqlite3.Error, OSError) as error:
            if sqlite_file.damaged(error) and self._writing:
                self._set_aside(error)
            else:
                self._stop(error)
        return fallback

    def _set_aside(self, error: Exception) -> None:
        """Rename a damaged file, so that a fresh one is begun when it is needed."""
        self.close()
        if self._path is None or not self._path.exists():
            return
        aside = next(
            path
            for n in count(1)
            if not (path := self._path.with_name(f"{FILE_NAME}.damaged{n}")).exists()
        )
        log.warning("the store is damaged (%s): set aside as %s, begun afresh", error, aside)
        try:
            self._path.rename(aside)
            for ending in ("-wal", "-shm"):
                self._path.with_name(FILE_NAME + ending).unlink(missing_ok=True)
        except OSError as problem:
            self._stop(problem)

    def _stop(self, error: Exception) -> None:
        """Go on without storing; said once. Nor is a lock waited for again."""
        if self._writing:
            reason = error.strerror if isinstance(error, OSError) else None
            log.warning(
                "answers are not stored from here on: %s (%s)", reason or str(error), self._path
            )
        self._writing = False
        if sqlite_file.busy(error):
            self._timeout = 0.0
            if self._open is not None:
                self._open.execute("PRAGMA busy_timeout = 0")


def _sound(key: Any, asked: Any, value: Any, crc: Any, check: Check) -> StoredAnswer | None:
    """A row of the file as an answer; None if it is damaged."""
    if [type(x) for x in (key, asked, value)] != [bytes, int, bytes] or asked < 0:
        return None
    if _crc(key, asked, value) != crc:
        return None
    stored = StoredAnswer(asked, value)
    try:
        check(key, stored)
    except ValueError:
        return None
    return stored


def _holding(row: Sequence[Any]) -> CheckpointEntry:
    """A row of the file; what is of a wrong type there stands for nothing."""
    owner, name, *producer, answers, size, hits, used = row
    sound = isinstance(used, float) and math.isfinite(used) and 0 <= used <= _LATEST
    return CheckpointEntry(
        owner,
        name if isinstance(name, str) else "unknown",
        CheckpointKey(*(text if isinstance(text, str) else "unknown" for text in producer)),
        answers,
        int(size),
        hits if isinstance(hits, int) else 0,
        used if sound else 0.0,
    )


def _crc(key: bytes, asked: int, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key, asked & 0xFFFFFFFF))
