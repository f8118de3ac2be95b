"""The paper's tables with several columns of runs, and the facts about each column."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.analysis.paper import published, section3
from harness.analysis.paper.section3 import System
from harness.analysis.paper.table3 import Cell, cells, fold, remarks
from harness.analysis.scaling import parameters
from harness.records.record import Record
from harness.report.page.columns import Column


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
        size = published.nearest_size(parameters(column.records[0]) or 0)
        row = cells(column.records, size, {}, names)
        if any(cell.score for cell in row):
            labels.append(column.label)
            rows.append(row)
            sizes |= {size, *(cell.size for cell in row if cell.paper is not None)}
    if not rows:
        return None
    ordered = tuple(size for size in published.SIZES if size in sizes)
    return PaperTable(tuple(labels), ordered, tuple(zip(*rows, strict=True)))


@dataclass(frozen=True, slots=True)
class SummaryTable:
    """Table 4: ROUGE of the paper's systems and of one column of runs."""

    label: str
    systems: list[System]
    note: str


def summary_tables(columns: Sequence[Column]) -> list[SummaryTable]:
    """Table 4 for each column with summaries."""
    summaries = []
    for column in columns:
        for record in column.records:
            if record.task == "cnn-dm" and record.origin == "harness":
                labelled = replace(record, model={**record.model, "name": column.label})
                systems = section3.table4(labelled)
                summaries.append(SummaryTable(column.label, systems, section3.distance(record)))
    return summaries


@dataclass(frozen=True, slots=True)
class About:
    """How the scores of one column were computed."""

    label: str
    records: list[Record]
    parameters: int | None
    notes: list[str]
    signatures: list[str]  # without the ending that all share
    ending: str


def about(column: Column) -> About:
    """The checkpoint and the runs of a column."""
    records = column.records
    signatures = fold([record.signature for record in records])
    return About(column.label, records, parameters(records[0]), remarks(records), *signatures)
