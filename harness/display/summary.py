"""The main scores of several tasks as one table."""

from collections.abc import Sequence

from harness.analysis.paper import published
from harness.display.layout import table
from harness.display.terminal import OUT
from harness.records.record import Record
from harness.report.number_format import interval, number


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
            paper = published.published(score.column, size) if score.column else None
            rows.add_row(
                record.task,
                record.protocol,
                score.metric,
                number(score.value, score.unit),
                score.unit,
                interval(score.low, score.high, score.unit),
                "" if paper is None else number(paper),
            )
    OUT.print(f"\nSummary of {len(records)} tasks", markup=False)
    OUT.print(rows)
