"""Scores as another program reports them, and the outcomes that have to give the same numbers."""

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple, NoReturn

from harness.core import Score
from harness.errors import RecordError
from harness.files import strict_json
from harness.metrics import ACCURACY, MEAN, Metric, Outcome, bits, perplexity
from harness.records.outcomes import MetricOutcomes
from harness.records.record import Record
from harness.task import Measure

Results = Mapping[str, Any]
"""The JSON object in a file of another program."""
UNKNOWN = "unknown"
"""What a program's files do not say, in a record."""
UNKNOWN_SCALE = ""
"""The unit of a number whose scale is not known."""
TOLERANCE = 1e-6  # relative: far above rounding, far below the effect of another sample
_LONGEST = 24  # characters of an option that is shown as it is
_STDERRS = NormalDist().inv_cdf(0.975)  # from the value to either end of a 95 % interval


class Kind(NamedTuple):
    """How summed outcomes become a number, and the names of the two statistics."""

    metric: Metric
    statistics: tuple[str, str]


PLAIN_MEAN = Metric(UNKNOWN_SCALE, higher_is_better=True, compute=lambda sums: sums[0] / sums[1])
KINDS = {
    kind.metric.unit: kind
    for kind in (
        Kind(MEAN, ("sum", "items")),
        Kind(PLAIN_MEAN, ("sum", "items")),
        Kind(perplexity("target"), ("nats", "targets")),
        Kind(perplexity("word"), ("nats", "words")),
        Kind(perplexity("byte"), ("nats", "bytes")),
        Kind(perplexity("token"), ("nats", "tokens")),
        Kind(bits("byte"), ("nats", "bytes")),
    )
}
"""Unit -> kind of score."""
_RIGHT_OR_WRONG = ("right", "items")


def measures(record: Record, *others: Record) -> tuple[Measure, ...]:
    """The measures of those scores whose outcomes were read.

    A score is right or wrong only if it is in all records that have it: partly right answers may
    occur in one run and not in another.
    """
    totals = [
        {score.metric for score in other.scores if score.totals and "right" not in score.totals}
        for other in (record, *others)
    ]
    partly = set().union(*totals)
    return tuple(
        _measure(score, record.origin, right_or_wrong=score.metric not in partly)
        for score in record.scores
        if score.totals
    )


def _measure(score: Score, origin: str, *, right_or_wrong: bool) -> Measure:
    if score.unit not in KINDS:
        raise RecordError(f"score {score.metric!r} of {origin} has an unknown unit {score.unit!r}")
    metric = ACCURACY if right_or_wrong else KINDS[score.unit].metric
    return Measure(
        name=score.metric,
        metric=replace(metric, higher_is_better=score.higher_is_better),
        extract=_extract,
        statistics=tuple(score.totals),
        help=f"{score.metric} of {origin}",
    )


def _extract(*_: object) -> NoReturn:
    raise AssertionError("outcomes of other programs are read, never extracted")


def reported(
    name: str,
    metric: Metric,
    value: float,
    *,
    stderr: float | None = None,
    interval: tuple[float | None, float | None] | None = None,
) -> Score:
    """A reported number as a score without totals: shares become percents.

    Args:
        name: Of the score.
        metric: Of its unit and direction.
        value: As reported, as the next two.
        stderr: Gives the interval, by the normal approximation, unless there is one.
        interval: Both ends at 95 %.
    """
    scale = 100.0 if metric.unit == MEAN.unit else 1.0
    value, spread = scale * value, None if stderr is None else scale * stderr
    if interval is not None:
        low, high = (None if end is None else scale * end for end in interval)
    elif spread is not None:
        low, high = value - _STDERRS * spread, value + _STDERRS * spread
    else:
        low = high = None
    return Score(
        metric=name,
        value=value,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        stderr=spread,
        low=low,
        high=high,
        totals={},
    )


