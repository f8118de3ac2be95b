"""Runs of the same benchmarks, paired item by item: differences, tests, flipped items.

p-values of the main scores (those that fill a column of the paper's tables) are adjusted
together, after Holm; the others are shown as they are.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from harness.analysis.runs import (
    PairedOutcomes,
    Run,
    common,
    differing,
    in_words,
    incompatibility,
    label,
    main_measures,
    measures,
)
from harness.errors import NumericsError, RecordError, UsageError
from harness.metrics.hf_evaluate import ModuleMetric
from harness.records.items import Shown
from harness.records.record import Record
from harness.stats.paired import Difference, difference, holm
from harness.task import Measure


@dataclass(frozen=True, slots=True)
class Flip:
    """An item that only one of two runs got right."""

    id: str
    won: bool  # by the second run
    a: Shown
    b: Shown


@dataclass(frozen=True, slots=True)
class Line:
    """One score in two runs."""

    task: str
    protocol: str
    metric: str
    unit: str
    higher_is_better: bool
    main: bool
    items: int  # that both runs have
    difference: Difference
    adjusted: float | None = None  # p after Holm, over the main scores
    flips: tuple[Flip, ...] = ()


@dataclass(frozen=True, slots=True)
class Incomparable:
    """One score that two runs share and that cannot be compared."""

    metric: str
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs, or two folders of them."""

    lines: tuple[Line, ...]
    marks: tuple[str, ...]  # signatures that differ where they may
    refused: tuple[str, ...]  # pairs that are not comparable, or have no partner


@dataclass(slots=True)
class _Found:
    lines: list[Line] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def compare(
    a: Sequence[Run], b: Sequence[Run], *, every: bool = False, anyway: bool = False, seed: int = 0
) -> Comparison:
    """Every benchmark that both sides have.

    Args:
        a: the runs of one side.
        b: the runs of the other; differences are b minus a.
        every: all scores, not the main ones alone.
        anyway: compare pairs that measure different things as well, if they have common items.
        seed: of the resamples.
    """
    found = _Found()
    for name, one, two in partners(a, b):
        if one is None or two is None:
            missing = "first" if one is None else "second"
            found.refused.append(f"{name}: the {missing} side has no such run")
            continue
        try:
            main = [measure.name for measure in main_measures(measures(one.record))]
            wanted = None if every else main
            for line in pair(one, two, wanted, anyway=anyway, seed=seed):
                if isinstance(line, Line):
                    found.lines.append(line)
                else:
                    found.refused.append(f"{name} {line.metric}: {line.reason}")
            found.marks.append(mark(one.record, two.record))
        except RecordError as error:
            found.refused.append(f"{name}: {error}")
    marks = tuple(filter(None, found.marks))
    return Comparison(tuple(_adjusted(found.lines)), marks, tuple(found.refused))


def partners(a: Sequence[Run], b: Sequence[Run]) -> Iterator[tuple[str, Run | None, Run | None]]:
    """(name, run of a, run of b) of every benchmark and protocol; None where one has none.

    Of several runs of one protocol the newest counts. Where each side has one run of a benchmark
    they are partners whatever their protocols are, so that the difference is seen and named.
    """
    sides = [newest_runs(runs) for runs in (a, b)]
    tasks = dict.fromkeys(task for side in sides for task, _ in side)
    for task in tasks:
        mine = [{p: run for (t, p), run in side.items() if t == task} for side in sides]
        if len(mine[0]) == len(mine[1]) == 1:
            [one], [two] = (side.values() for side in mine)
            yield task, one, two
            continue
        for protocol in dict.fromkeys([*mine[0], *mine[1]]):
            yield f"{task}, {protocol}", mine[0].get(protocol), mine[1].get(protocol)


def newest_runs(runs: Sequence[Run]) -> dict[tuple[str, str], Run]:
    """The newest run of each benchmark and protocol."""
    ordered = sorted(runs, key=lambda run: run.record.created)
    return {label(run.record): run for run in ordered}


def one_checkpoint(runs: Sequence[Run], where: str) -> None:
    """Make sure that the newest run of every benchmark and protocol is of the same checkpoint.

    Args:
        runs: of one side of a comparison.
        where: they come from, for the message.

    Raises:
        UsageError: they are of several; as one side they would be a mixture that no model gave.
    """
    tasks: dict[tuple[str, str], list[str]] = {}
    for run in newest_runs(runs).values():
        model = run.record.model
        tasks.setdefault((model["name"], model["digest"]), []).append(label(run.record)[0])
    if len(tasks) > 1:
        listed = "; ".join(
            f"{name} ({digest[:12]}): {', '.join(dict.fromkeys(of))}"
            for (name, digest), of in tasks.items()
        )
        raise UsageError(
            f"{where}: the newest runs are of {len(tasks)} checkpoints ({listed}); give the "
            "records of one, or a folder for each checkpoint"
        )


