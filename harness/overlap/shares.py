"""Which part of a benchmark's n-grams a corpus has, and what scores are with and without it.

Radford et al. 2019, section 4 and Table 6. Shares are over all occurrences of n-grams. The parts
of running text are the lines that its scores are made of; an n-gram belongs to the one that its
first word begins in.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from io import StringIO
from typing import Any, NamedTuple

from harness.analysis.runs import Run, main_measures, measures
from harness.errors import NumericsError, RecordError
from harness.metrics import Outcome
from harness.records.outcomes import Outcomes
from harness.records.record import Record
from harness.stats import intervals
from harness.task import Measure

OWN, WEBTEXT = "own training set", "WebText"
CORPORA = (WEBTEXT, OWN)  # of Table 6
MUCH = 15.0  # percent; Radford et al. 2019, section 4, on LAMBADA
OF_ENGINE = ("stride", "windows", "bos")  # options that leave the texts as they are


class Part(NamedTuple):
    """One item, or one line of running text."""

    item: str
    part: int
    grams: int
    found: int

    @property
    def percent(self) -> float | None:
        """Share of the n-grams that were found; None where there are too few words for one."""
        return 100 * self.found / self.grams if self.grams else None


@dataclass(frozen=True, slots=True)
class Texts:
    """What a benchmark's texts depend on."""

    task: str
    version: int
    protocol: str
    options: Mapping[str, str]
    data: Mapping[str, Any]  # as in a record


@dataclass(frozen=True, slots=True)
class Overlap:
    """One benchmark's data against a corpus."""

    texts: Texts
    distinct: int  # n-grams
    distinct_found: int
    parts: tuple[Part, ...]

    @property
    def task(self) -> str:
        """The benchmark's name."""
        return self.texts.task

    @property
    def grams(self) -> int:
        """Occurrences of n-grams."""
        return sum(part.grams for part in self.parts)

    @property
    def found(self) -> int:
        """Those whose n-gram the corpus has."""
        return sum(part.found for part in self.parts)

    @property
    def percent(self) -> float | None:
        """Share of them; None where no text has enough words for an n-gram."""
        return 100 * self.found / self.grams if self.grams else None

    def above(self, least: float) -> float:
        """Percent of the parts with an overlap above `least` percent."""
        return 100 * sum((p.percent or 0) > least for p in self.parts) / max(len(self.parts), 1)


@dataclass(frozen=True, slots=True)
class Subset:
    """A score on some of a run's items."""

    task: str
    model: str
    metric: str
    unit: str
    group: str
    outcomes: int
    value: float | None  # None where the group is empty
    low: float | None
    high: float | None


@cache
def published() -> dict[tuple[str, str], float]:
    """(benchmark, corpus) -> percent of 8-grams, as the paper has it."""
    text = (files("harness.results.paper") / "overlap.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return {(row["task"], row["corpus"]): float(row["value"]) for row in rows}


GROUPS: dict[str, Callable[[float], bool]] = {
    "all": lambda percent: True,
    "no overlap": lambda percent: percent == 0,
    "any overlap": lambda percent: percent > 0,
    f"over {MUCH:g} %": lambda percent: percent > MUCH,
}


def subsets(run: Run, overlap: Overlap) -> list[Subset]:
    """A run's main scores on all items, those without overlap, those with some and with much.

    The run is of the same texts (`incompatibility`).
    What is too short for an n-gram is without overlap.

    Raises:
        RecordError: the run has no item in common with it.
    """
    found = []
    for measure in main_measures(measures(run.record)):
        if not run.outcomes.has(measure.name):
            continue
        values = run.outcomes.metrics[measure.name].values
        percents = list(_percents(run.outcomes, measure.name, overlap))
        if all(percent is None for percent in percents):
            raise RecordError(
                f"{run.file} has no item in common with these of {overlap.task}; give the "
                "--limit and --seed of that run"
            )
        for group, holds in GROUPS.items():
            pairs = zip(values, percents, strict=True)
            chosen = [value for value, percent in pairs if percent is not None and holds(percent)]
            model = str(run.record.model["name"])
            of = (overlap.task, model, measure.name, measure.metric.unit, group, len(chosen))
            found.append(Subset(*of, *_score(measure, chosen, run.record.seed)))
    return found


def _score(
    measure: Measure, outcomes: Sequence[Outcome], seed: int
) -> tuple[float | None, float | None, float | None]:
    """Value and interval; None where there is nothing to divide by."""
    try:
        score = intervals.score(measure, outcomes, seed)
    except NumericsError:
        return None, None, None
    return score.value, score.low, score.high


def incompatibility(record: Record, texts: Texts) -> str:
    """Why a record is of other texts than those that were looked for; empty if it is not."""
    own = {k: str(v) for k, v in record.options.items() if k not in OF_ENGINE}
    ours = {k: v for k, v in texts.options.items() if k not in OF_ENGINE}
    differing = [
        f"{what} is {theirs} there, {here} here"
        for what, theirs, here in (
            ("version", record.version, texts.version),
            ("data", record.data["sha256"][:12], texts.data["sha256"][:12]),
            *((f"--set {k}", own.get(k), ours.get(k)) for k in dict.fromkeys([*own, *ours])),
        )
        if theirs != here
    ]
    return "; ".join(differing)


def _percents(items: Outcomes, measure: str, overlap: Overlap) -> Iterator[float | None]:
    """The overlap of each outcome's part, or of its item where parts have no outcomes.

    None where the item is not among those that were looked for.
    """
    parts: dict[str, list[Part]] = defaultdict(list)
    for part in overlap.parts:
        parts[part.item].append(part)
    keys = items.keys(measure)
    counts: dict[str, int] = defaultdict(int)
    for item, _ in keys:
        counts[item] += 1
    for item, place in keys:
        own = parts.get(item)
        if own is None:
            yield None
            continue
        by_part = counts[item] == len(own)
        chosen = own[place : place + 1] if by_part else own
        grams, found = sum(p.grams for p in chosen), sum(p.found for p in chosen)
        yield 100 * found / grams if grams else 0.0


def to_csv(overlaps: Sequence[Overlap]) -> str:
    """A line an item, or a line of running text."""
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "item", "part", "grams", "found", "percent"])
    for overlap in overlaps:
        for part in overlap.parts:
            percent = "" if part.percent is None else repr(part.percent)
            writer.writerow([overlap.task, *part, percent])
    return text.getvalue()


def to_json(overlap: Overlap) -> dict[str, Any]:
    """A benchmark's overlap as plain JSON values."""
    return {
        **asdict(overlap.texts),
        "grams": overlap.grams,
        "found": overlap.found,
        "percent": overlap.percent,
        "distinct": overlap.distinct,
        "distinct_found": overlap.distinct_found,
        "paper": {c: published().get((overlap.task, c)) for c in CORPORA},
        "items": [{**part._asdict(), "percent": part.percent} for part in overlap.parts],
    }
