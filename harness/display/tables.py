"""Results as tables on standard output: one record, the paper's tables, one benchmark."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from harness.analysis.paper import published as paper
from harness.analysis.paper import section3
from harness.analysis.paper.table3 import Cell, fold, remarks
from harness.analysis.protocol_grid import GridRow, values
from harness.core import Score, Tokens
from harness.display.layout import table
from harness.display.terminal import OUT
from harness.records.record import Record
from harness.report.number_format import distance, interval, number
from harness.task import Task


def _interval(score: Score) -> str:
    return interval(score.low, score.high, score.unit)


def _count(record: Record) -> str:
    """How many examples were scored, and of how many rows where that is another number."""
    total = record.data["rows"]
    of, seed = (f" of {total:,}", f" (seed {record.seed})") if record.rows < total else ("", "")
    if record.examples == record.rows:
        return f"{record.examples:,}{of} examples{seed}"
    return f"{record.examples:,} examples from {record.rows:,}{of} rows{seed}"


def show_record(record: Record) -> None:
    """One benchmark's scores, each with its interval, then what produced them."""
    model = record.model
    OUT.print(
        f"{record.task} v{record.version}  {model['name']} ({model['parameters']:,} parameters)  "
        f"{_count(record)}  {record.seconds:.1f} s",
        markup=False,
    )
    size = paper.nearest_size(int(model["parameters"]))
    rows = table("score", ">value", "unit", ">95 % interval", f">paper {size}")
    for score in record.scores:
        of, beside = paper.beside(score.column, size) if score.column else (size, None)
        rows.add_row(
            score.metric,
            number(score.value, score.unit),
            score.unit,
            _interval(score),
            number(beside) + (f" ({of})" if of != size else "") if beside is not None else "",
        )
    OUT.print(rows)
    tokens = record.tokens
    OUT.print(
        f"tokens: {tokens.asked:,} asked, {tokens.cached:,} of them answered from disk, "
        f"{tokens.computed:,} computed, {tokens.scored:,} scored "
        f"({tokens.computed / max(record.seconds, 1e-9):,.0f}/s)",
        markup=False,
    )
    for name, value in record.notes.items():
        shown = value if isinstance(value, str) else f"{value:,g}"
        OUT.print(f"{name}: {shown}")
    for line in remarks([record]):
        OUT.print(f"note: {line}")


def show_table3(cells: Sequence[Cell], records: Sequence[Record], size: str) -> None:
    """The paper's Table 3 for one checkpoint."""
    if records:
        _show_cells(f"Table 3 of Radford et al. 2019 for {_model(records[0])}", size, cells)
        _show_about(cells, records)


def show_section3(cells: Sequence[Cell], records: Sequence[Record], size: str) -> None:
    """Section 3's numbers for one checkpoint, then Table 4 and calibration."""
    if not records:
        return
    _show_cells(f"Section 3 of Radford et al. 2019 for {_model(records[0])}", size, cells)
    for record in records:
        if record.task == "cnn-dm":
            _show_table4(record)
        if record.task == "nq":
            _show_reliability(record)
    _show_about(cells, records)


def _model(record: Record) -> str:
    model = record.model
    return (
        f"{model['name']} ({model['parameters']:,} parameters, {model['dtype']}, context "
        f"{model['context']}, {model['device']})"
    )


def _show_cells(title: str, size: str, cells: Sequence[Cell]) -> None:
    OUT.print(f"{title}, beside the paper's {size}")
    rows = table(
        "column", ">SOTA 2019", f">paper {size}", ">ours", ">95 % interval", ">vs paper", "verdict",
        ">examples", ">tokens/s", optional=("SOTA 2019", "tokens/s", "examples", "verdict"),
    )  # fmt: skip
    for cell in cells:
        rows.add_row(*_row(cell, size))
    OUT.print(rows)


def _show_table4(record: Record) -> None:
    """ROUGE of the paper's systems, of the model, and of the two systems without a model."""
    OUT.print("\nTable 4, CNN/DailyMail")
    rows = table("system", "from", ">ROUGE-1", ">ROUGE-2", ">ROUGE-L", ">average")
    for system in section3.table4(record):
        source = "paper" if system.published else "here"
        rows.add_row(system.name, source, *(number(value) for value in system.values))
    OUT.print(rows)
    why = section3.distance(record)
    if why:
        OUT.print(f"lede-3 and random-3 need no model; theirs differ because: {why}")