def pair(
    a: Run,
    b: Run,
    wanted: Collection[str] | None,
    *,
    anyway: bool = False,
    seed: int = 0,
) -> list[Line | Incomparable]:
    """The scores that two runs of a benchmark share; p is not adjusted.

    A score without a finite value on the common items does not take the others with it.

    Args:
        a: one run.
        b: another; differences are b minus a.
        wanted: which measures are compared, by name; None is all.
        anyway: whether runs that measure different things are paired as well.
        seed: of the resamples.

    Raises:
        RecordError: they are not comparable.
    """
    why = incompatibility(a.record, b.record)
    if why and not anyway:
        raise RecordError(why)
    known = measures(a.record)
    main = main_measures(known)
    return [
        _line(a, b, measure, measure in main, seed)
        for measure in known
        if (wanted is None or measure.name in wanted)
        and all(run.items.has(measure.name) for run in (a, b))
    ]


def mark(a: Record, b: Record) -> str:
    """Where two signatures differ, in words; empty if they do not."""
    fields = differing(a, b)
    return f"{label(a)[0]}: the signatures differ in {in_words(fields)}" if fields else ""


def _line(a: Run, b: Run, measure: Measure, main: bool, seed: int) -> Line | Incomparable:
    both = common(a, b, measure.name)
    assert not isinstance(measure.metric, ModuleMetric)
    try:
        found = difference(measure.metric, both.a, both.b, blocks=measure.blocks, seed=seed)
    except NumericsError as error:
        return Incomparable(measure.name, str(error))
    return Line(
        task=label(a.record)[0],
        protocol=a.record.protocol,
        metric=measure.name,
        unit=measure.metric.unit,
        higher_is_better=measure.metric.higher_is_better,
        main=main,
        items=len(both.keys),
        difference=found,
        flips=tuple(_flips(a, b, both)) if found.lost is not None else (),
    )


def _flips(a: Run, b: Run, both: PairedOutcomes) -> Iterator[Flip]:
    """Items that one run got right and the other wrong, lost ones first."""
    shown = [dict(zip(run.items.ids, run.items.shown, strict=True)) for run in (a, b)]
    change = both.b[:, -2] - both.a[:, -2]
    for won in (False, True):
        for (item, _), moved in zip(both.keys, change, strict=True):
            if moved and (moved > 0) == won:
                yield Flip(item, won, shown[0][item], shown[1][item])


def _adjusted(lines: Sequence[Line]) -> list[Line]:
    adjusted = holm([line.difference.p if line.main else None for line in lines])
    return [replace(line, adjusted=p) for line, p in zip(lines, adjusted, strict=True)]


@dataclass(frozen=True, slots=True)
class Matrix:
    """One score in several runs; `lines[i, j]` is run j minus run i."""

    task: str
    metric: str
    unit: str
    names: tuple[str, ...]
    lines: dict[tuple[int, int], Line]


def matrices(
    sides: Sequence[tuple[str, Sequence[Run]]], *, every: bool = False, anyway: bool = False
) -> tuple[list[Matrix], Comparison]:
    """Three or more sides, each against each; p of the main scores adjusted over all of them.

    Args:
        sides: name and runs of each.
        every: as for `compare`.
        anyway: as for `compare`.
    """
    pairs = list(combinations(range(len(sides)), 2))
    found = [compare(sides[i][1], sides[j][1], every=every, anyway=anyway) for i, j in pairs]
    placed = [(pair, line) for pair, c in zip(pairs, found, strict=True) for line in c.lines]
    lines = _adjusted([line for _, line in placed])
    tables: dict[tuple[str, str, str], Matrix] = {}
    names = tuple(name for name, _ in sides)
    for (pair, _), line in zip(placed, lines, strict=True):
        key = (line.task, line.protocol, line.metric)
        table = tables.setdefault(key, Matrix(line.task, line.metric, line.unit, names, {}))
        table.lines[pair] = line
    marks = dict.fromkeys(mark for c in found for mark in c.marks)
    refused = [
        f"{names[i]} and {names[j]}: {reason}"
        for (i, j), c in zip(pairs, found, strict=True)
        for reason in c.refused
    ]
    return list(tables.values()), Comparison(tuple(lines), tuple(marks), tuple(refused))
