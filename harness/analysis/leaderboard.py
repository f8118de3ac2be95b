"""Records -> one CSV and one Markdown table: a row a checkpoint and protocol.

Columns are those of Table 3, in its order, then those of section 3 and of other benchmarks.
Only scores of one protocol on one selection of rows share a row. Where two records would fill
the same cell with different signatures the newer one gets a row of its own and both say so.
Results of lm-eval have rows of their own, marked in a column `origin`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.paper import published
from harness.files.escape import csv_cell, markdown_cell
from harness.files.output import write_text
from harness.records.record import Record


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The table's rows; scores are numbers, everything else is text."""
    table: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in records:
        key = row_key(record)
        cells = {
            s.column or f"{record.task} {s.metric}": s.value
            for s in record.scores
            if s.baseline is None
        }
        copy = 0
        while _taken(table.get((*key, str(copy)), {}), cells, record):
            copy += 1
        row = table.setdefault((*key, str(copy)), _head(record, copy))
        row.update(cells)
        row["_signatures"][record.task] = str(record.signature)
    order = _columns(list(table.values()))
    return [
        {**{name: row.get(name, "") for name in order}, "signatures": _joined(row)}
        for row in table.values()
    ]


def row_key(record: Record) -> tuple[str, ...]:
    """What a row stands for."""
    selection = "all" if record.limit is None else f"{record.limit}~{record.seed}"
    source = "sample" if record.data["source"] == "sample" else "data"
    model = record.model
    return (
        record.origin,
        model["name"],
        model["digest"],
        record.protocol,
        selection,
        source,
        model["dtype"],
        _device(record),
        str(model["context"]),
    )


def _device(record: Record) -> str:
    """Kind of device, without a number; `compiled` where passes went through torch.compile."""
    kind = str(record.model.get("device", "unknown")).partition(":")[0]
    compiled = "compiled:True" in str(record.engine.get("numerics", "")).split("|")
    return f"{kind}, compiled" if compiled else kind


def _head(record: Record, copy: int) -> dict[str, Any]:
    selection = "all" if record.limit is None else f"{record.limit} rows, seed {record.seed}"
    if record.data["source"] == "sample":
        selection = "built-in sample"
    return {
        "model": record.model["name"],
        "digest": record.model["digest"][:12],
        "parameters": record.model["parameters"],
        "protocol": record.protocol,
        "rows": selection,
        "dtype": record.model["dtype"],
        "device": _device(record),
        "context": record.model["context"],
        "variant": str(copy + 1) if copy else "",
        **({"origin": record.origin} if record.origin != "harness" else {}),
        "_signatures": {},
    }


def _taken(row: dict[str, Any], cells: dict[str, float], record: Record) -> bool:
    """Whether a row already holds one of the cells under another signature."""
    known = row.get("_signatures", {}).get(record.task)
    return any(name in row for name in cells) and known != str(record.signature)


def _columns(table: Sequence[dict[str, Any]]) -> list[str]:
    present = dict.fromkeys(name for row in table for name in row if not name.startswith("_"))
    head = ["model", "digest", "parameters", "protocol", "rows", "dtype", "device", "context"]
    head += ["variant"]
    head += ["origin"] if "origin" in present else []
    section3 = [name for name in published.SECTION3 if name in present]
    first = [*head, *published.COLUMNS, *section3]
    return [*first, *(name for name in present if name not in first)]


def _joined(row: dict[str, Any]) -> str:
    return " ".join(row["_signatures"].values())


def write(table: Sequence[dict[str, Any]], path: Path) -> tuple[Path, Path]:
    """Write a CSV file and a Markdown file, which differ in their ending alone.

    Args:
        table: as `rows` gives it.
        path: of the CSV file, or of the Markdown file if it ends with .md.

    Returns:
        The paths of both.

    Raises:
        RecordError: they cannot be written.
    """
    from pandas import DataFrame

    frame = DataFrame(table)
    is_markdown = path.suffix.lower() == ".md"
    markdown = path if is_markdown else path.with_suffix(".md")
    path = path.with_suffix(".csv") if is_markdown else path
    safe = frame.map(_csv).rename(columns=csv_cell)
    write_text(path, safe.to_csv(index=False, lineterminator="\n"))
    shown = frame.drop(columns="signatures").map(_markdown).rename(columns=markdown_cell)
    write_text(markdown, shown.to_markdown(index=False, disable_numparse=True) + "\n")
    return path, markdown


def _csv(cell: Any) -> Any:
    return csv_cell(cell) if isinstance(cell, str) else cell


def _markdown(cell: Any) -> Any:
    """A cell that stays one cell; numbers are rounded."""
    if isinstance(cell, float):
        return round(cell, 4)
    return markdown_cell(cell) if isinstance(cell, str) else cell
