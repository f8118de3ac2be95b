"""What a person sees: results on standard output, progress and notices on standard error."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from harness.core import Score
from harness.report import paper
from harness.report.record import Record
from harness.report.table3 import Cell, fold, remarks, unusual
from harness.task import Task

WIDTH = 120  # of tables where standard output is no terminal
NARROW = 100  # below this the table leaves out the prior state of the art

OUT = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """One line on standard error."""
    ERR.print(f"note: {text}", markup=False)


class _Notes(logging.Handler):
    """Log messages as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def start_logging() -> None:
    """Show this program's notices on standard error."""
    logger = logging.getLogger("harness")
    logger.handlers = [_Notes()]
    logger.setLevel(logging.INFO)


class Bar:
    """One task's progress in tokens."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._name = name
        self._progress = progress
        self._task = progress.add_task(name, total=None, amount="reading", rate="")

    def advance(self, done: int, total: int) -> None:
        """Take the tokens done so far and in all."""
        elapsed = self._progress.tasks[self._task].elapsed or 0.0
        self._progress.update(
            self._task,
            completed=done,
            total=total,
            amount=f"{done:,} of {total:,} tokens",
            rate=f"{done / elapsed:,.0f}/s" if elapsed > 0 and done else "",
        )

    def preflight(self, counts: Mapping[str, int]) -> None:
        """Say what is unusual about the requests, before any is answered."""
        for fact in unusual(counts):
            note(f"{self._name}: {fact}")


@contextmanager
def progress(name: str) -> Iterator[Bar]:
    """A bar on standard error, gone when the task is done; nothing if that is no terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bar:
        yield Bar(bar, name)


def number(value: float | None, unit: str = "") -> str:
    """Two decimals as in the paper, four for bits; very large values as 1.23e+45."""
    if value is None:
        return "-"
    if unit.startswith("bits"):
        return f"{value:.4f}"
    return f"{value:.2f}" if abs(value) < 1e5 else f"{value:.3g}"


def gap(cell: Cell) -> str:
    """Ours against the paper's: points for accuracies, else a share, or a factor from ten on."""
    if cell.difference is None or cell.score is None:
        return ""
    if cell.score.unit == "%":
        return f"{cell.difference:+.2f} pt"
    factor = cell.difference + 1
    return f"{cell.difference:+.1%}" if factor < 10 else f"x {factor:.3g}"


def _interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return ""
    return f"{number(score.low, score.unit)} to {number(score.high, score.unit)}"


def _table(*columns: str, gap: int = 2) -> Table:
    """A table without lines; a column whose name begins with > is aligned to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for name in columns:
        table.add_column(
            name.removeprefix(">"),
            justify="right" if name.startswith(">") else "left",
            overflow="fold",
        )
    return table


def show_record(record: Record) -> None:
    """One benchmark's scores, each with its interval, then what produced them."""
    model, rows = record.model, record.data["rows"]
    count = f"{record.examples:,} examples"
    if record.examples < rows:
        count = f"{record.examples:,} of {rows:,} examples (seed {record.seed})"
    OUT.print(
        f"{record.task} v{record.version}  {model['name']} ({model['parameters']:,} parameters)  "
        f"{count}  {record.seconds:.1f} s",
        markup=False,
    )
    size = paper.nearest_size(int(model["parameters"]))
    table = _table("score", ">value", "unit", ">95 % interval", f">paper {size}")
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
    narrow = OUT.width < NARROW
    between = "\n" if narrow else " "
    middle = (f">paper{between}{size}", ">ours", ">95 % interval")
    if narrow:
        table = _table("column", *middle, ">diff", "verdict", ">items", ">tok/s", gap=1)
    else:
        tail = (">difference", "verdict", ">examples", ">tokens/s")
        table = _table("column", ">SOTA 2019", *middle, *tail)
    for cell in cells:
        name, best, *rest = _row(cell)
        table.add_row(name, *([] if narrow else [best]), *rest)
    OUT.print(table)
    seconds = sum(record.seconds for record in records)
    OUT.print(f"{seconds:.0f} s in all", markup=False)
    for reason in dict.fromkeys(cell.reason for cell in cells if cell.reason):
        OUT.print(f"not run: {reason}", markup=False)
    for line in remarks(records):
        OUT.print(f"note: {line}", markup=False)
    _show_signatures([record.signature for record in records])


def _show_signatures(signatures: Sequence[str]) -> None:
    """Every signature; the end that all share once."""
    heads, shared = fold(signatures)
    OUT.print(f"signatures{f', each ending in {shared}' if shared else ''}:", markup=False)
    for head in heads:
        OUT.print(f"  {head}", markup=False)


def _row(cell: Cell) -> list[str]:
    beside = [number(cell.state_of_the_art), number(cell.paper)]
    score, record = cell.score, cell.record
    if score is None or record is None:
        return [cell.column, *beside, "-", "", "", "not run", "", ""]
    return [
        cell.column,
        *beside,
        number(score.value, score.unit),
        _interval(score),
        gap(cell),
        cell.verdict,
        f"{record.examples:,}",
        f"{cell.tokens_per_second or 0:,.0f}",
    ]


def show_text(text: str) -> None:
    """A paragraph, wrapped between words."""
    OUT.print(text, markup=False, soft_wrap=False)


def show_mapping(title: str, facts: Mapping[str, str]) -> None:
    """A title and aligned `name  value` lines; nothing if there are none."""
    if not facts:
        return
    OUT.print(title, markup=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    OUT.print(table)


def show_task(task: Task) -> None:
    """One benchmark: what it measures, its data, options, presets and scores."""
    options = task.protocol().options
    source = task.source(options)
    show_text(f"{task.name} (version {task.version}): {task.title}\n")
    show_text(task.description + "\n")
    hub = f"{source.hub.repo} {source.hub.file} at {source.hub.revision}" if source.hub else "-"
    published = [f"{source.rows:,} rows"] if source.rows else []
    published += [f"sha256 {digest}" for digest in source.sha256[:1]]
    facts = {
        "rows": source.title,
        "file": " or ".join(name.removeprefix("./") for name in source.files),
        "from": source.origin,
        "hub": hub,
        "published": ", ".join(published) or "-",
    }
    show_mapping("data", facts)
    show_mapping(
        "options (--set NAME=VALUE)",
        {o.name: f"{o.help} [{', '.join(o.choices)}; default {o.default}]" for o in task.options},
    )
    show_mapping(
        "protocols (--protocol NAME)",
        {
            preset: ", ".join(f"{k}={v}" for k, v in changes.items()) or "the defaults"
            for preset, changes in task.presets.items()
        },
    )
    show_mapping(
        "scores",
        {
            m.name: f"{m.help} ({m.metric.unit})" + (f" -> {m.column}" if m.column else "")
            for m in task.measures(options)
        },
    )
