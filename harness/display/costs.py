"""Cost estimates and the response cache, as tables on standard output."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.filesize import decimal

from harness.display.layout import table
from harness.display.terminal import OUT

if TYPE_CHECKING:
    from harness.engine.backends.cost import Estimate
    from harness.engine.cache.store import Store
    from harness.runner import Job


def show_plan(
    model: str, jobs: Sequence["Job"], estimates: Sequence["Estimate"], *, by_server: bool
) -> None:
    """Print what each task will cost, in batches of this process or in calls to a server."""
    OUT.print(f"plan for {model}; nothing has been computed")
    count, largest = ("calls", "longest prompt") if by_server else ("batch rows", "largest batch")
    memory = () if by_server else (">peak memory",)  # a server's is not known
    rows = table(
        "task", ">rows", ">queries", ">tokens", ">cached", ">to compute", ">saved (x)",
        f">{count}", f">{largest}", *memory, ">time",
        optional=(count, largest, "saved (x)", "queries", "cached", "tokens"),
    )  # fmt: skip
    grid = len({job.task.name for job in jobs}) < len(jobs)  # protocols of one task share answers
    at_most = "up to " if grid else ""
    for job, estimate in zip(jobs, estimates, strict=True):
        total = len(job.data.rows)
        rows.add_row(
            f"{job.task.name}, {job.protocol.label}" if grid else job.task.name,
            f"{min(job.limit or total, total):,}",
            f"{estimate.queries:,}",
            f"{estimate.asked:,}",
            f"{estimate.stored:,}",
            f"{estimate.computed:,}",
            f"{estimate.sharing:.1f}",
            f"{estimate.rows:,}",
            f"{estimate.largest:,}",
            *(() if by_server else (decimal(estimate.peak_bytes),)),
            ("up to " if estimate.at_most else "") + duration(estimate.seconds),
        )
    OUT.print(rows)
    seconds = sum(estimate.seconds for estimate in estimates)
    OUT.print(f"{at_most}{duration(seconds)} in total, without loading and reading")


def duration(seconds: float) -> str:
    """`4 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def show_cache(store: "Store") -> None:
    """Print what the response cache has of each checkpoint."""
    OUT.print(f"response cache: {store.path}")
    entries = store.entries()
    if not entries:
        OUT.print("empty")
        return
    rows = table(
        "checkpoint", "digest", ">answers", ">size", ">uses", "last used", "numerics",
        optional=("uses", "numerics"),
    )  # fmt: skip
    for entry in entries:
        rows.add_row(
            entry.name,
            entry.key.weights[:12],
            f"{entry.answers:,}",
            decimal(entry.bytes),
            f"{entry.hits:,}",
            datetime.fromtimestamp(entry.used, UTC).strftime("%Y-%m-%d %H:%M"),
            entry.key.numerics.replace("|", " "),
        )
    OUT.print(rows)
