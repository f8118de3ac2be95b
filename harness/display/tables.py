"""Records, the paper's tables, protocol grids and task descriptions on standard output."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from harness.analysis.paper import published as paper
from harness.analysis.paper import section3
from harness.analysis.paper.table3 import Cell, fold, remarks
from harness.analysis.protocol_grid import GridRow, values
from harness.core import Tokens
from harness.display.layout import table
from harness.display.terminal import OUT
from harness.records.record import Record
from harness.report.number_format import distance, interval, number
from harness.task import Task


def show_records(records: Sequence[Record]) -> None:
    """Print the scores of each task with their intervals, then the cost and notes."""
    for record in records:
        _show_record(record)


def _show_record(record: Record) -> None:
    model = record.model
    OUT.print(
        f"{record.task} v{record.version}  {model['name']} ({_size(record)})  "
        f"{_count(record)}  {record.seconds:.1f} s"
    )
    size = paper.nearest_size(record.parameters)
    rows = table("score", ">value", "unit", ">95 % interval", f">paper {size}")
    for score in record.scores:
        paper_size, value = paper.nearest(score.column, size) if score.column else (size, None)
        other_size = f" ({paper_size})" if paper_size != size else ""
        rows.add_row(
            score.metric,
            number(score.value, score.unit),
            score.unit,
            interval(score.low, score.high, score.unit),
            "" if value is None else number(value) + other_size,
        )
    OUT.print(rows)
    tokens = record.tokens
    OUT.print(
        f"tokens: {tokens.asked:,} asked, {tokens.cached:,} of them cached, {tokens.computed:,} "
        f"computed, {tokens.scored:,} scored "
        f"({tokens.computed / max(record.seconds, 1e-9):,.0f}/s)"
    )
    for name, fact in record.notes.items():
        OUT.print(f"{name}: {fact if isinstance(fact, str) else f'{fact:,g}'}")
    for remark in remarks([record]):
        OUT.print(f"note: {remark}")
    _show_warnings({"": record})


def _size(record: Record) -> str:
    """How large the model is; of one behind a server, what serves it."""
    count = record.parameters
    return f"{count:,} parameters" if count else record.server or "unknown size"


def _how_it_runs(record: Record) -> str:
    """Size, number format, context and device, as far as they are known of a server."""
    model = record.model
    context = f"context {model['context']}"
    if record.endpoint:
        return f"{_size(record)}, {context}"
    return f"{_size(record)}, {model['dtype']}, {context}, {model['device']}"


def _show_warnings(records: Mapping[str, Record]) -> None:
    """Print what the canaries of the runs saw, by the name of each run."""
    for name, record in records.items():
        for warning in record.warnings:
            OUT.print(f"warning: {name}{': ' if name else ''}{warning}")


def _count(record: Record) -> str:
    """The number of examples, and of rows where that differs."""
    total = record.data["rows"]
    of, seed = (f" of {total:,}", f" (seed {record.seed})") if record.rows < total else ("", "")
    if record.examples == record.rows:
        return f"{record.examples:,}{of} examples{seed}"
    return f"{record.examples:,} examples from {record.rows:,}{of} rows{seed}"


def show_summary(records: Sequence[Record], size: str) -> None:
    """Print one model's main scores next to those of the paper's model of that size.

    These are the scores that the paper's tables have, or else the first score of a task.
    """
    rows = table(
        "task", "protocol", "score", ">value", "unit", ">95 % interval", f">paper {size}",
        optional=("protocol", "unit"),
    )  # fmt: skip
    for record in records:
        main = [score for score in record.scores if score.column] or record.scores[:1]
        for score in main:
            published = paper.published(score.column, size) if score.column else None
            rows.add_row(
                record.task,
                record.protocol,
                score.metric,
                number(score.value, score.unit),
                score.unit,
                interval(score.low, score.high, score.unit),
                number(published) if published is not None else "",
            )
    OUT.print(f"\nSummary of {len(records)} tasks")
    OUT.print(rows)


def show_paper_table(
    title: str, cells: Sequence[Cell], records: Sequence[Record], size: str
) -> None:
    """Print one of the paper's tables for one checkpoint, with Table 4 and calibration."""
    if not records:
        return
    name, how = records[0].model["name"], _how_it_runs(records[0])
    OUT.print(f"{title} of Radford et al. 2019 for {name} ({how}); paper: {size}")
    rows = table(
        "column", ">SOTA 2019", f">paper {size}", ">ours", ">95 % interval", ">vs paper", "verdict",
        ">examples", ">tokens/s", optional=("SOTA 2019", "tokens/s", "examples", "verdict"),
    )  # fmt: skip
    for cell in cells:
        rows.add_row(*_paper_row(cell, size))
    OUT.print(rows)
    for record in records:
        if record.task == "cnn-dm":
            _show_table4(record)
        if record.task == "nq":
            _show_calibration(record)
    OUT.print(f"{sum(record.seconds for record in records):.0f} s in total")
    for reason in dict.fromkeys(cell.reason for cell in cells if cell.reason):
        OUT.print(f"not run: {reason}")
    for remark in remarks(records):
        OUT.print(f"note: {remark}")
    _show_warnings({record.task: record for record in records})


