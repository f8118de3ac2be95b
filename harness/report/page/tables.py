"""The paper's tables with several columns of runs, and the leaderboard."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.analysis.leaderboard import rows as leaderboard_rows
from harness.analysis.paper import published, section3
from harness.analysis.paper.section3 import System
from harness.analysis.paper.table3 import Cell, cells
from harness.records.record import Record, short_name
from harness.report.page.columns import Column, clip

ABOUT_CHECKPOINT = ("model", "step", "digest", "parameters", "protocol", "rows", "dtype", "device",
                    "context", "variant", "origin")  # fmt: skip
MAX_CELL_CHARS = 80


@dataclass(frozen=True, slots=True)
class PaperTable:
    """Table 3, or the scores of section 3."""

    labels: tuple[str, ...]  # of the columns of runs that have any of the scores
    sizes: tuple[str, ...]  # of the paper's models
    rows: tuple[tuple[Cell, ...], ...]  # one row per column of the paper, one cell per label


def paper_table(columns: Sequence[Column], names: Sequence[str]) -> PaperTable | None:
    """The paper's columns of these names; None if no run has a score for them."""
    sizes: set[str] = set()
    labels, rows = [], []
    for column in columns:
        size = published.nearest_size(column.records[0].parameters)
        row = cells(column.records, size, {}, names)
        if any(cell.score for cell in row):
            labels.append(column.label)
            rows.append(row)
            sizes |= {size, *(cell.size for cell in row if cell.paper is not None)}
    if not rows:
        return None
    ordered = tuple(size for size in published.SIZES if size in sizes)
    return PaperTable(tuple(labels), ordered, tuple(zip(*rows, strict=True)))


def summary_tables(columns: Sequence[Column]) -> list[tuple[str, list[System], str]]:
    """Table 4 for each column with summaries: label, systems, and why they differ."""
    summaries = []
    for column in columns:
        for record in column.records:
            if record.task == "cnn-dm" and record.origin == "harness":
                labelled = replace(record, model={**record.model, "name": column.label})
                note = section3.distance(record)
                summaries.append((column.label, section3.table4(labelled), note))
    return summaries


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
        {name: _shortened(name, value) for name, value in row.items()}
        for row in leaderboard_rows(records)
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
    return clip(short_name(value) if name == "model" else value, MAX_CELL_CHARS)
