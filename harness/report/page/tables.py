"""The paper's tables for several columns of runs beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.analysis.paper import published as paper
from harness.analysis.paper import section3
from harness.analysis.paper.table3 import Cell, cells, fold, remarks
from harness.analysis.scaling import parameters
from harness.records.record import Record
from harness.report.number_format import distance, interval, number
from harness.report.page.columns import Column


@dataclass(frozen=True, slots=True)
class Ours:
    """A cell of one of our columns."""

    value: str  # empty: not run
    interval: str
    difference: str  # to the paper
    verdict: str
    examples: int


@dataclass(frozen=True, slots=True)
class Line:
    """One column of the paper, across."""

    column: str
    best: str  # prior state of the art
    published: tuple[str, ...]  # by size
    ours: tuple[Ours, ...]  # by side


@dataclass(frozen=True, slots=True)
class PaperTable:
    """Table 3, or the scores of section 3."""

    labels: tuple[str, ...]  # of the columns that have any of the scores
    sizes: tuple[str, ...]  # of the paper's models shown
    lines: tuple[Line, ...]


def paper_table(sides: Sequence[Column], columns: Sequence[str]) -> PaperTable | None:
    """The paper's columns with ours beside them; None if no run fills one."""
    sizes = [paper.nearest_size(parameters(side.records[0]) or 0) for side in sides]
    found = [
        (side, size, cells(side.records, size, {}, columns))
        for side, size in zip(sides, sizes, strict=True)
    ]
    ours = [each for each in found if any(cell.score for cell in each[2])]
    if not ours:
        return None
    used = {cell.size for _, _, row in ours for cell in row if cell.paper is not None}
    shown = tuple(size for size in paper.SIZES if size in used | {size for _, size, _ in ours})
    rows = [[row[place] for _, _, row in ours] for place in range(len(columns))]
    labels = tuple(side.label for side, _, _ in ours)
    return PaperTable(labels, shown, tuple(_line(row, shown) for row in rows))


def _line(row: Sequence[Cell], sizes: Sequence[str]) -> Line:
    column = row[0].column
    published = tuple(number(paper.published(column, size)) for size in sizes)
    return Line(column, number(row[0].state_of_the_art), published, tuple(map(_ours, row)))


def _ours(cell: Cell) -> Ours:
    score, record = cell.score, cell.record
    if score is None or record is None:
        return Ours("", "", "", "", 0)
    return Ours(
        number(score.value, score.unit),
        interval(score.low, score.high, score.unit),
        distance(score.value, cell.paper, score.unit),
        cell.verdict,
        record.examples,
    )


@dataclass(frozen=True, slots=True)
class Table4:
    """ROUGE of the paper's systems and of one of our columns."""

    side: str
    systems: tuple[tuple[str, bool, tuple[str, ...]], ...]  # name, published, values
    note: str


def tables4(sides: Sequence[Column]) -> list[Table4]:
    """Table 4 for each column that has summaries."""
    found = []
    for side in sides:
        for record in side.records:
            if record.task == "cnn-dm" and record.origin == "harness":
                systems = tuple(
                    (s.name, s.published, tuple(number(v) for v in s.values))
                    for s in section3.table4(_renamed(record, side.label))
                )
                found.append(Table4(side.label, systems, section3.distance(record)))
    return found


def _renamed(record: Record, name: str) -> Record:
    return replace(record, model={**record.model, "name": name})


@dataclass(frozen=True, slots=True)
class About:
    """What produced the numbers of one column."""

    label: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    signatures: tuple[str, ...]
    ending: str  # that the signatures share


def about(side: Column) -> About:
    """Facts about a column's checkpoint and runs."""
    records = side.records
    model = records[0].model
    heads, ending = fold([record.signature for record in records])
    facts = (
        ("model", str(model["name"])),
        ("weights", str(model["digest"])[:16]),
        ("parameters", f"{known:,}" if (known := parameters(records[0])) else "unknown"),
        ("number format", f"{model['dtype']} on {model.get('device', 'unknown')}"),
        ("context", f"{model['context']} tokens"),
        ("protocol", records[0].protocol),
        ("computed by", records[0].origin),
        ("benchmarks", str(len(records))),
        ("time", f"{sum(record.seconds for record in records):,.0f} s"),
        ("newest run", max(record.created for record in records)[:19].replace("T", " ")),
    )
    return About(side.label, facts, tuple(remarks(records)), tuple(heads), ending)
