"""What a gate runs: the benchmarks of a baseline, on its rows, under its protocols.

Everything that can be wrong without a model is found here, before one is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.analysis.baseline import Baseline
from harness.analysis.rules.rule import Rule
from harness.analysis.runs import Run, label, measures
from harness.core import Score
from harness.data.load import Where
from harness.errors import DataError, HarnessError, RecordError, TaskError
from harness.jobs.repeated import check_same, job_of
from harness.metrics import Metric
from harness.plugins.registry import load_task
from harness.records.outcomes import Outcomes
from harness.runner import Job, Part, Prepared, part_sums, prepare
from harness.stats.paired import Table
from harness.task import Measure

Name = tuple[str, str]
"""Benchmark and protocol."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One benchmark of a baseline, ready to be run with another model."""

    run: Run  # of the baseline
    job: Job
    prepared: Prepared
    measures: Mapping[str, Measure]  # of the scores that have a rule, by metric
    rules: Mapping[str, Rule]  # by metric

    @property
    def name(self) -> Name:
        """Benchmark and protocol."""
        return label(self.run.record)

    def score(self, metric: str) -> Score:
        """The baseline's own score."""
        return next(s for s in self.run.record.scores if s.metric == metric)

    def metric(self, name: str) -> Metric:
        """The metric behind a score."""
        metric = self.measures[name].metric
        assert isinstance(metric, Metric), "scores of texts have no rule"
        return metric

    def sums(self, parts: Sequence[Part], outcomes: Outcomes, name: str) -> Table:
        """The summed outcomes of a score in each part, (parts, statistics)."""
        count = len(self.measures[name].statistics)
        return part_sums(parts, outcomes, name, statistics=count)

    def per_token(self, name: str) -> bool:
        """Whether a score counts tokens, so that runs with other tokenizers do not compare."""
        return "token" in name or "token" in self.metric(name).unit


class Plan(NamedTuple):
    """The benchmarks that can be run, and why others cannot."""

    benchmarks: list[Planned]
    reasons: dict[Name, str]


def plan(baseline: Baseline, where: Where, *, strict: bool = False) -> Plan:
    """The benchmarks of a baseline that have a rule.

    Raises:
        HarnessError: none of them can be run, or, with `strict`, one cannot.
    """
    found = Plan([], {})
    for run in baseline.runs:
        name = label(run.record)
        rules = {metric: rule for (*of, metric), rule in baseline.rules.items() if (*of,) == name}
        if not rules:
            continue
        try:
            found.benchmarks.append(_planned(run, rules, where, strict))
        except (DataError, RecordError, TaskError) as error:
            if strict:
                raise
            found.reasons[name] = str(error)
    if not found.benchmarks:
        raise none_left(found.reasons)
    return found


def none_left(reasons: Mapping[Name, str]) -> HarnessError:
    """The error if none of a baseline's benchmarks can be run."""
    if not reasons:
        return RecordError("the baseline has no [[score]], so that there is nothing to decide")
    first = next(iter(reasons.values()))
    if len(reasons) > 1:
        first = f"none of the {len(reasons)} benchmarks can be run; the first: {first}"
    return RecordError(first)


def _planned(run: Run, rules: Mapping[str, Rule], where: Where, strict: bool) -> Planned:
    record = run.record
    if record.origin != "harness":
        raise RecordError(
            f"the baseline's {record.task} was computed by {record.origin}, which a gate cannot "
            "run; run it there, and use `harness check`"
        )
    if not run.has_outcomes:
        raise RecordError(
            f"{run.file} has no items of {record.task} to pair with; write a new baseline"
        )
    by_name = {measure.name: measure for measure in measures(record)}
    job = job_of(record, load_task(record.task), where, strict=strict)
    prepared = prepare(job)
    check_same(record, job, prepared, whose="baseline", remedy="write a new one")
    chosen = {metric: by_name[metric] for metric in rules if metric in by_name}
    return Planned(run, job, prepared, chosen, rules)
