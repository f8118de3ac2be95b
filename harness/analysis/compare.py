"""Compare runs of the same benchmarks example by example: differences, tests, flipped examples.

p-values of the main scores (those that fill a column of the paper's tables) are adjusted
together after Holm; other scores are shown without adjustment.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from harness.analysis.runs import (
    Incomparable,
    PairedOutcomes,
    Run,
    blocks_of,
    common,
    incomparable,
    label,
    main_measures,
    measures,
)
from harness.errors import NumericsError, RecordError, UsageError
from harness.metrics.hf_evaluate import ModuleMetric
from harness.records.outcomes import Shown
from harness.records.record import Record
from harness.records.signature import in_words
from harness.stats.paired import Difference, difference, holm
from harness.task import Measure


@dataclass(frozen=True, slots=True)
class Flip:
    """An example that only one of two runs got right."""

    id: str
    won: bool  # by the second run
    a: Shown
    b: Shown


@dataclass(frozen=True, slots=True)
class ScoreComparison:
    """One score in two runs."""

    task: str
    protocol: str
    metric: str
    unit: str
    higher_is_better: bool
    main: bool
    examples: int  # that both runs have
    difference: Difference
    adjusted: float | None = None  # p after Holm, over the main scores
    flips: tuple[Flip, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs, or two folders of runs."""

    scores: tuple[ScoreComparison, ...]
    notes: tuple[str, ...]  # differences between signatures that do not prevent a comparison
    not_compared: tuple[str, ...]  # what, and why
    warnings: tuple[str, ...] = ()  # of the runs that are compared


def compare(
    a: Sequence[Run], b: Sequence[Run], *, every: bool = False, anyway: bool = False, seed: int = 0
) -> Comparison:
    """Compare every benchmark that both sides have; differences are b minus a.

    Args:
        a: The runs of one side.
        b: The runs of the other side.
        every: Compare all scores, not only the main ones.
        anyway: Compare runs that measure different things as well, on their common examples.
        seed: Of the resamples.
    """
    scores: list[ScoreComparison] = []
    notes: list[str] = []
    not_compared: list[str] = []
    warnings: list[str] = []
    for name, one, two in matching_runs(a, b):
        if one is None or two is None:
            missing = "first" if one is None else "second"
            not_compared.append(f"{name}: the {missing} side has no such run")
            continue
        compared = compare_runs(one, two, main_only=not every, anyway=anyway, seed=seed)
        if isinstance(compared, Incomparable):
            not_compared.append(f"{name}: {compared.reason}")
            continue
        for metric, score in compared.items():
            if isinstance(score, Incomparable):
                not_compared.append(f"{name} {metric}: {score.reason}")
            else:
                scores.append(score)
        if note := signature_note(one.record, two.record):
            notes.append(note)
        for record in (one.record, two.record):
            warnings += [f"{name}, {record.model['name']}: {text}" for text in record.warnings]
    return Comparison(tuple(_adjusted(scores)), tuple(notes), tuple(not_compared), tuple(warnings))


def matching_runs(
    a: Sequence[Run], b: Sequence[Run]
) -> Iterator[tuple[str, Run | None, Run | None]]:
    """(name, run of a, run of b) for every benchmark and protocol; None where one side has none.

    Of several runs under one protocol the newest counts. If each side has one run of a benchmark,
    they match whatever their protocols are, so that the difference is seen and named.
    """
    sides = [newest_runs(runs) for runs in (a, b)]
    for task in dict.fromkeys(task for side in sides for task, _ in side):
        first, second = ({p: run for (t, p), run in side.items() if t == task} for side in sides)
        if len(first) == len(second) == 1:
            [one], [two] = first.values(), second.values()
            yield task, one, two
            continue
        for protocol in dict.fromkeys([*first, *second]):
            yield f"{task}, {protocol}", first.get(protocol), second.get(protocol)


def newest_runs(runs: Sequence[Run]) -> dict[tuple[str, str], Run]:
    """The newest run of each benchmark and protocol."""
    return {label(run.record): run for run in sorted(runs, key=lambda run: run.record.created)}


def require_one_checkpoint(runs: Sequence[Run], where: str) -> None:
    """Check that the newest runs of all benchmarks and protocols are of one checkpoint.

    Those of several would together be scores that no model reached.
    """
    tasks: dict[tuple[str, str], list[str]] = {}
    for run in newest_runs(runs).values():
        model = run.record.model
        tasks.setdefault((model["name"], model["digest"]), []).append(label(run.record)[0])
    if len(tasks) > 1:
        checkpoints = "; ".join(
            f"{name} ({digest[:12]}): {', '.join(dict.fromkeys(names))}"
            for (name, digest), names in tasks.items()
        )
        raise UsageError(
            f"{where}: the newest runs are of {len(tasks)} checkpoints ({checkpoints}); give the "
            "records of one, or a folder for each checkpoint"
        )


