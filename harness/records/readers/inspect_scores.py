"""The scores of inspect_ai that its samples determine, and how.

A scorer gives each sample and epoch a value, a reducer makes one value per example of the epochs,
and a metric makes one number of the examples (`inspect_ai/_eval/task/results.py`,
`inspect_ai/scorer/` at 0.3.285). Known are the metrics `accuracy` and `mean`, which are means, and
`perplexity_per_token`, all under inspect_ai's own reducers.
"""

import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from harness.core import Score
from harness.metrics import MEAN, Outcome, perplexity
from harness.records.outcomes import MetricOutcomes
from harness.records.readers.reported import (
    KINDS,
    UNKNOWN_SCALE,
    Results,
    as_right_or_wrong,
    collected,
    number,
    pass_at,
    reported,
    with_totals,
)

Samples = Sequence[Mapping[str, Any]]
"""The samples of one example, one per epoch."""

_MEANS = ("accuracy", "mean")
_PERPLEXITY = "perplexity_per_token"
_SPREADS = ("stderr", "bootstrap_stderr", "std", "var", "ci", "ci_wilson")
"""Metrics that say how certain another one is."""
_SHARES = ("exact", "f1")
"""Scorers of inspect_ai whose `mean` is from 0 to 1; the scale of others is unknown."""
_WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_LOWER_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_REDUCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "mode": statistics.mode,
    "max": max,
}
_COUNTED = re.compile(r"(at_least|pass_at|pass_k)_(\d+)")
_COUNTS: dict[str, Callable[[int, int, int], float]] = {
    "at_least": lambda n, right, k: float(right >= k),
    "pass_at": pass_at,
    "pass_k": lambda n, right, k: 1 - pass_at(n, n - right, k),
}
"""Reducers of n values, some of them right: whether k are, and one or all of k that are drawn."""


class Entry(NamedTuple):
    """A score in a log."""

    score: Score
    scorer: str
    key: str | None  # of the value in a dictionary of values
    metric: str
    reducer: str | None  # None: the epochs' values are summed, not reduced
    known: bool  # whether samples determine the score


def entries(log: Results) -> tuple[list[Entry], list[str]]:
    """The scores in a log's results, and those that are not numbers, such as `accuracy (nan)`."""
    found, left_out = [], []
    for result in log["results"]["scores"]:
        for name, metric in result["metrics"].items():
            group = str(metric.get("group") or metric["name"]).rpartition("/")[2]
            if group in _SPREADS:
                continue
            entry = _entry(log, result, name, group)
            if entry:
                found.append(entry)
            else:
                left_out.append(f"{result['name']}/{name} ({metric['value']})")
    return found, left_out


def _entry(log: Results, result: Mapping[str, Any], name: str, group: str) -> Entry | None:
    scorer = str(result["scorer"])
    key = None if result["name"] == scorer else str(result["name"])
    value = number(result["metrics"][name]["value"])
    if value is None:
        return None
    known = group == name in (*_MEANS, _PERPLEXITY) and _is_its_own(log, scorer, name)
    reducer = result.get("reducer") or _reducer(log)
    known &= reducer is None or _reduction(reducer) is not None
    label = "/".join(part for part in (scorer, key, name) if part)
    stderr = result["metrics"].get("stderr", {}).get("value")
    score = reported(
        label if reducer in (None, "mean") else f"{label},{reducer}",
        KINDS[_unit(group, key or scorer, value)].metric,
        value,
        stderr=number(stderr) if group in _MEANS else None,
    )
    return Entry(score, scorer, key, name, reducer, known)


def _reducer(log: Results) -> str | None:
    """The reducer of scores that name none: the mean, unless reducers were turned off."""
    return None if log["eval"]["config"].get("epochs_reducer") == [] else "mean"


def _unit(metric: str, scorer: str, value: float) -> str:
    if metric == _PERPLEXITY:
        return perplexity("token").unit
    share = metric == "accuracy" or (metric == "mean" and scorer in _SHARES)
    return MEAN.unit if share and 0 <= value <= 1 else UNKNOWN_SCALE


def _is_its_own(log: Results, scorer: str, metric: str) -> bool:
    """Whether a metric is inspect_ai's own, without options; older logs do not say."""
    listed = [s["metrics"] for s in log["eval"].get("scorers") or () if s["name"] == scorer]
    listed = [log["eval"].get("metrics") or found for found in listed]
    definitions = {d["name"]: d for found in listed for d in _definitions(found)}
    if not definitions:
        return True
    definition = definitions.get(f"inspect_ai/{metric}")
    return definition is not None and not definition.get("options")


def _definitions(metrics: Any) -> Iterator[Mapping[str, Any]]:
    """The metrics of a scorer: a list, or lists by key, or a list with such dictionaries in it."""
    if isinstance(metrics, list):
        for metric in metrics:
            if "name" in metric:
                yield metric
            else:
                yield from _definitions(metric)
    elif isinstance(metrics, dict):
        for found in metrics.values():
            yield from _definitions(found)


def with_outcomes(
    entry: Entry, examples: Sequence[Samples], file: str
) -> tuple[Score, MetricOutcomes]:
    """The outcomes of a known score, and the score with their totals.

    Examples without a value are left out, as inspect_ai does.
    """
    outcomes = collected(_outcome(entry, samples) for samples in examples)
    score = with_totals(entry.score, outcomes, file)
    return as_right_or_wrong(score, outcomes), outcomes


def _outcome(entry: Entry, samples: Samples) -> Outcome | None:
    scores = [sample["scores"][entry.scorer] for sample in samples if _has(sample, entry.scorer)]
    if entry.metric == _PERPLEXITY:
        for score in scores[:1]:  # of several epochs inspect_ai takes the first
            known = score["metadata"]
            return -float(known["sum_log_probs"]), float(known["num_tokens"])
    values = [_number(value) for value in _values(entry, scores)]
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return None
    reduction = _reduction(entry.reducer) if entry.reducer else None
    if reduction is None:
        return math.fsum(values), float(len(values))
    reduced = reduction(values)
    return None if math.isnan(reduced) else (reduced, 1.0)


def _has(sample: Mapping[str, Any], scorer: str) -> bool:
    return scorer in (sample.get("scores") or {})


def _values(entry: Entry, scores: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
    for score in scores:
        value = score["value"]
        yield value.get(entry.key or entry.scorer) if isinstance(value, dict) else value


def _number(value: Any) -> float:
    """A value as inspect_ai's `value_to_float` reads it; what it cannot read is 0."""
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str):
        return 0.0
    word = _WORDS.get(value, _LOWER_WORDS.get(value.lower()))
    if word is None:
        try:
            word = float(value)
        except ValueError:
            return 0.0
    return word if math.isfinite(word) else 0.0


def _reduction(reducer: str) -> Callable[[Sequence[float]], float] | None:
    """What a reducer of inspect_ai makes of an example's values; None if it is not its own."""
    counted = _COUNTED.fullmatch(reducer)
    if not counted:
        return _REDUCTIONS.get(reducer)
    formula, k = _COUNTS[counted[1]], int(counted[2])
    return lambda values: formula(len(values), sum(value >= 1 for value in values), k)
