"""How many items a comparison needs, from the spread of the runs at hand."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.compare import partners
from harness.analysis.paper.published import POINTS
from harness.analysis.runs import Run, common, incompatibility, main_measures, measures
from harness.errors import RecordError, UsageError
from harness.stats.power import detectable, needed, sd_guess, sd_of_difference, sd_of_flips
from harness.task import Measure


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a comparison."""

    drop: float  # points for scores in points, else percent of the score
    alpha: float = 0.05  # one-sided
    power: float = 0.8
    correlation: float = 0.5  # of the items of two runs, where there is only one to look at
    discordance: float | None = None  # share of right/wrong items that one run alone gets right


@dataclass(frozen=True, slots=True)
class Power:
    """The answer for one score."""

    task: str
    metric: str
    unit: str  # of drop and detectable: points or % of the score
    items: int  # today's
    detectable: float | None  # the smallest drop that these show; None where nothing differs
    needed: int | None  # items for the drop that was asked about
    basis: str  # where the spread of the differences comes from


def power(a: Sequence[Run], b: Sequence[Run], question: Question) -> list[Power]:
    """The main scores of every run of `a`; with their partners in `b`, if there are any.

    Raises:
        RecordError: two partners measure different things, or a benchmark is not installed.
        UsageError: the question has no answer.
    """
    found = []
    asked: list[Measure] = []
    for _, one, two in partners(a, b):
        if one is None:
            continue
        if two is not None and (why := incompatibility(one.record, two.record)):
            raise RecordError(f"{one.source} and {two.source}: {why}")
        for measure in main_measures(measures(one.record)):
            asked.append(measure)
            found.append(_of(measure, one, two, question))
    proportions = any(getattr(m.metric, "proportion", False) for m in asked)
    if question.discordance is not None and not proportions:
        raise UsageError("--discordance is for right/wrong items, and no score here has them")
    return found


def _of(measure: Measure, a: Run, b: Run | None, question: Question) -> Power:
    points = measure.metric.unit in POINTS
    both = common(a, b or a, measure.name)
    value = next(s.value for s in a.record.scores if s.metric == measure.name)
    sd, basis = _spread(measure, a, b, question)
    if not points and value == 0:
        sd, basis = 0.0, "the score is 0, so a drop cannot be a share of it"
    elif not sd:
        basis = f"{basis}: no item differs, so it cannot be told"
    scale = 1.0 if points or value == 0 else 100 / abs(value)  # score's unit -> unit of the drop
    level = {"alpha": question.alpha, "power": question.power}
    return Power(
        task=a.record.task,
        metric=measure.name,
        unit="points" if points else "% of the score",
        items=len(both.keys),
        detectable=scale * detectable(sd, len(both.keys), **level) if sd else None,
        needed=needed(scale * sd, question.drop, **level) if sd else None,
        basis=basis,
    )


def _spread(measure: Measure, a: Run, b: Run | None, question: Question) -> tuple[float, str]:
    """Standard deviation of an item's difference, in the score's unit, and where it is from."""
    metric, blocks = measure.metric, measure.blocks
    both = common(a, b or a, measure.name)
    if b is not None:
        return sd_of_difference(metric, both.a, both.b, blocks=blocks), "the two runs"  # type: ignore[arg-type]
    if question.discordance is not None and getattr(metric, "proportion", False):
        share = question.discordance
        return sd_of_flips(share, question.drop), f"{share:.0%} of the items differ"
    guess = sd_guess(metric, both.a, question.correlation, blocks=blocks)  # type: ignore[arg-type]
    return guess, f"one run, correlation {question.correlation:g}"
