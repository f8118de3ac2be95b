"""What `--plan` and `--budget` do: say what a run will cost, or choose so many rows that it ends
in time. Nothing is fed to the model but made-up tokens.
"""  # noqa: D205

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.display import terminal
from harness.runner import Job, prepare
from harness.task import encoding

if TYPE_CHECKING:
    from harness.engine.backends.cost import Estimate
    from harness.engine.engine import Engine

FEWEST = 2  # rows of a benchmark; one has no interval


def estimates(jobs: Sequence[Job], engine: "Engine") -> list["Estimate"]:
    """What each job will cost; of jobs whose requests follow from answers, the first round."""
    found = []
    for job in jobs:
        requests = prepare(job).requests
        encoded = engine.encode(requests, encoding(job.protocol.options))
        found.append(engine.estimate(requests, encoded))
    return found


def within(jobs: Sequence[Job], engine: "Engine", budget: float) -> list[Job]:
    """The jobs on so many rows each, by their seed, that all of them end in so many seconds.

    Benchmarks that cost little keep all their rows; the others get equal shares of what is left.
    """
    found = estimates(jobs, engine)
    shares = allot([e.seconds for e in found], budget)
    chosen = []
    for job, estimate, share in zip(jobs, found, shares, strict=True):
        rows = min(job.limit or len(job.data.rows), len(job.data.rows))
        if share < estimate.seconds:
            rows = max(FEWEST, int(rows * share / estimate.seconds))
            terminal.note(f"{job.task.name}: {rows:,} rows, for {share:.0f} s of the budget")
            job = replace(job, limit=rows)
        chosen.append(job)
    return chosen


def allot(costs: Sequence[float], budget: float) -> list[float]:
    """At most each cost, together at most the budget, and otherwise as equal as possible.

    >>> allot([1.0, 10.0, 20.0], 11.0)
    [1.0, 5.0, 5.0]
    """
    shares = [0.0] * len(costs)
    left = budget
    for rank, i in enumerate(sorted(range(len(costs)), key=costs.__getitem__)):
        shares[i] = min(costs[i], left / (len(costs) - rank))
        left -= shares[i]
    return shares