def compare_runs(
    a: Run,
    b: Run,
    metrics: Collection[str] | None = None,
    *,
    main_only: bool = False,
    anyway: bool = False,
    seed: int = 0,
) -> dict[str, ScoreComparison | Incomparable] | Incomparable:
    """The scores that two runs of a benchmark share, by metric; p is not adjusted.

    A score without a finite value on the common examples does not affect the others.
    `metrics` are those to compare, None for all; the other options are those of `compare`.
    """
    why = incomparable(a.record, b.record)
    if why and not anyway:
        return why
    try:
        available = measures(a.record, b.record)
        main = main_measures(available)
        return {
            measure.name: _compare_score(a, b, measure, measure in main, seed)
            for measure in (main if main_only else available)
            if (metrics is None or measure.name in metrics)
            and a.outcomes.has(measure.name)
            and b.outcomes.has(measure.name)
        }
    except RecordError as error:
        return Incomparable(str(error))


def signature_note(a: Record, b: Record) -> str:
    """Where two signatures differ, and which runs were stopped early; empty if there is nothing."""
    differences = a.signature.diff(b.signature)
    facts = [f"the signatures differ in {in_words(differences)}"] if differences else []
    facts += [
        f"the run of {record.model['name']} was {record.extent}, which depends on its outcomes: "
        "p-values and intervals for a fixed number of examples do not hold"
        for record in (a, b)
        if record.stopped
    ]
    return f"{label(a)[0]}: {'; '.join(facts)}" if facts else ""


def _compare_score(
    a: Run, b: Run, measure: Measure, main: bool, seed: int
) -> ScoreComparison | Incomparable:
    paired = common(a, b, measure.name)
    assert not isinstance(measure.metric, ModuleMetric)
    try:
        blocks = blocks_of(measure, a, b)
        change = difference(measure.metric, paired.a, paired.b, blocks=blocks, seed=seed)
    except NumericsError as error:
        return Incomparable(str(error))
    return ScoreComparison(
        task=label(a.record)[0],
        protocol=a.record.protocol,
        metric=measure.name,
        unit=measure.metric.unit,
        higher_is_better=measure.metric.higher_is_better,
        main=main,
        examples=len(paired.keys),
        difference=change,
        flips=tuple(_flips(a, b, paired)) if change.lost is not None else (),
    )


def _flips(a: Run, b: Run, paired: PairedOutcomes) -> Iterator[Flip]:
    """Examples that one run got right and the other wrong, lost ones first."""
    shown = [dict(zip(run.outcomes.ids, run.outcomes.shown, strict=True)) for run in (a, b)]
    change = paired.b[:, -2] - paired.a[:, -2]
    for won in (False, True):
        for (example, _), by in zip(paired.keys, change, strict=True):
            if by and (by > 0) == won:
                yield Flip(example, won, shown[0][example], shown[1][example])


def _adjusted(scores: Sequence[ScoreComparison]) -> list[ScoreComparison]:
    adjusted = holm([score.difference.p if score.main else None for score in scores])
    return [replace(score, adjusted=p) for score, p in zip(scores, adjusted, strict=True)]


@dataclass(frozen=True, slots=True)
class Matrix:
    """One score in several runs; `scores[i, j]` is run j minus run i."""

    task: str
    metric: str
    unit: str
    names: tuple[str, ...]
    scores: dict[tuple[int, int], ScoreComparison]


def matrices(
    names: Sequence[str],
    sides: Sequence[Sequence[Run]],
    *,
    every: bool = False,
    anyway: bool = False,
) -> tuple[list[Matrix], Comparison]:
    """Compare three or more sides with each other, as `compare` does.

    p of the main scores is adjusted over all pairs.
    """
    compared = {
        (i, j): compare(sides[i], sides[j], every=every, anyway=anyway)
        for i, j in combinations(range(len(sides)), 2)
    }
    places = [place for place, comparison in compared.items() for _ in comparison.scores]
    scores = _adjusted([score for c in compared.values() for score in c.scores])
    tables: dict[tuple[str, str, str], Matrix] = {}
    for place, score in zip(places, scores, strict=True):
        key = (score.task, score.protocol, score.metric)
        matrix = Matrix(score.task, score.metric, score.unit, tuple(names), {})
        tables.setdefault(key, matrix).scores[place] = score
    notes = dict.fromkeys(note for c in compared.values() for note in c.notes)
    not_compared = [
        f"{names[i]} and {names[j]}: {reason}"
        for (i, j), c in compared.items()
        for reason in c.not_compared
    ]
    warnings = dict.fromkeys(text for c in compared.values() for text in c.warnings)
    return list(tables.values()), Comparison(
        tuple(scores), tuple(notes), tuple(not_compared), tuple(warnings)
    )