def with_totals(
    score: Score, outcomes: MetricOutcomes, file: str, *, rounding: float = 0.0
) -> Score:
    """The score with the sums of its outcomes, which have to give its value.

    Args:
        score: As reported.
        outcomes: From the samples.
        file: The name of the file with the samples, for the message.
        rounding: By how much the reported value may be rounded, in the score's unit; it gets the
            digits that are missing.

    Raises:
        RecordError: the outcomes give another value.
    """
    kind = KINDS[score.unit]
    sums = [math.fsum(column) for column in zip(*outcomes.values, strict=True)]
    value = kind.metric.compute(sums) if sums and sums[1] else math.nan
    allowed = max(TOLERANCE, rounding)
    if not math.isclose(value, score.value, rel_tol=TOLERANCE, abs_tol=allowed):
        raise RecordError(
            f"{file} does not give the reported score: its {score.metric} is {value:.6g} and not "
            f"{score.value:.6g}"
        )
    totals = dict(zip(kind.statistics, sums, strict=True))
    return replace(score, totals=totals, value=value if rounding else score.value)


def as_right_or_wrong(score: Score, outcomes: MetricOutcomes) -> Score:
    """The score with totals that say so if every outcome of its examples is right or wrong."""
    shares = score.unit == MEAN.unit
    if shares and all(right in (0, 1) and items == 1 for right, items in outcomes.values):
        return replace(score, totals=dict(zip(_RIGHT_OR_WRONG, score.totals.values(), strict=True)))
    return score


def number(value: object) -> float | None:
    """A finite number; None for `N/A`, NaN and the like."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def whole_version(version: Any) -> int | None:
    """A task's version if it is an integer; there are 1.0, "0", 1.1, "2-A", "Yaml" and none."""
    try:
        value = float(version)
    except (TypeError, ValueError):
        return None
    return int(value) if value.is_integer() else None


def digest(value: Any) -> str:
    """sha256 of a JSON value, without the addresses of Python objects in its texts."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", json.dumps(value, sort_keys=True))
    return hashlib.sha256(text.encode()).hexdigest()


def one_word(parts: Collection[object]) -> str:
    """Those of the parts that are there, as one word of a signature: `json:test`."""
    return re.sub(r"[\s|]+", "_", ":".join(str(part) for part in parts if part))


def as_option(value: Any) -> str:
    """A value as one word; the start of its checksum if it is long, or more than one value."""
    text = one_word([str(value)])
    is_long = isinstance(value, dict | list) or len(text) > _LONGEST
    return digest(value)[:8] if is_long else text


def model(name: object, identity: Sequence[object]) -> dict[str, Any]:
    """A record's model of which a file says no more than its name and how it was reached.

    The digest is over that: weights that were replaced behind the same name keep it.
    """
    unknown = dict.fromkeys(("tokenizer", "parameters", "dtype", "device", "context"), UNKNOWN)
    name = str(name or UNKNOWN)
    return {"name": name, "revision": None, "digest": digest(identity), **unknown}


def collected(outcomes: Iterable[Outcome | None]) -> MetricOutcomes:
    """The outcomes of all examples, in their order; None for an example without a value."""
    found = [(place, outcome) for place, outcome in enumerate(outcomes) if outcome]
    return MetricOutcomes(
        tuple(place for place, _ in found), tuple(outcome for _, outcome in found)
    )


def pass_at(n: int, right: int, k: int) -> float:
    """The probability that one of k answers, drawn from n of which some are right, is right.

    NaN for fewer than k answers (Chen et al. 2021, arXiv:2107.03374).
    """
    return 1 - math.comb(n - right, k) / (math.comb(n, k) or math.nan)


def read_lines(path: Path, advice: str) -> list[dict[str, Any]]:
    """The JSON lines of a file of samples; `advice` says what to do if it is missing."""
    try:
        lines = path.read_text("utf-8").split("\n")  # texts may contain other line separators
    except FileNotFoundError as error:
        raise RecordError(f"there are no samples: {path.name} is missing; {advice}") from error
    except (OSError, UnicodeError) as error:
        raise RecordError(f"cannot read {str(path)!r}: {error}") from error
    samples = []
    for place, line in enumerate(lines, start=1):
        if line:
            try:
                samples.append(strict_json.loads(line, allow_nan=True, allow_surrogates=True))
            except ValueError as error:
                raise RecordError(f"line {place} of {path.name} is not JSON: {error}") from error
    return samples
