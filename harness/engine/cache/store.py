"""Stored answers: bytes under (checkpoint, key) in the file of the response cache.

`response_cache` gives the bytes their meaning. The store only saves time: damaged answers are
dropped and computed again.
"""

import logging
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.engine.cache.sqlite_file import Damage, SqliteFile, transaction
from harness.engine.checkpoint.digest import cache_root

log = logging.getLogger(__name__)

FILE_NAME = "answers.sqlite"
FOLDER_NAME = "answers"  # in the user's cache
_KEYS_PER_QUERY = 500
_MAX_TIME = 253402300799.0  # the end of the year 9999, in seconds since 1970
_KEY_COLUMNS = ("weights", "tokenizer", "numerics")
_IS_NAMED = " AND ".join(f"typeof({column}) = 'text'" for column in _KEY_COLUMNS)
# Columns of `checkpoints` -> their value, or a neutral one if they have a wrong type.
_SOUND = {
    "name": "CASE typeof(name) WHEN 'text' THEN name ELSE 'unknown' END",
    "hits": "CASE typeof(hits) WHEN 'integer' THEN hits ELSE 0 END",
    "used": "CASE WHEN typeof(used) = 'real' AND used BETWEEN 0 AND "
    f"{_MAX_TIME} THEN used ELSE 0.0 END",
    **{c: f"CASE typeof({c}) WHEN 'text' THEN {c} ELSE 'unknown' END" for c in _KEY_COLUMNS},
}
_IS_BEYOND_SIZE = """
(checkpoint, key) IN (SELECT checkpoint, key FROM (
    SELECT checkpoint, key, sum(length(value) + length(key))
        OVER (ORDER BY stored DESC ROWS UNBOUNDED PRECEDING) AS size_with_newer
    FROM answers
) WHERE size_with_newer > ?)
"""


class CheckpointKey(NamedTuple):
    """Everything but the query that an answer depends on."""

    weights: str  # digest
    tokenizer: str  # digest
    numerics: str


class StoredAnswer(NamedTuple):
    """An answer as bytes."""

    tokens: int  # how many are fed to compute it alone
    value: bytes


Check = Callable[[bytes, StoredAnswer], object]
"""Called with a key and its answer; raises ValueError if the answer is damaged."""


def _accept(key: bytes, answer: StoredAnswer) -> None:
    """The check that refuses nothing."""


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """What is stored of one checkpoint."""

    id: int
    name: str  # most recent name
    key: CheckpointKey
    answers: int
    bytes: int
    hits: int  # answers read from the store
    used: float  # seconds since 1970


def default_folder() -> Path:
    """The folder of the response cache unless `--cache` names another."""
    return cache_root() / FOLDER_NAME


