"""The leaderboard of the page: rows of `harness leaderboard`, without columns that say nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis.leaderboard import rows
from harness.analysis.paper import published
from harness.records.record import Record
from harness.report.number_format import number
from harness.report.page.columns import clip

HEAD = ("model", "digest", "parameters", "protocol", "rows", "dtype", "device", "context",
        "variant", "origin")  # fmt: skip
LONGEST = 80  # characters of a text cell


@dataclass(frozen=True, slots=True)
class Column:
    """One column: of text and counts, or of scores of a benchmark."""

    name: str
    task: str  # empty for columns about the checkpoint


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown, and what it is sorted by."""

    text: str
    key: float | None  # None: by the text


@dataclass(frozen=True, slots=True)
class Board:
    """A table to sort and to filter."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    shared: tuple[tuple[str, str], ...]  # what is the same in all rows, so it has no column
    tasks: tuple[str, ...]


def board(records: Sequence[Record]) -> Board:
    """All scores of all records, a row a checkpoint and protocol."""
    table = rows(records)
    units = {_column(r, s.column, s.metric): s.unit for r in records for s in r.scores}
    tasks = {_column(r, s.column, s.metric): r.task for r in records for s in r.scores}
    names = [name for name in table[0] if name in HEAD or name in tasks]
    filled = [name for name in names if any(row[name] != "" for row in table)]
    same = [
        name
        for name in filled
        if name in HEAD[1:] and len(table) > 1 and len({str(row[name]) for row in table}) == 1
    ]
    shown = [name for name in filled if name not in same]
    return Board(
        tuple(Column(name, tasks.get(name, "")) for name in shown),
        tuple(
            tuple(_cell(_short(row, name), units.get(name, "")) for name in shown) for row in table
        ),
        tuple((name, _cell(table[0][name], "").text) for name in same),
        tuple(published.in_order(dict.fromkeys(tasks[name] for name in shown if name in tasks))),
    )


def _column(record: Record, column: str | None, metric: str) -> str:
    return column or f"{record.task} {metric}"


def _short(row: dict[str, Any], name: str) -> Any:
    """A row's value; of a model that is a path the last part, its digest stands beside it."""
    return Path(row[name]).name or row[name] if name == "model" else row[name]


def _cell(value: Any, unit: str) -> Cell:
    if value == "":
        return Cell("", None)
    if isinstance(value, float):
        return Cell(number(value, unit), value)
    if isinstance(value, int):
        return Cell(f"{value:,}", value)
    return Cell(clip(str(value), LONGEST), None)
