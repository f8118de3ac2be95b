"""The metrics of lm-eval that its samples determine, and how.

Those are means over the samples, and totals of nats divided by totals of units. Others (BLEU, F1
over classes, ...) are functions of a corpus, which the values of single samples do not give.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from harness.core import Score
from harness.errors import RecordError
from harness.metrics import ACCURACY, MEAN, Metric, Outcome, bits, perplexity
from harness.task import Measure

RIGHT_OR_WRONG = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
_SHARE = re.compile(r"(^|_)(acc|accuracy|em|exact|match|f1)(_|$)")
"""Names of means from 0 to 1; the scale of other means is unknown, so they are not changed."""
_ACCURACY = re.compile(r"(^|_)(acc|accuracy)(_|$)")
"""Names of numbers from 0 to 1, however they are computed."""
_AGGREGATIONS = {
    **dict.fromkeys(RIGHT_OR_WRONG, "mean"),
    "perplexity": "perplexity",
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
}
"""Metric -> its aggregation (`lm_eval/api/metrics.py`), unless the task names another one."""
_UNITS = {
    ("perplexity", "perplexity"): "per target",
    ("word_perplexity", "weighted_perplexity"): "per word",
    ("byte_perplexity", "weighted_perplexity"): "per byte",
    ("bits_per_byte", "bits_per_byte"): "bits per byte",
}
"""(metric, aggregation) -> unit, for metrics that are not means."""
UNKNOWN_SCALE = ""  # the unit of a number whose scale is not known


@dataclass(frozen=True, slots=True)
class Formula:
    """How the values of samples become one number."""

    metric: Metric
    statistics: tuple[str, str]  # names of the two numbers of an outcome
    outcome: Callable[[Any], Outcome]  # the value of a sample -> an outcome


@dataclass(frozen=True, slots=True)
class ReportedScore:
    """A score that lm-eval reports, with its metric and filter, and its formula if known."""

    metric: str
    filter: str
    score: Score
    formula: Formula | None


def _nats_and_units(value: Any) -> Outcome:
    loglikelihood, units = value
    return -float(loglikelihood), float(units)


_PLAIN_MEAN = Metric(UNKNOWN_SCALE, higher_is_better=True, compute=lambda sums: sums[0] / sums[1])
FORMULAS = {
    formula.metric.unit: formula
    for formula in (
        Formula(MEAN, ("sum", "items"), lambda value: (float(value), 1.0)),
        Formula(_PLAIN_MEAN, ("sum", "items"), lambda value: (float(value), 1.0)),
        # exp of minus the mean log-likelihood of a sample's whole target, whatever its length
        Formula(perplexity("target"), ("nats", "targets"), lambda value: (-float(value), 1.0)),
        Formula(perplexity("word"), ("nats", "words"), _nats_and_units),
        Formula(perplexity("byte"), ("nats", "bytes"), _nats_and_units),
        Formula(bits("byte"), ("nats", "bytes"), _nats_and_units),
    )
}
"""Unit -> formula."""


def formula(config: Mapping[str, Any], metric: str, higher: bool | None) -> Formula | None:
    """How a metric of a task is computed from samples; None if samples do not determine it.

    A number of unknown scale cannot be compared if lm-eval does not say whether higher is better.
    """
    listed = {str(entry.get("metric")): entry for entry in config.get("metric_list") or ()}
    aggregation = listed.get(metric, {}).get("aggregation") or _AGGREGATIONS.get(metric)
    if str(aggregation) not in ("mean", "nanmean"):
        unit = _UNITS.get((metric, str(aggregation)))
        return FORMULAS[unit] if unit else None
    if _SHARE.search(metric):
        return FORMULAS[MEAN.unit]
    return None if higher is None else FORMULAS[UNKNOWN_SCALE]


def metric_of(name: str, formula: Formula | None) -> Metric:
    """The metric that gives a number its unit, whether samples determine it or not."""
    if formula:
        return formula.metric
    return MEAN if _ACCURACY.search(name) else _PLAIN_MEAN


def measure_of(score: Score) -> Measure:
    """The measure of a score whose samples were read."""
    if score.unit not in FORMULAS:
        raise RecordError(f"score {score.metric!r} of lm-eval has an unknown unit {score.unit!r}")
    metric = ACCURACY if "right" in score.totals else FORMULAS[score.unit].metric
    return Measure(
        name=score.metric,
        metric=replace(metric, higher_is_better=score.higher_is_better),
        extract=_extract,
        statistics=tuple(score.totals),
        help=f"{score.metric} of lm-eval",
    )


def _extract(*_: object) -> NoReturn:
    raise AssertionError("outcomes of lm-eval are read, never extracted")
