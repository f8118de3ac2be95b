"""The leaderboard of the page: the rows of `harness leaderboard`, without uniform columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis.leaderboard import rows
from harness.analysis.paper import published
from harness.records.record import Record
from harness.report.page.columns import clip

ABOUT_CHECKPOINT = ("model", "digest", "parameters", "protocol", "rows", "dtype", "device",
                    "context", "variant", "origin")  # fmt: skip
MAX_CELL_CHARS = 80


@dataclass(frozen=True, slots=True)
class Board:
    """A table that can be sorted and filtered."""

    columns: dict[str, str]  # name -> its benchmark; empty for facts about the checkpoint
    rows: list[dict[str, Any]]
    shared: dict[str, Any]  # facts that are the same in all rows
    units: dict[str, str]  # by column
    tasks: list[str]


def board(records: Sequence[Record]) -> Board:
    """All scores of all records, one row per checkpoint and protocol."""
    table = [
        {name: _shortened(name, value) for name, value in row.items()} for row in rows(records)
    ]
    scores = [
        (s.column or f"{r.task} {s.metric}", r.task, s.unit) for r in records for s in r.scores
    ]
    task_of = dict.fromkeys(ABOUT_CHECKPOINT, "") | {name: task for name, task, _ in scores}
    names = [name for name in table[0] if name in task_of and any(row[name] != "" for row in table)]
    uniform = [
        name
        for name in names
        if name in ABOUT_CHECKPOINT[1:]
        and len(table) > 1
        and len({str(row[name]) for row in table}) == 1
    ]
    columns = {name: task_of[name] for name in names if name not in uniform}
    return Board(
        columns,
        table,
        {name: table[0][name] for name in uniform},
        {name: unit for name, _, unit in scores},
        published.in_order(dict.fromkeys(task for task in columns.values() if task)),
    )


def _shortened(name: str, value: Any) -> Any:
    """A text of at most MAX_CELL_CHARS; of a model that is a path, the last part."""
    if not isinstance(value, str):
        return value
    return clip(Path(value).name or value if name == "model" else value, MAX_CELL_CHARS)