class Store(SqliteFile):
    """Answers in a folder, or in memory if `folder` is None.

    No problem with the file is raised: `SqliteFile` logs it.
    """

    def __init__(self, folder: Path | None) -> None:
        super().__init__(folder / FILE_NAME if folder else None)

    def get(
        self,
        checkpoint: CheckpointKey,
        keys: Iterable[bytes],
        *,
        count: bool = True,
        check: Check = _accept,
    ) -> dict[bytes, StoredAnswer]:
        """Return the stored answers to some keys, checked; damaged ones are dropped.

        The answers count as hits if `count` is true.
        """
        answers: dict[bytes, StoredAnswer] = {}
        damaged: list[tuple[int, bytes]] = []

        def read(connection: sqlite3.Connection) -> int | None:
            checkpoint_id = _checkpoint_id(connection, checkpoint)
            if checkpoint_id is None:
                return None
            for key, *row in _rows(connection, checkpoint_id, list(keys)):
                answer = _sound_answer(check, key, *row)
                if answer is None:
                    damaged.append((checkpoint_id, key))
                else:
                    answers[key] = answer
            return checkpoint_id

        def note_use(connection: sqlite3.Connection) -> None:
            _delete(connection, damaged)
            connection.execute(
                "UPDATE checkpoints SET hits = hits + ?, used = ? WHERE id = ?",
                [len(answers) if count else 0, time.time(), checkpoint_id],
            )

        checkpoint_id = self.run(read, None)
        if damaged:
            message = "%d damaged answers in the response cache %s are computed again"
            log.warning(message, len(damaged), self.path)
        if self.writable and (answers or damaged):
            self.run(note_use, None)
        return answers

    def put(
        self, checkpoint: CheckpointKey, name: str, answers: Mapping[bytes, StoredAnswer]
    ) -> None:
        """Store answers, all of them or none; answers that are already stored stay."""
        now = time.time()

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute(
                    "INSERT INTO checkpoints (weights, tokenizer, numerics, name, used) "
                    "VALUES (?, ?, ?, ?, ?) ON CONFLICT (weights, tokenizer, numerics) "
                    "DO UPDATE SET name = excluded.name, used = excluded.used",
                    [*checkpoint, name, now],
                )
                checkpoint_id = _checkpoint_id(connection, checkpoint)
                connection.executemany(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (checkpoint_id, key, *answer, _crc(key, *answer), now)
                        for key, answer in answers.items()
                    ],
                )

        if self.writable and answers:
            self.run(write, None)

    def entries(self) -> list[CheckpointEntry]:
        """What is stored of each checkpoint, the most recently used first."""
        query = (
            f"SELECT id, {', '.join(_SOUND.values())}, count(key), "
            "coalesce(sum(length(value) + length(key)), 0) FROM checkpoints "
            "LEFT JOIN answers ON checkpoint = id GROUP BY id ORDER BY checkpoints.used DESC"
        )

        def read(connection: sqlite3.Connection) -> list[CheckpointEntry]:
            return [
                CheckpointEntry(row[0], row[1], CheckpointKey(*row[4:7]), *row[7:], *row[2:4])
                for row in connection.execute(query)
            ]

        return self.run(read, [])

    def drop_damaged(self, check: Check = _accept) -> int | None:
        """Drop damaged answers if the file can be written; return how many there are.

        `check` is called with every answer. Returns None if the whole file is damaged.
        """

        def find(connection: sqlite3.Connection) -> list[tuple[int, bytes]]:
            if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise Damage("quick_check failed")
            with transaction(connection, "DEFERRED"):  # both queries see one state of the file
                named = connection.execute(f"SELECT id FROM checkpoints WHERE {_IS_NAMED}")
                checkpoint_ids = {row[0] for row in named}
                rows = connection.execute("SELECT checkpoint, key, asked, value, crc FROM answers")
                return [
                    (checkpoint_id, key)
                    for checkpoint_id, key, *row in rows
                    if checkpoint_id not in checkpoint_ids
                    or _sound_answer(check, key, *row) is None
                ]

        damaged = self.run(find, None)
        if damaged and self.writable:
            self.run(lambda connection: _delete(connection, damaged), None)
        if self.writable:
            self.run(_repair_checkpoints, None)
        return None if damaged is None else len(damaged)

    def prune(
        self,
        *,
        before: float | None = None,
        checkpoints: Sequence[int] = (),
        size: int | None = None,
    ) -> int:
        """Drop answers; return how many.

        Args:
            before: drop answers stored earlier than this, in seconds since 1970.
            checkpoints: drop the answers of these, by id.
            size: drop the oldest answers until at most this many bytes are left.
        """
        deletions: list[tuple[str, float]] = [("checkpoint = ?", i) for i in checkpoints]
        if before is not None:
            deletions.append(("stored < ?", before))
        if size is not None:
            deletions.append((_IS_BEYOND_SIZE, size))

        def drop(connection: sqlite3.Connection) -> int:
            dropped = 0
            for condition, value in deletions:
                query = f"DELETE FROM answers WHERE {condition}"
                dropped += connection.execute(query, [value]).rowcount
            connection.execute(
                "DELETE FROM checkpoints WHERE id NOT IN (SELECT checkpoint FROM answers)"
            )
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return dropped

        return self.run(drop, 0)


def _checkpoint_id(connection: sqlite3.Connection, checkpoint: CheckpointKey) -> int | None:
    """The id of a checkpoint; not remembered, for another process may have pruned it."""
    query = "SELECT id FROM checkpoints WHERE weights = ? AND tokenizer = ? AND numerics = ?"
    row = connection.execute(query, checkpoint).fetchone()
    return int(row[0]) if row else None


def _rows(
    connection: sqlite3.Connection, checkpoint_id: int, keys: Sequence[bytes]
) -> Iterable[tuple[Any, ...]]:
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        batch = keys[start : start + _KEYS_PER_QUERY]
        marks = ",".join("?" * len(batch))
        query = (
            f"SELECT key, asked, value, crc FROM answers WHERE checkpoint = ? AND key IN ({marks})"
        )
        yield from connection.execute(query, [checkpoint_id, *batch])


def _delete(connection: sqlite3.Connection, keys: Iterable[tuple[int, bytes]]) -> None:
    connection.executemany("DELETE FROM answers WHERE checkpoint = ? AND key = ?", keys)


def _repair_checkpoints(connection: sqlite3.Connection) -> None:
    """Drop checkpoints that nothing can find, and reset columns of a wrong type."""
    connection.execute(f"DELETE FROM checkpoints WHERE NOT ({_IS_NAMED})")
    repairs = ", ".join(f"{column} = {value}" for column, value in _SOUND.items())
    connection.execute(f"UPDATE checkpoints SET {repairs}")


def _sound_answer(check: Check, key: Any, tokens: Any, value: Any, crc: Any) -> StoredAnswer | None:
    """The answer in a row of the file; None if it is damaged."""
    if [type(x) for x in (key, tokens, value)] != [bytes, int, bytes] or tokens < 0:
        return None
    if _crc(key, tokens, value) != crc:
        return None
    answer = StoredAnswer(tokens, value)
    try:
        check(key, answer)
    except ValueError:
        return None
    return answer


def _crc(key: bytes, tokens: int, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key, tokens & 0xFFFFFFFF))