def _show_reliability(record: Record) -> None:
    """How often answers are right, by the probability that the model gave them."""
    OUT.print("\nNatural Questions, calibration")
    rows = table("probability of the answer", ">answers", ">mean", ">right")
    for b in section3.reliability(record):
        rows.add_row(
            f"{b.low:.1f} to {b.high:.1f}",
            f"{b.answers:,}",
            f"{b.confidence:.1%}",
            f"{b.accuracy:.1%}",
        )
    OUT.print(rows)
    for score in record.scores:
        if score.metric == "calibration-error":
            OUT.print(f"expected calibration error: {score.value:.2f} points\n")


def _show_about(cells: Sequence[Cell], records: Sequence[Record]) -> None:
    """Time, what was left out, and what sets the numbers apart."""
    seconds = sum(record.seconds for record in records)
    OUT.print(f"{seconds:.0f} s in all")
    for reason in dict.fromkeys(cell.reason for cell in cells if cell.reason):
        OUT.print(f"not run: {reason}")
    for line in remarks(records):
        OUT.print(f"note: {line}")


def show_signatures(records: Sequence[Record]) -> None:
    """Print the signature of every record; the end that all share once."""
    signatures = [record.signature for record in records]
    if len(signatures) == 1:
        OUT.print(f"signature: {signatures[0]}")
        return
    heads, shared = fold(signatures)
    OUT.print(f"signatures{f', each ending in {shared}' if shared else ''}:")
    for head in heads:
        OUT.print(f"  {head}")


def _row(cell: Cell, size: str) -> list[str]:
    of = f" ({cell.size})" if cell.size != size and cell.paper is not None else ""
    beside = [number(cell.state_of_the_art), number(cell.paper) + of]
    score, record = cell.score, cell.record
    if score is None or record is None:
        return [cell.column, *beside, "-", "", "", "not run", "", ""]
    return [
        cell.column,
        *beside,
        number(score.value, score.unit),
        _interval(score),
        distance(score.value, cell.paper, score.unit),
        cell.verdict,
        f"{record.examples:,}",
        f"{cell.tokens_per_second or 0:,.0f}",
    ]


def show_grid(
    task: str, columns: Mapping[str, str], readings: Sequence[GridRow], size: str
) -> None:
    """Protocols, their values, the distance to the paper, and what differs from the defaults."""
    heads = [head for column in columns for head in (f">{column}", f">to {size}")]
    rows = table("protocol", *heads, "differs from the defaults in")
    for reading in readings:
        cells: list[str] = []
        for (value, beside), unit in zip(
            values(reading, columns, size), columns.values(), strict=True
        ):
            cells += [number(value, unit), distance(value, beside, unit)]
        rows.add_row(reading.protocol.label, *cells, reading.differs or "-")
    OUT.print(f"{task} under {len(readings)} protocols")
    OUT.print(rows)
    for reading in readings:
        if reading.reason:
            OUT.print(f"not run: {reading.protocol.label}: {reading.reason}")
    tokens = sum((r.record.tokens for r in readings if r.record), Tokens())
    OUT.print(
        f"tokens: {tokens.asked:,} asked, {tokens.cached:,} of them known from an earlier protocol "
        f"or run, {tokens.computed:,} computed",
        markup=False,
    )


def show_text(text: str) -> None:
    """A paragraph, wrapped between words."""
    OUT.print(text, markup=False, soft_wrap=False)


def show_mapping(title: str, facts: Mapping[str, str]) -> None:
    """A title and aligned `name  value` lines; nothing if there are none."""
    if not facts:
        return
    OUT.print(title)
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
            for preset, changes in task.protocols.items()
        },
    )
    show_mapping(
        "scores",
        {
            m.name: f"{m.help} ({m.metric.unit})" + (f" -> {m.column}" if m.column else "")
            for m in task.measures(options)
        },
    )