def _paper_row(cell: Cell, size: str) -> list[str]:
    other_size = f" ({cell.size})" if cell.size != size and cell.paper is not None else ""
    published = [number(cell.state_of_the_art), number(cell.paper) + other_size]
    score, record = cell.score, cell.record
    if score is None or record is None:
        return [cell.column, *published, "-", "", "", "not run", "", ""]
    return [
        cell.column,
        *published,
        number(score.value, score.unit),
        interval(score.low, score.high, score.unit),
        distance(score.value, cell.paper, score.unit),
        cell.verdict,
        f"{record.examples:,}",
        f"{cell.tokens_per_second or 0:,.0f}",
    ]


def _show_table4(record: Record) -> None:
    OUT.print("\nTable 4, CNN/DailyMail")
    rows = table("system", "from", ">ROUGE-1", ">ROUGE-2", ">ROUGE-L", ">average")
    for system in section3.table4(record):
        source = "paper" if system.published else "here"
        rows.add_row(system.name, source, *(number(value) for value in system.values))
    OUT.print(rows)
    if reason := section3.distance(record):
        OUT.print(f"lede-3 and random-3 need no model; the paper's differ because: {reason}")


def _show_calibration(record: Record) -> None:
    """Print how often answers are right, by the probability that the model gave them."""
    OUT.print("\nNatural Questions, calibration")
    rows = table("probability of the answer", ">answers", ">mean", ">right")
    for b in section3.reliability(record):
        shares = (f"{b.confidence:.1%}", f"{b.accuracy:.1%}")
        rows.add_row(f"{b.low:.1f} to {b.high:.1f}", f"{b.answers:,}", *shares)
    OUT.print(rows)
    for score in record.scores:
        if score.metric == "calibration-error":
            OUT.print(f"expected calibration error: {score.value:.2f} points\n")


def show_signatures(records: Sequence[Record]) -> None:
    """Print the signature of every record; a common end is printed once."""
    signatures = [record.signature for record in records]
    if len(signatures) == 1:
        OUT.print(f"signature: {signatures[0]}")
        return
    heads, shared = fold(signatures)
    OUT.print(f"signatures{f', each ending in {shared}' if shared else ''}:")
    for head in heads:
        OUT.print(f"  {head}")


def show_grid(task: str, columns: Mapping[str, str], grid: Sequence[GridRow], size: str) -> None:
    """Print the scores of one task under several protocols, compared with the paper's."""
    heads = [head for column in columns for head in (f">{column}", f">vs {size}")]
    rows = table("protocol", *heads, "differs from the defaults in", optional=(f"vs {size}",))
    for row in grid:
        cells: list[str] = []
        pairs = zip(values(row, columns, size), columns.values(), strict=True)
        for (value, published), unit in pairs:
            cells += [number(value, unit), distance(value, published, unit)]
        rows.add_row(row.protocol.label, *cells, row.differs or "-")
    OUT.print(f"{task} under {len(grid)} protocols")
    OUT.print(rows)
    for row in grid:
        if row.reason:
            OUT.print(f"not run: {row.protocol.label}: {row.reason}")
    _show_warnings({row.protocol.label: row.record for row in grid if row.record})
    tokens = sum((row.record.tokens for row in grid if row.record), Tokens())
    OUT.print(
        f"tokens: {tokens.asked:,} asked, {tokens.cached:,} of them cached by an earlier protocol "
        f"or run, {tokens.computed:,} computed"
    )


def show_mapping(title: str, facts: Mapping[str, str]) -> None:
    """Print a title and aligned `name  value` lines; nothing if there are no facts."""
    if not facts:
        return
    OUT.print(title)
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        grid.add_row(name, Text(value))
    OUT.print(grid)


def show_tasks(tasks: Sequence[Task]) -> None:
    """Print name, title and protocols of every task."""
    show_mapping(
        "tasks (harness tasks TASK describes one)",
        {task.name: f"{task.title} [{', '.join(task.protocols)}]" for task in tasks},
    )


def show_task(task: Task) -> None:
    """Print what a task measures, its data, options, protocols and scores."""
    options = task.protocol().options
    source = task.source(options)
    title = f"{task.name} (version {task.version}): {task.title}"
    OUT.print(f"{title}\n\n{task.description}\n", soft_wrap=False)  # wrapped in a pipe, too
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
            name: ", ".join(f"{k}={v}" for k, v in changes.items()) or "the defaults"
            for name, changes in task.protocols.items()
        },
    )
    show_mapping(
        "scores",
        {
            m.name: f"{m.help} ({m.metric.unit})" + (f" -> {m.column}" if m.column else "")
            for m in task.measures(options)
        },
    )
