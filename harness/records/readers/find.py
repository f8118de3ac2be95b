"""Find the files of runs in a folder, and the reader of each that another program wrote.

A reader is a module with the names of `Reader`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from harness.errors import RecordError
from harness.records import schema
from harness.records.outcomes import Outcomes
from harness.records.readers import inspect_ai, inspect_log, lm_eval, nemo
from harness.records.readers.reported import Results
from harness.records.record import Record


class Reader(Protocol):
    """What reads the results of one program."""

    ORIGIN: str
    OTHER_FILES: frozenset[str]
    """Names of JSON files that the program writes next to its results."""

    def recognises(self, value: Any) -> bool:
        """Whether a parsed JSON file holds results of the program."""

    def attempt(self, results: Results, path: Path) -> tuple[str, Any]:
        """Which run a file is an attempt at, and its rank among the attempts in a folder."""

    def records(
        self, results: Results, path: Path, *, samples: bool
    ) -> list[tuple[Record, Outcomes]]:
        """The records in a file, with the outcomes of its samples if they are read.

        The scores computed from the outcomes must be those of the file.
        """


class Found(NamedTuple):
    """A file with results."""

    path: Path
    reader: Reader | None  # None: the harness wrote it
    results: Results


READERS: tuple[Reader, ...] = (lm_eval, inspect_ai, nemo)
ORIGINS = tuple(reader.ORIGIN for reader in READERS)
_SKIPPED = frozenset().union(*(reader.OTHER_FILES for reader in READERS))


def find(path: Path) -> list[Found]:
    """The file at a path, or the files in a folder; of several attempts at one run the last."""
    if not path.is_dir():
        return [_found(path)] if path.exists() else []
    files = (*path.rglob("*.json"), *path.rglob(f"*{inspect_log.SUFFIX}"))
    return _last_attempts(_found(file) for file in sorted(files) if file.name not in _SKIPPED)


def _found(path: Path) -> Found:
    if path.suffix == inspect_log.SUFFIX:
        return Found(path, inspect_ai, inspect_log.read_header(path))
    if path.name == nemo.SAMPLES:
        path = nemo.results_file(path)
    value = _parsed(schema.read_bytes(path))
    reader = next((reader for reader in READERS if reader.recognises(value)), None)
    return Found(path, reader, value if reader else {})


def _parsed(data: bytes) -> Any:
    """A JSON value, however it is written; None if it is damaged."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _last_attempts(files: Iterable[Found]) -> list[Found]:
    """The files without those that a later attempt at the same run replaces."""
    kept: list[Found] = []
    last: dict[tuple[str, str], tuple[Any, Found]] = {}
    for file in files:
        if not file.reader:
            kept.append(file)
            continue
        run, rank = file.reader.attempt(file.results, file.path)
        key = (file.reader.ORIGIN, run)
        if key in last and rank == last[key][0]:
            raise RecordError(
                f"{str(last[key][1].path)!r} and {str(file.path)!r} hold the same run of "
                f"{file.reader.ORIGIN}; give one of them"
            )
        if key not in last or rank > last[key][0]:
            last[key] = (rank, file)
    return sorted((*kept, *(file for _, file in last.values())), key=lambda file: file.path)
