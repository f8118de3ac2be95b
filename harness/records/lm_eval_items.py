"""The items of lm-eval's runs: which of its metrics they give, and the files that hold them.

`samples_<task>_<time>.jsonl` has a line an item and filter, with the strings that the model was
given and what every metric made of the response:

    {"doc_id": 0, "target": " mat", "arguments": {"gen_args_0": {"arg_0": "on the", ...}},
     "resps": [[["-3.5", "True"]]], "filter": "none", "perplexity": -3.5, "acc": 1, ...}

Items are read for scores that are a mean over items, or total nats by total units. Others (BLEU,
F1 over classes, ...) are functions of a corpus that such a line does not give.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core import (
    Example,
    Generate,
    Generated,
    Loglikelihood,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Score,
    Scored,
)
from harness.errors import RecordError
from harness.files import strict_json
from harness.metrics import MEAN, Metric, Outcome, bits, perplexity
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown, show

RIGHT_OR_WRONG = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
SHARE = re.compile(r"(^|_)(acc|accuracy|em|exact|match|f1)(_|$)")
"""Names of means from 0 to 1; the scale of other means is unknown, they stay as they are."""
SHARE_OF_ANY_KIND = re.compile(r"(^|_)(acc|accuracy)(_|$)")
"""Names of numbers from 0 to 1, whatever they are computed from."""
AGGREGATIONS = {
    **dict.fromkeys(RIGHT_OR_WRONG, "mean"),
    "perplexity": "perplexity",
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
}
"""Metric -> how its values are put together (`lm_eval/api/metrics.py`), unless the task says."""
UNITS = {
    ("perplexity", "perplexity"): "per target",
    ("word_perplexity", "weighted_perplexity"): "per word",
    ("byte_perplexity", "weighted_perplexity"): "per byte",
    ("bits_per_byte", "bits_per_byte"): "bits per byte",
}
"""(metric, aggregation) -> unit, of what is no mean."""
AS_IT_IS = ""  # the unit of a number whose scale is not known
NEAR = 1e-6  # relative: far above rounding, far below what another item would change


@dataclass(frozen=True, slots=True)
class Formula:
    """How the values of items become one number."""

    metric: Metric
    statistics: tuple[str, str]  # what an outcome's two numbers are
    outcome: Callable[[Any], Outcome]  # a line's value -> an outcome


@dataclass(frozen=True, slots=True)
class Claim:
    """A number that lm-eval reports: which metric and filter it is of, and its formula if known."""

    metric: str
    filter: str
    score: Score
    formula: Formula | None


def _value(value: Any) -> Outcome:
    return float(value), 1.0


def _nats(value: Any) -> Outcome:
    return -float(value), 1.0


def _nats_and_units(value: Any) -> Outcome:
    loglikelihood, units = value
    return -float(loglikelihood), float(units)


def _mean(sums: Sequence[Any]) -> Any:
    return sums[0] / sums[1]


FORMULAS = {
    formula.metric.unit: formula
    for formula in (
        Formula(MEAN, ("sum", "items"), _value),
        Formula(Metric(AS_IT_IS, higher_is_better=True, compute=_mean), ("sum", "items"), _value),
        # exp of minus the mean log-likelihood of an item's whole target, however long that is
        Formula(perplexity("target"), ("nats", "targets"), _nats),
        Formula(perplexity("word"), ("nats", "words"), _nats_and_units),
        Formula(perplexity("byte"), ("nats", "bytes"), _nats_and_units),
        Formula(bits("byte"), ("nats", "bytes"), _nats_and_units),
    )
}
"""Unit -> formula."""


def formula(config: Mapping[str, Any], metric: str, higher: bool | None) -> Formula | None:
    """How a metric of a task is computed from items; None if items do not give it.

    `higher` is better, or not, or is not known: then a number of unknown scale says nothing.
    """
    listed = {str(entry.get("metric")): entry for entry in config.get("metric_list") or ()}
    said = listed.get(metric, {}).get("aggregation")
    aggregation = str(said or AGGREGATIONS.get(metric))
    if aggregation not in ("mean", "nanmean"):
        unit = UNITS.get((metric, aggregation))
        return FORMULAS[unit] if unit else None
    if SHARE.search(metric):
        return FORMULAS[MEAN.unit]
    return None if higher is None else FORMULAS[AS_IT_IS]


def shown_as(metric: str, how: Formula | None) -> Metric:
    """The metric whose unit a number has, items or none."""
    if how:
        return how.metric
    return MEAN if SHARE_OF_ANY_KIND.search(metric) else FORMULAS[AS_IT_IS].metric


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The lines of a samples file, in the order of the rows.

    Raises:
        RecordError: it is missing or damaged.
    """
    try:
        lines = path.read_text("utf-8").split("\n")  # texts may hold other line separators
    except FileNotFoundError as error:
        raise RecordError(
            f"there are no items: {path.name} is missing; run lm-eval with --log_samples and keep "
            "its files together"
        ) from error
    except (OSError, UnicodeError) as error:
        raise RecordError(f"cannot read {str(path)!r}: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                found.append(strict_json.loads(line, allow_nan=True, allow_surrogates=True))
            except ValueError as error:
                raise RecordError(f"line {number} of {path.name} is no JSON: {error}") from error
    try:
        return sorted(found, key=lambda sample: int(sample["doc_id"]))
    except (LookupError, TypeError, ValueError) as error:
        raise RecordError(
            f"{path.name} holds no samples of lm-eval: a line has no whole number as doc_id"
        ) from error


def first_lines(samples: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Item -> its first line; there is one a filter."""
    found: dict[str, Mapping[str, Any]] = {}
    for sample in samples:
        found.setdefault(str(sample["doc_id"]), sample)
    return found


def items_and_scores(
    claims: Sequence[Claim], samples: Sequence[Mapping[str, Any]]
) -> tuple[Outcomes, tuple[Score, ...]]:
    """The items, and lm-eval's scores with the totals that the items give.

    Raises:
        RecordError: the items give another value than lm-eval's.
    """
    first = first_lines(samples)
    places = {name: place for place, name in enumerate(first)}
    outcomes: dict[str, MetricOutcomes] = {}
    scores = []
    for claim in claims:
        score = claim.score
        if claim.formula:
            found = _outcomes(claim, claim.formula, samples, places)
            score = replace(score, totals=_totals(claim, claim.formula, found))
            outcomes[score.metric] = found
        scores.append(score)
    return Outcomes(tuple(first), tuple(map(_shown, first.values())), outcomes), tuple(scores)


def _outcomes(
    claim: Claim,
    formula: Formula,
    samples: Sequence[Mapping[str, Any]],
    places: Mapping[str, int],
) -> MetricOutcomes:
    """A metric's outcomes; none of items without a value, which lm-eval leaves out as well."""
    of, values = [], []
    for sample in samples:
        if sample.get("filter", claim.filter) == claim.filter and claim.metric in sample:
            outcome = formula.outcome(sample[claim.metric])
            if not math.isnan(outcome[0]):  # lm-eval's `nanmean`
                of.append(places[str(sample["doc_id"])])
                values.append(outcome)
    return MetricOutcomes(tuple(of), tuple(values))


def _totals(claim: Claim, formula: Formula, outcomes: MetricOutcomes) -> dict[str, float]:
    sums = [math.fsum(column) for column in zip(*outcomes.values, strict=True)]
    value = formula.metric.compute(sums) if sums and sums[1] else math.nan
    if not math.isclose(value, claim.score.value, rel_tol=NEAR, abs_tol=NEAR):
        raise RecordError(
            f"its {claim.score.metric} is {value:.6g} and not {claim.score.value:.6g}"
        )
    names = formula.statistics
    if claim.metric in RIGHT_OR_WRONG and all(right in (0, 1) for right, _ in outcomes.values):
        names = ("right", "items")
    return dict(zip(names, sums, strict=True))


def _shown(sample: Mapping[str, Any]) -> Shown:
    pairs = list(_exchanges(sample))
    wanted = str(sample["target"])
    if len(pairs) > 1 and wanted.isdecimal() and int(wanted) < len(pairs):  # a choice's number
        wanted = getattr(pairs[int(wanted)][0], "continuation", wanted)
    return show(Example(str(sample["doc_id"]), {}, (wanted.strip(),)), pairs)


def _exchanges(sample: Mapping[str, Any]) -> Iterator[tuple[Request, Response]]:
    """Requests and responses in our own form, as much of them as a person is shown."""
    responses, filtered = sample["resps"], sample["filtered_resps"]
    for i, asked in enumerate(_listed(sample["arguments"])):
        text, *more = _listed(asked)
        response = responses[i][0]  # of several repeats
        if isinstance(response, list):  # [log-probability, whether it is greedy]
            scored = Scored((float(response[0]),), (False,))
            yield Loglikelihood(str(text), str(more[0])), scored
        elif more:
            said = str(filtered[i] if i < len(filtered) else response)
            yield Generate((str(text),), 0), Generated(said, (), (), 0, "length")
        else:
            scored = Scored((float(response),), (False,))
            yield RollingLoglikelihood((str(text),)), Rolled((scored,))


def _listed(arguments: Any) -> list[Any]:
    """`{"gen_args_0": x, ...}` as it is written now, `[x, ...]` as it was once."""
    return list(arguments.values()) if isinstance(arguments, dict) else list(arguments)
