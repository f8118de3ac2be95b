"""The items behind the scores: what was asked, what each run said, and how it counted."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.analysis.paper import published
from harness.analysis.runs import Run, label, main_measures, measures
from harness.errors import RecordError
from harness.metrics import Metric
from harness.metrics.hf_evaluate import ModuleMetric
from harness.records.record import Record
from harness.report.number_format import number
from harness.report.page.columns import Column, clip
from harness.stats.paired import values
from harness.task import Measure

LONGEST = 2000  # characters of one text on the page
MEASURES = 6  # shown of an item, the main ones first


@dataclass(frozen=True, slots=True)
class Said:
    """What one run made of an item."""

    side: int  # which column
    got: str
    state: str  # "right", "wrong", "part"; empty where nothing is right or wrong
    values: tuple[tuple[str, str], ...]  # measure, value
    loss: float | None  # the first measure's value, larger is worse


@dataclass(frozen=True, slots=True)
class Item:
    """One item in all the runs that have it."""

    id: str
    asked: str
    wanted: str
    said: tuple[Said, ...]

    @property
    def flipped(self) -> bool:
        """Whether it is right in one run and not in another."""
        return len({said.state for said in self.said}) > 1


@dataclass(frozen=True, slots=True)
class Group:
    """A benchmark under one protocol: runs that measure the same thing."""

    task: str
    protocol: str
    total: int  # items
    flipped: int  # of them, in all
    items: tuple[Item, ...]
    records: Mapping[int, Record] = field(default_factory=dict)  # by column


@dataclass(frozen=True, slots=True)
class Shown:
    """A group, and the items of it that are on the page."""

    group: Group
    items: tuple[Item, ...]  # in the group's order
    picked: int  # of them, because they flipped


def groups(sides: Sequence[Column]) -> list[Group]:
    """All items of all benchmarks, those of the paper first."""
    found: dict[tuple[str, ...], list[tuple[int, Run]]] = {}
    for place, side in enumerate(sides):
        for entry in side.entries:
            if entry.has_outcomes:
                key = (label(entry.record)[0], *entry.record.signature.identity())
                found.setdefault(key, []).append((place, entry))
    order = published.in_order(dict.fromkeys(key[0] for key in found))
    ordered = sorted(found, key=lambda key: order.index(key[0]))
    return [_group(key[0], found[key]) for key in ordered]


def _group(task: str, entries: Sequence[tuple[int, Run]]) -> Group:
    merged: dict[str, list[Said]] = {}
    texts: dict[str, tuple[str, str]] = {}
    for place, entry in entries:
        judged = _judge(entry)
        texts_by_id = zip(entry.outcomes.ids, entry.outcomes.shown, strict=True)
        for row, (name, shown) in enumerate(texts_by_id):
            texts.setdefault(name, (shown.prompt, shown.reference))
            said = Said(place, shown.response, *judged(row))
            merged.setdefault(name, []).append(said)
    items = tuple(Item(name, *texts[name], tuple(said)) for name, said in merged.items())
    flipped = sum(item.flipped for item in items)
    records = {place: entry.record for place, entry in entries}
    return Group(task, entries[0][1].record.protocol, len(items), flipped, items, records)


class _Judge:
    """An entry's outcomes by item, and what they come to."""

    def __init__(self, entry: Run, known: Sequence[Measure]) -> None:
        self._metrics: list[tuple[str, Metric]] = []
        self._sums: dict[str, dict[int, tuple[float, ...]]] = {}
        for measure in known:
            metric = measure.metric
            if isinstance(metric, ModuleMetric) or metric.select:
                continue
            if entry.outcomes.has(measure.name):
                self._metrics.append((measure.name, metric))
                self._sums[measure.name] = _sums(*entry.outcomes.metrics[measure.name])

    def __call__(self, row: int) -> tuple[str, tuple[tuple[str, str], ...], float | None]:
        """State, values and loss of the item in a row."""
        state, loss = "", None
        shown = []
        for name, metric in self._metrics:
            sums = self._sums[name].get(row)
            value = None if sums is None else _value(metric, sums)
            if sums is None or value is None:
                continue
            if metric.proportion and not state:
                state = _state(sums)
            if loss is None:
                loss = -value if metric.higher_is_better else value
            shown.append((name, f"{number(value, metric.unit)} {metric.unit}"))
        return state, tuple(shown[:MEASURES]), loss


def _judge(entry: Run) -> _Judge:
    try:
        known = measures(entry.record)
    except RecordError:  # a benchmark that is not installed: its texts can be read all the same
        return _Judge(entry, ())
    main = main_measures(known)
    return _Judge(entry, [*main, *(measure for measure in known if measure not in main)])


def _sums(of: Sequence[int], rows: Sequence[tuple[float, ...]]) -> dict[int, tuple[float, ...]]:
    """Row of an item -> the sums of its outcomes."""
    found: dict[int, tuple[float, ...]] = {}
    for place, row in zip(of, rows, strict=True):
        known = found.get(place)
        found[place] = row if known is None else tuple(map(sum, zip(known, row, strict=True)))
    return found


def _value(metric: Metric, sums: Sequence[float]) -> float | None:
    """The metric on one item alone; None where that is no number."""
    with np.errstate(all="ignore"):
        try:
            value = float(values(metric, np.asarray(sums, np.float64)))
        except (ArithmeticError, ValueError):
            return None
    return value if math.isfinite(value) else None


def _state(sums: Sequence[float]) -> str:
    right, count = sums[-2:]
    return "right" if right == count else "part" if right else "wrong"


def sample(group: Group, most: int, seed: int = 0) -> Shown:
    """At most so many items, in order.

    Half of the places at most go to items that flipped, the others are drawn from all that is
    left.
    """
    if len(group.items) <= most:
        return Shown(group, group.items, 0)
    rng = random.Random(seed)
    flips = [place for place, item in enumerate(group.items) if item.flipped]
    chosen = set(rng.sample(flips, min(len(flips), most // 2)))
    first = len(chosen)
    others = [place for place in range(len(group.items)) if place not in chosen]
    chosen |= set(rng.sample(others, most - first))
    return Shown(group, tuple(group.items[place] for place in sorted(chosen)), first)


def as_json(item: Item) -> dict[str, Any]:
    """What the page's script reads; long texts are clipped."""
    return {
        "id": clip(item.id, LONGEST),
        "asked": clip(item.asked, LONGEST),
        "wanted": clip(item.wanted, LONGEST),
        "flipped": item.flipped,
        "said": [
            {
                "side": said.side,
                "got": clip(said.got, LONGEST),
                "state": said.state,
                "values": said.values,
                "loss": said.loss,
            }
            for said in item.said
        ],
    }


def dump_line(group: Group, item: Item, labels: Sequence[str]) -> Mapping[str, Any]:
    """One line of the file with all items; nothing is clipped."""
    return {
        "task": group.task,
        "protocol": group.protocol,
        "id": item.id,
        "asked": item.asked,
        "wanted": item.wanted,
        "runs": [
            {"run": labels[s.side], "got": s.got, "state": s.state, "values": dict(s.values)}
            for s in item.said
        ],
    }
