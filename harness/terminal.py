"""What a person sees: results on standard output, progress and notices on standard error."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from harness.core import Score
from harness.report import paper
from harness.report.record import Record
from harness.report.table3 import Cell, remarks

WIDTH = 120  # of tables where standard output is no terminal

OUT = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


def start_logging() -> None:
    """Show this program's notices on standard error."""
    handler = RichHandler(console=ERR, show_time=False, show_path=False, show_level=False)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    logger = logging.getLogger("harness")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class Bar:
    """One task's progress in tokens."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=None, rate="")

    def advance(self, done: int, total: int) -> None:
        """Take the tokens done so far and in all."""
        elapsed = self._progress.tasks[self._task].elapsed or 0.0
        rate = f"{done / elapsed:,.0f}/s" if elapsed > 0 and done else ""
        self._progress.update(self._task, completed=done, total=total, rate=rate)


@contextmanager
def progress(name: str) -> Iterator[Bar]:
    """A bar on standard error, gone when the task is done; nothing if that is no terminal."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bar:
        yield Bar(bar, name)


def number(value: float | None, unit: str = "") -> str:
    """Four significant digits, as the paper prints them: 2 decimals, bits with 4."""
    if value is None:
        return "-"
    if unit.startswith("bits"):
        return f"{value:.4f}"
    return f"{value:.2f}" if abs(value) < 1e5 else f"{value:.3g}"


def _interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return ""
    return f"{number(score.low, score.unit)} to {number(score.high, score.unit)}"


def show_record(record: Record) -> None:
    """One benchmark's scores, each with its interval, then what produced them."""
    model = record.model
    selection = "" if record.limit is None else f" of {record.data['rows']}, seed {record.seed}"
    OUT.print(
        f"{record.task} v{record.version}  {model['name']} ({model['parameters']:,} parameters)  "
        f"{record.examples:,} examples{selection}  {record.seconds:.1f} s",
        markup=False,
    )
    size = paper.nearest_size(int(model["parameters"]))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2))
    for name, justify in (("score", "left"), ("value", "right"), ("unit", "left"),
                          ("95 % interval", "right"), (f"paper {size}", "right")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for score in record.scores:
        beside = paper.published(score.column, size) if score.column else None
        table.add_row(
            score.metric,
            number(score.value, score.unit),
            score.unit,
            _interval(score),
            number(beside) if beside is not None else "",
        )
    OUT.print(table)
    tokens = record.tokens
    OUT.print(
        f"tokens: {tokens.asked:,} asked, {tokens.computed:,} computed, {tokens.scored:,} scored"
        f" ({tokens.computed / max(record.seconds, 1e-9):,.0f}/s)",
        markup=False,
    )
    for name, value in record.notes.items():
        OUT.print(f"{name}: {value:,g}", markup=False)
    for line in remarks([record]):
        OUT.print(f"note: {line}", markup=False)
    OUT.print(f"signature: {record.signature}", markup=False)


def show_table3(cells: Sequence[Cell], records: Sequence[Record], size: str) -> None:
    """The paper's table for one checkpoint."""
    if not records:
        return
    model = records[0].model
    OUT.print(
        f"Table 3 of Radford et al. 2019 for {model['name']} "
        f"({model['parameters']:,} parameters, {model['dtype']}, context {model['context']}, "
        f"{model['device']}), beside the paper's {size}",
        markup=False,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 1))
    table.add_column("column")
    for name in ("SOTA 2019", f"paper {size}", "ours", "95 % interval", "difference"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    table.add_column("examples", justify="right")
    table.add_column("tokens/s", justify="right")
    for cell in cells:
        table.add_row(*_row(cell))
    OUT.print(table)
    seconds = sum(record.seconds for record in records)
    OUT.print(f"{seconds:.0f} s in all", markup=False)
    for reason in dict.fromkeys(cell.reason for cell in cells if cell.reason):
        OUT.print(f"not run: {reason}", markup=False)
    for line in remarks(records):
        OUT.print(f"note: {line}", markup=False)
    for record in records:
        OUT.print(f"signature: {record.signature}", markup=False)


def _row(cell: Cell) -> list[str]:
    beside = [number(cell.state_of_the_art), number(cell.paper)]
    score, record = cell.score, cell.record
    if score is None or record is None:
        return [cell.column, *beside, "-", "", "", "not run", "", ""]
    gap = cell.difference
    points = "" if gap is None else f"{gap:+.2f} pt" if score.unit == "%" else f"{gap:+.1%}"
    return [
        cell.column,
        *beside,
        number(score.value, score.unit),
        _interval(score),
        points,
        cell.verdict,
        f"{record.examples:,}",
        f"{cell.tokens_per_second or 0:,.0f}",
    ]


def show_mapping(title: str, facts: Mapping[str, str]) -> None:
    """A title and aligned `name  value` lines."""
    OUT.print(title, markup=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in facts.items():
        table.add_row(name, Text(value))
    OUT.print(table)
