"""Records as one CSV and one Markdown table with one row per checkpoint and protocol.

The columns are those of Table 3 in its order, then those of section 3 and of other benchmarks.
Only scores of one protocol on one selection of rows share a row; runs that were stopped early have
rows of their own. If two records with different signatures would fill the same cell, the second
gets a row of its own, numbered in `variant`. Results of other programs have rows of their own,
marked in a column `origin`. If a checkpoint has a training step, there is a column `step`, and the
checkpoints of one run stand together, by step. A column `warnings` names the tasks whose runs have
any.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.paper import published
from harness.analysis.scores import device, scores
from harness.engine.checkpoint.steps import run_of
from harness.files.escape import csv_cell, markdown_cell
from harness.files.output import write_text
from harness.records.record import Record

if TYPE_CHECKING:
    from pandas import DataFrame

HEAD = (
    "model", "digest", "parameters", "protocol", "rows", "dtype", "device", "context", "variant",
)  # fmt: skip
_ROW = [
    "origin", "model", "digest", "protocol", "subset", "sample", "stopped", "dtype", "device",
    "context",
]  # fmt: skip
"""Columns that are equal in all scores of a row."""


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The table's rows; scores are numbers, everything else is text."""
    frame = scores(records)
    frame = frame[frame["baseline"].isna()]
    columns = frame["column"].fillna(frame["task"] + " " + frame["metric"])
    subset = frame["limit"].astype(str) + " rows, seed " + frame["seed"].astype(str)
    frame = frame.assign(
        cell=columns,
        subset=subset.where(frame["limit"].notna(), "all"),
        stopped=frame["stopped"].notna(),
        sample=frame["source"] == "sample",
    )
    # Signatures that fill the same cell are counted: those after the first get further rows.
    order = frame.groupby([*_ROW, "cell"], sort=False, dropna=False)["signature"].transform(
        lambda signatures: signatures.factorize()[0]
    )
    frame = frame.assign(order=order)
    variant = frame.groupby([*_ROW, "signature"], sort=False, dropna=False)["order"]
    frame = frame.assign(variant=variant.transform("max"))
    warned = {(r.model["digest"], str(r.signature)) for r in records if r.warnings}
    table = [_row(group, warned) for _, group in frame.groupby([*_ROW, "variant"], sort=False)]
    present = dict.fromkeys(name for row in table for name in row)
    origin = ["origin"] if "origin" in present else []
    step = []
    if "step" in present:
        step, table = ["step"], _by_step(table)
    section3 = [name for name in published.SECTION3 if name in present]
    first = [*HEAD[:1], *step, *HEAD[1:], *origin, *published.COLUMNS, *section3]
    last = [name for name in present if name not in (*first, "signatures")]
    return [{name: row.get(name, "") for name in (*first, *last, "signatures")} for row in table]


def _row(group: "DataFrame", warned: Collection[tuple[str, str]]) -> dict[str, Any]:
    """One row, from the scores in it; of several in one cell the last counts.

    `warned` has the digest and signature of each run with a warning, whose tasks are named.
    """
    first = group.iloc[0]
    signatures = dict(zip(group["task"], group["signature"], strict=True))
    doubtful = [task for task, s in signatures.items() if (first["digest"], s) in warned]
    return {
        **first[["model", "digest", "parameters", "protocol", "dtype", "device", "context"]],
        "digest": first["digest"][:12],
        "rows": ("built-in sample" if first["sample"] else first["subset"])
        + (", stopped early" if first["stopped"] else ""),
        "variant": str(first["variant"] + 1) if first["variant"] else "",
        **({"origin": first["origin"]} if first["origin"] != "harness" else {}),
        **({"step": first["step"]} if first["step"] is not None else {}),
        **dict(zip(group["cell"], group["value"].tolist(), strict=True)),
        **({"warnings": " ".join(doubtful)} if doubtful else {}),
        "signatures": " ".join(signatures.values()),
    }


def _by_step(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one training run together and by step, where its first row was."""
    places: dict[tuple[str, ...], int] = {}
    for place, row in enumerate(table):
        places.setdefault(_run(row), place)
    return sorted(table, key=lambda row: (places[_run(row)], row.get("step", -1)))


def _run(row: dict[str, Any]) -> tuple[str, ...]:
    """The training run of a row, and how it was evaluated."""
    same = (str(row.get(name, "")) for name in (*HEAD[2:], "origin"))
    return (run_of(row["model"]), *same)


def row_key(record: Record) -> tuple[str, ...]:
    """The checkpoint, protocol and selection of rows that a row stands for."""
    model = record.model
    return (
        record.origin,
        model["name"],
        model["digest"],
        record.protocol,
        ("all" if record.limit is None else f"{record.limit}~{record.seed}")
        + (", stopped early" if record.stopped else ""),
        "sample" if record.data["source"] == "sample" else "data",
        model["dtype"],
        device(record),
        str(model["context"]),
    )


def write(table: Sequence[dict[str, Any]], path: Path) -> tuple[Path, Path]:
    """Write the rows as a CSV and as a Markdown file, whose names differ only in the suffix.

    `path` is that of the CSV file, or of the Markdown file if it ends with .md.
    """
    from pandas import DataFrame

    frame = DataFrame(table)
    is_markdown = path.suffix.lower() == ".md"
    markdown = path if is_markdown else path.with_suffix(".md")
    path = path.with_suffix(".csv") if is_markdown else path
    plain = frame.map(lambda cell: csv_cell(cell) if isinstance(cell, str) else cell)
    plain = plain.rename(columns=csv_cell)
    write_text(path, plain.to_csv(index=False, lineterminator="\n"))
    rounded = frame.drop(columns="signatures").map(
        lambda cell: markdown_cell(cell) if isinstance(cell, str) else round(cell, 4)
    )
    rounded = rounded.rename(columns=markdown_cell)
    write_text(markdown, rounded.to_markdown(index=False, disable_numparse=True) + "\n")
    return path, markdown
