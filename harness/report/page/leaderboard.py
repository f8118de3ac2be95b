"""The leaderboard of the page: the rows of `harness leaderboard`, without uniform columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis.leaderboard import rows
from harness.analysis.paper import published
from harness.records.record import Record
from harness.report.number_format import number
from harness.report.page.columns import clip

ABOUT_CHECKPOINT = ("model", "digest", "parameters", "protocol", "rows", "dtype", "device",
                    "context", "variant", "origin")  # fmt: skip
MAX_CELL_CHARS = 80


@dataclass(frozen=True, slots=True)
class BoardCell:
    """A text and the number that it is sorted by."""

    text: str
    key: float | None  # None: sorted by its text


@dataclass(frozen=True, slots=True)
class Board:
    """A table that can be sorted and filtered."""

    columns: dict[str, str]  # name -> its benchmark; empty for facts about the checkpoint
    rows: list[list[BoardCell]]
    shared: dict[str, str]  # facts that are the same in all rows
    tasks: list[str]


def board(records: Sequence[Record]) -> Board:
    """All scores of all records, one row per checkpoint and protocol."""
    table = rows(records)
    scores = {
        s.column or f"{r.task} {s.metric}": (r.task, s.unit) for r in records for s in r.scores
    }
    names = [
        name
        for name in table[0]
        if (name in ABOUT_CHECKPOINT or name in scores) and any(row[name] != "" for row in table)
    ]
    uniform = [
        name
        for name in names
        if name in ABOUT_CHECKPOINT[1:]
        and len(table) > 1
        and len({str(row[name]) for row in table}) == 1
    ]
    columns = {name: scores.get(name, ("", ""))[0] for name in names if name not in uniform}
    return Board(
        columns,
        [
            [_cell(name, row[name], scores.get(name, ("", ""))[1]) for name in columns]
            for row in table
        ],
        {name: _cell(name, table[0][name], "").text for name in uniform},
        published.in_order(dict.fromkeys(task for task in columns.values() if task)),
    )


def _cell(name: str, value: Any, unit: str) -> BoardCell:
    if value == "":
        return BoardCell("", None)
    if isinstance(value, float):
        return BoardCell(number(value, unit), value)
    if isinstance(value, int):
        return BoardCell(f"{value:,}", value)
    text = Path(value).name or value if name == "model" else str(value)
    return BoardCell(clip(text, MAX_CELL_CHARS), None)
