"""What runs cost and what the store has, as tables on standard output."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal

from harness.display.layout import table
from harness.display.terminal import OUT

if TYPE_CHECKING:
    from harness.engine.backends.cost import Estimate
    from harness.engine.cache.store import CheckpointEntry
    from harness.runner import Job


def show_plan(model: str, jobs: Sequence["Job"], found: Sequence["Estimate"]) -> None:
    """What each benchmark will cost."""
    OUT.print(f"plan for {model}; nothing has been fed to it", markup=False)
    rows = table(
        "benchmark", ">rows", ">questions", ">tokens asked", ">on disk", ">to compute",
        ">asked for 1", ">in rows", ">largest batch", ">peak", ">time",
    )  # fmt: skip
    tasks = {job.task.name for job in jobs}
    protocols = len(tasks) < len(jobs)  # of one benchmark, which share what they have in common
    for job, estimate in zip(jobs, found, strict=True):
        total = len(job.data.rows)
        rows.add_row(
            f"{job.task.name}, {job.protocol.label}" if protocols else job.task.name,
            f"{min(job.limit or total, total):,}",
            f"{estimate.questions:,}",
            f"{estimate.asked:,}",
            f"{estimate.stored:,}",
            f"{estimate.computed:,}",
            f"{estimate.sharing:.1f}",
            f"{estimate.rows:,}",
            f"{estimate.largest:,}",
            decimal(estimate.peak_bytes),
            ("up to " if estimate.at_most else "") + duration(estimate.seconds),
        )
    OUT.print(rows)
    total_seconds = sum(estimate.seconds for estimate in found)
    at_most = "up to " if protocols else ""
    OUT.print(
        f"{at_most}{duration(total_seconds)} in all, beside loading and reading", markup=False
    )


def duration(seconds: float) -> str:
    """`4 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_holdings(path: Path | None, holdings: Sequence["CheckpointEntry"]) -> None:
    """What the store has of each checkpoint."""
    OUT.print(f"stored answers in {path}", markup=False)
    if not holdings:
        OUT.print("none", markup=False)
        return
    rows = table("checkpoint", "digest", ">answers", ">size", ">taken", "last used", "numerics")
    for holding in holdings:
        used = datetime.fromtimestamp(holding.used, UTC).strftime("%Y-%m-%d %H:%M")
        rows.add_row(
            holding.name,
            holding.key.weights[:12],
            f"{holding.answers:,}",
            decimal(holding.bytes),
            f"{holding.hits:,}",
            used,
            holding.key.numerics,
        )
    OUT.print(rows)
