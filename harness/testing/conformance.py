"""Checks that every benchmark passes, for the tests of a plugin.

    @pytest.mark.parametrize("check", checks("riddles", GOLDEN), ids=str)
    def test_conformance(check: Check) -> None:
        check()

The benchmark must be installed, because it is found through its entry point. Checks that need a
model use a tiny one with random weights, made in memory. Nothing is computed until a check is
called.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import HarnessError
from harness.plugins.registry import load_task
from harness.records.outcomes import Outcomes
from harness.runner import Job, Prepared, evaluate, prepare
from harness.task import Task
from harness.testing import static_checks as static

if TYPE_CHECKING:
    from harness.engine.engine import Engine

CONTEXT = 2048  # of the tiny model, whose tokens are bytes
SMALL_BATCH = 300  # padded tokens per batch
TOLERANCE = 1e-4  # relative and absolute, for float32 outcomes in other batches


class ConformanceError(HarnessError):
    """A benchmark fails a check."""


@dataclass(frozen=True, slots=True)
class Check:
    """One property of a benchmark; call it to test it."""

    benchmark: str
    name: str
    problems: Callable[[], list[str]]

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Run the check.

        Raises:
            ConformanceError: the check found problems; lists them all.
        """
        if problems := self.problems():
            raise ConformanceError(f"{self.benchmark}, {self.name}: {'; '.join(problems)}")


def checks(name: str, golden_file: Path) -> tuple[Check, ...]:
    """The checks of the installed benchmark `name`.

    `golden_file` has its golden requests; `python -m harness.testing.golden NAME FILE` writes them.
    """
    subject = _Subject(name)
    problems: dict[str, Callable[[], list[str]]] = {
        "declaration": lambda: static.declaration(subject.task),
        "options": lambda: static.options(subject.task, subject.options_read),
        "rows": lambda: static.rows(subject.task),
        "golden requests": lambda: static.requests(subject.task, golden_file),
        "scores": lambda: scoring_errors(lambda: subject.runs),
        "order and batches": lambda: differences(subject.runs, subject.backward_runs),
    }
    return tuple(Check(name, title, find) for title, find in problems.items())


class Run(NamedTuple):
    """A run of the tiny model under one protocol."""

    outcomes: Outcomes
    options_read: set[str]


Runs = Mapping[str, Run]  # by protocol


class _Subject:
    """The benchmark under test; runs are computed once, when they are needed."""

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def task(self) -> Task:
        return load_task(self._name)

    @cached_property
    def runs(self) -> Runs:
        jobs = static.sample_jobs(self.task)
        return {name: _run(job, _engine(), prepare(job)) for name, job in jobs}

    @cached_property
    def backward_runs(self) -> Runs:
        """Runs from the last example to the first, in small batches that share no prefix."""
        runs = {}
        for name, job in static.sample_jobs(self.task):
            forward = prepare(job)
            backward = replace(
                forward, examples=forward.examples[::-1], groups=forward.groups[::-1]
            )
            runs[name] = _run(job, _engine(SMALL_BATCH, share=False), backward)
        return runs

    @property
    def options_read(self) -> set[str]:
        return set().union(*(run.options_read for run in self.runs.values()))


def _run(job: Job, engine: "Engine", prepared: Prepared) -> Run:
    options = static.WatchedOptions(job.protocol.options)
    job = replace(job, protocol=replace(job.protocol, options=options))
    record = evaluate(job, engine, prepared=prepared)
    assert record.outcomes is not None, "a new record has its outcomes"
    return Run(record.outcomes, options.read)


@cache
def _engine(budget: int | None = None, *, share: bool = True) -> "Engine":
    from harness.engine.checkpoint import random_model
    from harness.engine.engine import Engine

    return Engine(random_model.checkpoint(CONTEXT), budget=budget, share=share)


def scoring_errors(compute_runs: Callable[[], Runs]) -> list[str]:
    """The error that keeps the task from being scored, if there is one."""
    try:
        compute_runs()
    except HarnessError as error:
        return [str(error)]
    return []


def differences(runs: Runs, others: Runs) -> list[str]:
    """Outcomes that depend on the order of the examples or on the batches, one per measure."""
    problems = []
    for protocol, run in runs.items():
        for measure in run.outcomes.metrics:
            a = _by_example(run.outcomes, measure)
            b = _by_example(others[protocol].outcomes, measure)
            different = [key for key in {**a, **b} if not _close(a.get(key), b.get(key))]
            problems += [
                f"{protocol}: {measure} of example {key[0]} is {a.get(key)}, in another order "
                f"{b.get(key)}"
                for key in different[:1]
            ]
    return problems


def _by_example(outcomes: Outcomes, measure: str) -> dict[tuple[str, int], tuple[float, ...]]:
    return dict(zip(outcomes.keys(measure), outcomes.metrics[measure].values, strict=True))


def _close(a: tuple[float, ...] | None, b: tuple[float, ...] | None) -> bool:
    if a is None or b is None or len(a) != len(b):
        return False
    pairs = zip(a, b, strict=True)
    return all(math.isclose(x, y, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for x, y in pairs)
