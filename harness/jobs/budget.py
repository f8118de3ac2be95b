"""Estimate what jobs cost, and choose as many rows as fit into a time.

The model is only fed made-up tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from harness.runner import Job, encode, prepare

if TYPE_CHECKING:
    from harness.engine.backends.cost import Estimate
    from harness.engine.engine import Engine

MIN_ROWS = 2  # of a task; a score of one row has no interval


class Budgeted(NamedTuple):
    """Jobs on the rows that a budget allows."""

    jobs: list[Job]
    notes: list[str]  # one line per job that has fewer rows than it would have otherwise


def estimates(jobs: Sequence[Job], engine: "Engine") -> list["Estimate"]:
    """The cost of each job; only of the first round where later requests depend on responses."""
    costs = []
    for job in jobs:
        prepared = prepare(job)
        encoded = encode(job, prepared, engine)
        costs.append(engine.estimate(prepared.requests, encoded))
    return costs


def within(jobs: Sequence[Job], engine: "Engine", budget: float) -> Budgeted:
    """Limit the rows of jobs so that all of them together take at most `budget` seconds.

    Cheap tasks keep all their rows; the others get equal shares of the time that is left.
    """
    costs = estimates(jobs, engine)
    shares = allot([cost.seconds for cost in costs], budget)
    limited = []
    notes = []
    for job, cost, share in zip(jobs, costs, shares, strict=True):
        rows = min(job.limit or len(job.data.rows), len(job.data.rows))
        if share < cost.seconds:
            rows = max(MIN_ROWS, int(rows * share / cost.seconds))
            notes.append(f"{job.task.name}: {rows:,} rows, for {share:.0f} s of the budget")
            job = replace(job, limit=rows)
        limited.append(job)
    return Budgeted(limited, notes)


def allot(costs: Sequence[float], budget: float) -> list[float]:
    """Split a budget: no share exceeds its cost, and the shares are as equal as possible.

    >>> allot([1.0, 10.0, 20.0], 11.0)
    [1.0, 5.0, 5.0]
    """
    shares = [0.0] * len(costs)
    left = budget
    for rank, i in enumerate(sorted(range(len(costs)), key=costs.__getitem__)):
        shares[i] = min(costs[i], left / (len(costs) - rank))
        left -= shares[i]
    return shares
