"""The number of examples that a comparison needs, from the spread of the runs at hand."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.compare import matching_runs
from harness.analysis.paper.published import POINTS
from harness.analysis.runs import PairedOutcomes, Run, common, incomparable, main_measures, measures
from harness.errors import RecordError, UsageError
from harness.metrics.hf_evaluate import ModuleMetric
from harness.stats.power import (
    detectable,
    difference,
    needed,
    sd_guess,
    sd_of_difference,
    sd_of_flips,
)
from harness.task import Measure


@dataclass(frozen=True, slots=True)
class PowerSettings:
    """The drop to detect, and what is assumed about the comparison."""

    drop: float  # points for scores in points, else percent of the score
    alpha: float = 0.05  # one-sided
    power: float = 0.8
    correlation: float = 0.5  # between the examples of two runs, if only one run is given
    discordance: float | None = None  # share of right/wrong examples that only one run gets right


@dataclass(frozen=True, slots=True)
class PowerEstimate:
    """The estimate for one score."""

    task: str
    metric: str
    unit: str  # of drop and detectable: points or % of the score
    examples: int  # in the run
    detectable: float | None  # the smallest drop they can detect; None where nothing differs
    needed: int | None  # examples needed to detect the drop
    needed_for_difference: int | None  # or the difference between two runs, whatever its sign
    basis: str  # where the spread of the differences comes from


def power(
    a: Sequence[Run], b: Sequence[Run], settings: PowerSettings, *, every: bool = False
) -> list[PowerEstimate]:
    """Estimates for the scores of every run of `a`, with the matching runs of `b` if any.

    Args:
        a: runs of one checkpoint.
        b: runs of another one.
        settings: the drop to detect, and the assumptions.
        every: all scores, not only the main ones.

    Raises:
        RecordError: matching runs measure different things.
        UsageError: the settings do not fit the scores.
    """
    estimates = []
    has_proportions = False
    for _, one, two in matching_runs(a, b):
        if one is None:
            continue
        if two is not None and (why := incomparable(one.record, two.record)):
            raise RecordError(f"{one.file} and {two.file}: {why.reason}")
        available = measures(one.record)
        for measure in available if every else main_measures(available):
            has_proportions |= getattr(measure.metric, "proportion", False)
            estimates.append(_estimate(measure, one, two, settings))
    if settings.discordance is not None and not has_proportions:
        raise UsageError(
            "--discordance applies to right/wrong examples, and no score here has them"
        )
    return estimates


def _estimate(measure: Measure, a: Run, b: Run | None, settings: PowerSettings) -> PowerEstimate:
    in_points = measure.metric.unit in POINTS
    paired = common(a, b or a, measure.name)
    value = next(s.value for s in a.record.scores if s.metric == measure.name)
    sd, basis = _spread(measure, paired, b is not None, settings)
    if not in_points and value == 0:
        sd, basis = 0.0, "the score is 0, so a drop cannot be a share of it"
    elif not sd:
        basis = f"{basis}: no example differs, so there is no estimate"
    scale = 1.0 if in_points or value == 0 else 100 / abs(value)  # score's unit -> drop's unit
    level = {"alpha": settings.alpha, "power": settings.power}
    assert not isinstance(measure.metric, ModuleMetric)  # its outcomes are texts
    seen = abs(difference(measure.metric, paired.a, paired.b))  # 0 without a second run
    return PowerEstimate(
        task=a.record.task,
        metric=measure.name,
        unit="points" if in_points else "% of the score",
        examples=len(paired.keys),
        detectable=scale * detectable(sd, len(paired.keys), **level) if sd else None,
        needed=needed(scale * sd, settings.drop, **level) if sd else None,
        needed_for_difference=needed(sd, seen, **level) if sd and seen else None,
        basis=basis,
    )


def _spread(
    measure: Measure, paired: PairedOutcomes, two_runs: bool, settings: PowerSettings
) -> tuple[float, str]:
    """Standard deviation of one example's difference, in the score's unit, and its basis."""
    metric, blocks = measure.metric, measure.blocks
    assert not isinstance(metric, ModuleMetric)
    if two_runs:
        return sd_of_difference(metric, paired.a, paired.b, blocks=blocks), "the two runs"
    if settings.discordance is not None and metric.proportion:
        share = settings.discordance
        return sd_of_flips(share, settings.drop), f"{share:.0%} of the examples differ"
    guess = sd_guess(metric, paired.a, settings.correlation, blocks=blocks)
    return guess, f"one run, correlation {settings.correlation:g}"
