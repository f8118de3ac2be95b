"""All scores of records as one tidy table, the source of leaderboards and of analyses in pandas."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.paper import published
from harness.analysis.runs import Run, load
from harness.records.record import Record

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = {
    "model": "object",
    "digest": "object",  # of the weights
    "parameters": "object",  # "unknown" where a record of another program does not say
    "step": "object",  # of the training; None where it is not known
    "task": "object",
    "protocol": "object",
    "metric": "object",
    "value": "float64",
    "low": "float64",  # 95 % interval; NaN where there is none
    "high": "float64",
    "unit": "object",
    "higher_is_better": "bool",
    "n": "int64",  # examples scored
    "column": "object",  # of the paper's tables, if the score fills one
    "paper": "float64",  # the paper's number for that column
    "paper_model": "object",  # that the number is of
    "baseline": "object",  # the model-free system whose score this is, if it is not the model's
    "rows": "int64",  # read from the data
    "limit": "object",  # rows in a random subset; None for all
    "seed": "object",  # of that subset
    "stopped": "object",  # parts used, as "41 of 100"; None unless the run was stopped early
    "source": "object",  # file, hub, sample, or the program that computed the score
    "dtype": "object",
    "device": "object",
    "context": "object",
    "origin": "object",  # the program that computed the score
    "created": "object",
    "signature": "object",
}
"""Column -> dtype."""


def scores(records: Iterable[Record | Run | Path | str], size: str | None = None) -> "DataFrame":
    """One row per score: per model, task, protocol and metric.

    Args:
        records: Records, runs, or paths of record files and of folders with them.
        size: The paper's model that scores are compared with; by default the nearest in size.
    """
    from pandas import DataFrame

    if size is not None:
        published.check_size(size)
    rows = [row for record in _records(records) for row in _score_rows(record, size)]
    return DataFrame(rows, columns=list(COLUMNS), dtype=object).astype(COLUMNS)


def _records(items: Iterable[Record | Run | Path | str]) -> Iterator[Record]:
    for item in items:
        if isinstance(item, Record):
            yield item
        elif isinstance(item, Run):
            yield item.record
        else:
            yield from (run.record for run in load([Path(item)], "no"))


def _score_rows(record: Record, size: str | None) -> Iterator[dict[str, Any]]:
    shared = {
        "model": record.model["name"],
        "digest": record.model["digest"],
        "parameters": record.model["parameters"],
        "step": record.model.get("step"),
        "task": record.task,
        "protocol": record.protocol,
        "n": record.examples,
        "rows": record.rows,
        "limit": record.limit,
        "seed": None if record.limit is None else record.seed,
        "stopped": record.parts_used,
        "source": record.data["source"],
        "dtype": record.model["dtype"],
        "device": device(record),
        "context": record.model["context"],
        "origin": record.origin,
        "created": record.created,
        "signature": str(record.signature),
    }
    for score in record.scores:
        model, number = None, None
        if score.column:
            nearest = size or published.nearest_size(record.parameters)
            model, number = published.nearest(score.column, nearest)
        yield {
            **shared,
            **asdict(score),
            "paper": number,
            "paper_model": model if number is not None else None,
        }


def device(record: Record) -> str:
    """Kind of device without its number, with `compiled` if torch.compile was used."""
    kind = str(record.model.get("device", "unknown")).partition(":")[0]
    compiled = "compiled:True" in str(record.engine.get("numerics", "")).split("|")
    return f"{kind}, compiled" if compiled else kind
