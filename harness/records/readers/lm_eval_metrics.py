"""The metrics of lm-eval that its samples determine, and how.

Those are means over the samples, and totals of nats divided by totals of units. Others (BLEU, F1
over classes, ...) are functions of a corpus, which the values of single samples do not give.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.core import Score
from harness.metrics import MEAN, Metric, Outcome
from harness.records.readers.reported import KINDS, PLAIN_MEAN, UNKNOWN_SCALE

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


@dataclass(frozen=True, slots=True)
class Formula:
    """How the values of samples become one number."""

    unit: str  # of its kind
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


FORMULAS = {
    formula.unit: formula
    for formula in (
        Formula(MEAN.unit, lambda value: (float(value), 1.0)),
        Formula(UNKNOWN_SCALE, lambda value: (float(value), 1.0)),
        # exp of minus the mean log-likelihood of a sample's whole target, whatever its length
        Formula("per target", lambda value: (-float(value), 1.0)),
        Formula("per word", _nats_and_units),
        Formula("per byte", _nats_and_units),
        Formula("bits per byte", _nats_and_units),
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
        return KINDS[formula.unit].metric
    return MEAN if _ACCURACY.search(name) else PLAIN_MEAN
