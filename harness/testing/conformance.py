"""What every benchmark must hold, as checks that a plugin's tests run.

    @pytest.mark.parametrize("check", checks("riddles", GOLDEN), ids=str)
    def test_conformance(check: Check) -> None:
        check()

The benchmark has to be installed, since it is found as every command finds it. Checks that need a
model take a tiny one of random weights, made in memory. Nothing is computed before a check is
called.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.core import Example, Response
from harness.errors import HarnessError
from harness.metrics import Outcome
from harness.metrics.extract import Extract
from harness.metrics.hf_evaluate import ModuleMetric
from harness.plugins.registry import load_task
from harness.records.outcomes import Outcomes
from harness.runner import Job, Prepared, evaluate, prepare
from harness.task import Measure, Options, Task
from harness.testing import static_checks as static

if TYPE_CHECKING:
    from harness.engine.engine import Engine

CONTEXT = 2048  # of the tiny model, whose tokens are bytes
SMALL = 300  # padded tokens a batch, where batches shall be small
TOLERANCE = 1e-4  # relative and absolute, of an outcome: float32, other batches


class ConformanceError(HarnessError):
    """A benchmark does not hold what every benchmark must."""


@dataclass(frozen=True, slots=True)
class Check:
    """One property of a benchmark; calling it raises if there are faults."""

    benchmark: str
    name: str
    faults: Callable[[], list[str]]

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> None:
        """Look.

        Raises:
            ConformanceError: there are faults; names them all.
        """
        if found := self.faults():
            raise ConformanceError(f"{self.benchmark}, {self.name}: {'; '.join(found)}")


def checks(name: str, golden_file: Path) -> tuple[Check, ...]:
    """The checks of an installed benchmark.

    Args:
        name: of the benchmark.
        golden_file: its golden requests; `python -m harness.testing.golden NAME FILE` writes them.
    """
    subject = _Subject(name)
    found: dict[str, Callable[[], list[str]]] = {
        "declaration": lambda: static.declaration(subject.task),
        "options": lambda: static.options(subject.task, subject.read),
        "rows": lambda: static.rows(subject.task),
        "golden requests": lambda: static.requests(subject.task, golden_file),
        "scores": lambda: unscored(lambda: subject.runs),
        "order and batches": lambda: moved(subject.runs, subject.runs_otherwise),
    }
    return tuple(Check(name, title, find) for title, find in found.items())


class Run(NamedTuple):
    """What the tiny model got under one preset."""

    outcomes: Outcomes
    read: set[str]  # the options that were read on the way


Runs = Mapping[str, Run]  # by preset


class _Subject:
    """A benchmark, with what the tiny model makes of its sample: computed once, when needed."""

    def __init__(self, name: str) -> None:
        self._name = name

    @cached_property
    def task(self) -> Task:
        return load_task(self._name)

    @cached_property
    def runs(self) -> Runs:
        return {p: _run(job, _engine(), prepare(job)) for p, job in static.sample_jobs(self.task)}

    @property
    def read(self) -> set[str]:
        """The options that were read in any run."""
        return set().union(*(run.read for run in self.runs.values()))

    @cached_property
    def runs_otherwise(self) -> Runs:
        """The same from the last example to the first, in small batches that share no prefix."""
        engine = _engine(SMALL, share=False)
        jobs = static.sample_jobs(self.task)
        return {p: _run(job, engine, _backwards(prepare(job))) for p, job in jobs}


def _run(job: Job, engine: "Engine", asked: Prepared) -> Run:
    watched = static.Watched(job.protocol.options)
    job = replace(job, task=_strict(job.task), protocol=replace(job.protocol, options=watched))
    record = evaluate(job, engine, prepared=asked)
    assert record.outcomes is not None, "a new record has its outcomes"
    return Run(record.outcomes, watched.read)


def _backwards(asked: Prepared) -> Prepared:
    return replace(asked, examples=asked.examples[::-1], groups=asked.groups[::-1])


@cache
def _engine(budget: int | None = None, *, share: bool = True) -> "Engine":
    from harness.engine.checkpoint import random_model
    from harness.engine.engine import Engine

    return Engine(random_model.checkpoint(CONTEXT), budget=budget, share=share)


def unscored(find_runs: Callable[[], Runs]) -> list[str]:
    """Why there are no scores: an outcome or a score is no number, or not what is declared."""
    try:
        find_runs()
    except HarnessError as error:
        return [str(error)]
    return []


def _strict(task: Task) -> Task:
    """The benchmark with measures that refuse outcomes other than they declare."""

    def measures(options: Options) -> tuple[Measure, ...]:
        return tuple(
            m if isinstance(m.metric, ModuleMetric) else replace(m, extract=_checked(m))
            for m in task.measures(options)
        )

    return replace(task, measures=measures)


def _checked(measure: Measure) -> Extract:
    count = len(measure.statistics)
    wanted = f"expected {count} finite numbers: {', '.join(measure.statistics)}"

    def extract(example: Example, responses: Sequence[Response]) -> Sequence[Outcome]:
        found = measure.extract(example, responses)
        for outcome in found:
            if len(outcome) != count or not _finite(outcome):
                where = f"{measure.name} of item {example.id}"
                raise ConformanceError(f"{where} has the outcome {outcome}, {wanted}")
        return found

    return extract


def _finite(values: tuple[float, ...]) -> bool:
    return all(map(math.isfinite, values))


def moved(runs: Runs, otherwise: Runs) -> list[str]:
    """Outcomes that depend on the order of the examples or on the batches."""
    found = []
    for preset, run in runs.items():
        for name in run.outcomes.metrics:
            one, other = _by_item(run.outcomes, name), _by_item(otherwise[preset].outcomes, name)
            apart = [key for key in {**one, **other} if not _close(one.get(key), other.get(key))]
            found += [
                f"{preset}: {name} of item {key[0]} is {one.get(key)}, in another order "
                f"{other.get(key)}"
                for key in apart[:1]
            ]
    return found


def _by_item(outcomes: Outcomes, measure: str) -> dict[tuple[str, int], tuple[float, ...]]:
    return dict(zip(outcomes.keys(measure), outcomes.metrics[measure].values, strict=True))


def _close(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    if one is None or other is None or len(one) != len(other):
        return False
    pairs = zip(one, other, strict=True)
    return all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for a, b in pairs)
