"""The examples behind the scores: prompt, reference, the response of each run, and its values."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from operator import add
from typing import Any, NamedTuple

import numpy as np

from harness.analysis.paper import published
from harness.analysis.runs import Run, label, main_measures, measures
from harness.errors import RecordError
from harness.metrics import Metric
from harness.metrics.hf_evaluate import ModuleMetric
from harness.records.outcomes import MetricOutcomes
from harness.records.record import Record
from harness.report.number_format import number
from harness.report.page.columns import Column, clip
from harness.stats.paired import values

MAX_TEXT_CHARS = 2000  # of each text on the page
MAX_VALUES = 6  # per example and run, main measures first


@dataclass(frozen=True, slots=True)
class RunExample:
    """One run's response to an example, and how it was scored."""

    column: int
    response: str
    state: str  # "right", "wrong", "part"; empty if no measure is a proportion
    values: tuple[tuple[str, str], ...]  # (measure, value)
    loss: float | None  # by the first measure; larger is worse


@dataclass(frozen=True, slots=True)
class PageExample:
    """One example in all runs that have it."""

    id: str
    prompt: str
    reference: str
    runs: tuple[RunExample, ...]

    @property
    def flipped(self) -> bool:
        """Whether it is right in one run and not in another."""
        return len({run.state for run in self.runs}) > 1


@dataclass(frozen=True, slots=True)
class ExampleGroup:
    """The examples of one benchmark in all runs that measure the same thing."""

    task: str
    protocol: str
    examples: tuple[PageExample, ...]
    records: dict[int, Record] = field(default_factory=dict)  # by column

    @property
    def flipped(self) -> int:
        """The number of examples that are right in one run and not in another."""
        return sum(example.flipped for example in self.examples)


@dataclass(frozen=True, slots=True)
class GroupSample:
    """A group, and its examples that are on the page."""

    group: ExampleGroup
    examples: tuple[PageExample, ...]  # in the group's order
    picked: int  # chosen because they flipped


def groups(columns: Sequence[Column]) -> list[ExampleGroup]:
    """All examples of all benchmarks, those of the paper first."""
    members: dict[tuple[str, ...], list[tuple[int, Run]]] = {}
    for k, column in enumerate(columns):
        for run in column.runs:
            if run.has_outcomes:
                key = (label(run.record)[0], *run.record.signature.identity())
                members.setdefault(key, []).append((k, run))
    order = published.in_order(dict.fromkeys(key[0] for key in members))
    keys = sorted(members, key=lambda key: order.index(key[0]))
    return [_group(key[0], members[key]) for key in keys]


def _group(task: str, runs: Sequence[tuple[int, Run]]) -> ExampleGroup:
    merged: dict[str, list[RunExample]] = {}
    texts: dict[str, tuple[str, str]] = {}
    for column, run in runs:
        metrics = _metric_sums(run)
        pairs = zip(run.outcomes.ids, run.outcomes.shown, strict=True)
        for place, (name, shown) in enumerate(pairs):
            texts.setdefault(name, (shown.prompt, shown.reference))
            example = RunExample(column, shown.response, *_judge(metrics, place))
            merged.setdefault(name, []).append(example)
    examples = tuple(PageExample(name, *texts[name], tuple(of)) for name, of in merged.items())
    records = {column: run.record for column, run in runs}
    return ExampleGroup(task, runs[0][1].record.protocol, examples, records)


class _MetricSums(NamedTuple):
    name: str
    metric: Metric
    sums: dict[int, tuple[float, ...]]  # by position of the example


def _metric_sums(run: Run) -> list[_MetricSums]:
    """The metrics that have a value for a single example, main ones first."""
    try:
        available = measures(run.record)
    except RecordError:  # the benchmark is not installed: texts are shown without values
        return []
    main = main_measures(available)
    ordered = [*main, *(measure for measure in available if measure not in main)]
    return [
        _MetricSums(m.name, m.metric, _sums(run.outcomes.metrics[m.name]))
        for m in ordered
        if not isinstance(m.metric, ModuleMetric)
        and not m.metric.select
        and run.outcomes.has(m.name)
    ]


def _judge(
    metrics: Sequence[_MetricSums], place: int
) -> tuple[str, tuple[tuple[str, str], ...], float | None]:
    """State, values and loss of the example at a position."""
    state, loss = "", None
    shown = []
    for name, metric, sums in metrics:
        if place not in sums or (value := _value(metric, sums[place])) is None:
            continue
        if metric.proportion and not state:
            *_, right, count = sums[place]
            state = "right" if right == count else "part" if right else "wrong"
        if loss is None:
            loss = -value if metric.higher_is_better else value
        shown.append((name, f"{number(value, metric.unit)} {metric.unit}"))
    return state, tuple(shown[:MAX_VALUES]), loss


def _sums(outcomes: MetricOutcomes) -> dict[int, tuple[float, ...]]:
    """The statistics of each example, summed over its outcomes."""
    sums: dict[int, tuple[float, ...]] = {}
    for place, row in zip(outcomes.examples, outcomes.values, strict=True):
        before = sums.get(place)
        sums[place] = row if before is None else tuple(map(add, before, row))
    return sums


def _value(metric: Metric, sums: Sequence[float]) -> float | None:
    """The metric of one example alone; None if it is not a finite number."""
    with np.errstate(all="ignore"):
        try:
            value = float(values(metric, np.asarray(sums, np.float64)))
        except (ArithmeticError, ValueError):
            return None
    return value if math.isfinite(value) else None


def sample(group: ExampleGroup, limit: int, seed: int = 0) -> GroupSample:
    """Choose at most `limit` examples: up to half of them flipped, the others at random."""
    examples = group.examples
    if len(examples) <= limit:
        return GroupSample(group, examples, 0)
    rng = random.Random(seed)
    flips = [place for place, example in enumerate(examples) if example.flipped]
    chosen = set(rng.sample(flips, min(len(flips), limit // 2)))
    picked = len(chosen)
    others = [place for place in range(len(examples)) if place not in chosen]
    chosen |= set(rng.sample(others, limit - picked))
    return GroupSample(group, tuple(examples[place] for place in sorted(chosen)), picked)


def page_json(example: PageExample) -> dict[str, Any]:
    """An example for the script of the page; long texts are clipped."""
    value = asdict(example) | {"flipped": example.flipped}
    for fields in (value, *value["runs"]):
        for name in {"id", "prompt", "reference", "response"} & fields.keys():
            fields[name] = clip(fields[name], MAX_TEXT_CHARS)
    return value


def file_json(group: ExampleGroup, example: PageExample, labels: Sequence[str]) -> dict[str, Any]:
    """An example for the file with all examples; nothing is clipped."""
    return {
        "task": group.task,
        "protocol": group.protocol,
        "id": example.id,
        "prompt": example.prompt,
        "reference": example.reference,
        "runs": [
            {
                "run": labels[run.column],
                "response": run.response,
                "state": run.state,
                "values": dict(run.values),
            }
            for run in example.runs
        ],
    }
