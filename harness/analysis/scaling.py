"""Scores against the number of parameters, and the power law through them.

Kaplan et al. 2020 (https://arxiv.org/abs/2001.08361, section 1.2) find that the loss of a language
model falls as L(N) = (N_c / N) ** 0.076 in its number of parameters N, if nothing else limits it.
Their loss is the cross-entropy in nats per token, and their N leaves embeddings out. Here N counts
all parameters, as records do: small models, which are mostly embeddings, lie closer together on
that scale, and exponents are larger.

A power law describes a loss. The unit of a score decides which loss belongs to it (see `law_for`):

    per word, per token ...   ln(score): nats per unit; a perplexity itself follows no power law
    bits per byte ...         the score; a constant factor does not change the exponent
    %, higher is better       100 - score, the percentage of errors; error rates follow power laws
                              in a narrower range (Rosenfeld et al. 2020,
                              https://arxiv.org/abs/1909.12673)
    anything else             none: ROUGE, BLEU and the like are drawn without a fit
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from harness.analysis.paper import published
from harness.errors import NumericsError
from harness.records.record import Record
from harness.stats.intervals import LEVEL

KAPLAN_EXPONENT = 0.076  # of the loss in parameters: alpha_N of Kaplan et al. 2020, equation 1.1
MIN_SIZES = 4  # distinct numbers of parameters that a fit needs


class Fit(NamedTuple):
    """loss = coefficient * parameters ** -exponent, with the 95 % interval of the exponent."""

    exponent: float
    low: float
    high: float
    coefficient: float

    def loss(self, parameters: float) -> float:
        """The loss of a model of this size."""
        return math.exp(math.log(self.coefficient) - self.exponent * math.log(parameters))


@dataclass(frozen=True, slots=True)
class Law:
    """The loss that belongs to a score and may follow a power law."""

    kind: Literal["loss", "error"]  # Kaplan's exponent applies to a loss
    unit: str
    loss: Callable[[float], float]  # from the score, in `unit`
    score: Callable[[float], float]  # from the loss


class CurvePoint(NamedTuple):
    """The score of one checkpoint, or of one model of the paper."""

    name: str
    parameters: int
    value: float
    low: float | None = None
    high: float | None = None
    digest: str = ""  # of the weights


@dataclass(frozen=True, slots=True)
class Curve:
    """One score of all checkpoints that were measured alike."""

    task: str
    metric: str
    unit: str
    column: str | None  # of the paper's tables
    protocol: str
    rows: str  # which rows were scored, in words
    points: tuple[CurvePoint, ...]  # by size, one per checkpoint
    records: tuple[Record, ...]  # of the points
    paper: tuple[CurvePoint, ...]  # by size
    law: Law | None
    fit: Fit | None
    reason: str  # why there is no fit
    paper_fit: Fit | None
    differs: tuple[str, ...]  # parts of the signatures in which the checkpoints differ

    @property
    def name(self) -> str:
        """The paper's column, or benchmark and metric."""
        return self.column or f"{self.task} {self.metric}"


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """Fit a power law to (parameters, loss) pairs.

    Least squares of ln(loss) on ln(parameters), in float64, all points with equal weight. The
    interval is that of the slope by Student's t with n - 2 degrees of freedom: it covers the
    scatter of the points around the line, not the choice of a benchmark's examples.

    Raises:
        NumericsError: there are too few sizes, or a loss has no logarithm.
    """
    from scipy.special import stdtrit

    count = len({parameters for parameters, _ in points})
    if count < MIN_SIZES:
        raise NumericsError(f"{count} of {MIN_SIZES} sizes")
    for _, loss in points:
        if not (math.isfinite(loss) and loss > 0):
            raise NumericsError(f"a loss of {loss:g} has no logarithm")
    sizes, losses = np.log(np.array(points, np.float64)).T
    middle = sizes.mean()  # slope and height are uncorrelated there
    (slope, height), covariance = np.polyfit(sizes - middle, losses, 1, cov=True)
    reach = stdtrit(len(points) - 2, (1 + LEVEL) / 2) * math.sqrt(covariance[0, 0])
    with np.errstate(over="ignore", under="ignore"):
        coefficient = float(np.exp(height - slope * middle))
    if not 0 < coefficient < math.inf:  # the line is all but vertical
        raise NumericsError("the sizes are nearly the same")
    return Fit(float(-slope), float(-slope - reach), float(-slope + reach), coefficient)


def law_for(unit: str, *, higher_is_better: bool) -> Law | None:
    """The law for scores with this unit; None if their loss is unknown.

    >>> law_for("per word", higher_is_better=False).unit
    'nats per word'
    """
    if unit.startswith("per "):
        return Law("loss", f"nats {unit}", _ln, math.exp)
    if unit.startswith("bits per ") or (unit == "nats" and not higher_is_better):
        return Law("loss", unit, float, float)
    if unit == "%" and higher_is_better:
        return Law("error", "% wrong", _complement, _complement)
    return None


def _ln(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _complement(value: float) -> float:
    return 100 - value


def scaling_curves(records: Iterable[Record], *, every: bool = False) -> list[Curve]:
    """One curve per score, in the order of the paper's tables.

    Records share a curve if they measure the same thing: benchmark, version, options, data, prompt,
    few-shot examples and rows. The newest of several such records of a checkpoint counts. Records
    without a number of parameters are left out. `every` adds scores that fill no column of the
    paper's tables.
    """
    groups: dict[tuple[str, ...], dict[str, Record]] = {}
    for record in sorted((r for r in records if r.parameters), key=lambda record: record.created):
        measured = (*record.signature.identity(), rows_in_words(record))
        groups.setdefault(measured, {})[record.model["digest"]] = record
    result = [
        _curve(list(group.values()), metric)
        for group in groups.values()
        for metric in metrics_of(group.values(), every)
    ]
    order = published.in_order(dict.fromkeys(curve.task for curve in result))
    return sorted(result, key=lambda curve: order.index(curve.task))


def metrics_of(records: Iterable[Record], every: bool) -> list[str]:
    """The metrics that fill a column of the paper's tables; all if none does."""
    scores = [s for record in records for s in record.scores if s.baseline is None]
    main = scores if every else [s for s in scores if s.column] or scores
    return list(dict.fromkeys(score.metric for score in main))


def _curve(records: Sequence[Record], metric: str) -> Curve:
    """The curve of one score of records that measure the same thing."""
    pairs = [(r, s) for r in records for s in r.scores if s.metric == metric and not s.baseline]
    newest, score = max(pairs, key=lambda pair: pair[0].created)
    pairs.sort(key=lambda pair: (pair[0].model["parameters"], pair[1].value))
    points = tuple(
        CurvePoint(m["name"], m["parameters"], s.value, s.low, s.high, m["digest"])
        for m, s in ((record.model, score) for record, score in pairs)
    )
    paper = _paper(score.column)
    law = law_for(score.unit, higher_is_better=score.higher_is_better)
    of_score = f"{metric} ({score.unit})" if score.unit else metric
    checkpoint_fit, reason = _fit(points, law) if law else (None, f"{of_score} is not a loss")
    return Curve(
        task=newest.task,
        metric=metric,
        unit=score.unit,
        column=score.column,
        protocol=newest.protocol,
        rows=rows_in_words(newest),
        points=points,
        records=tuple(record for record, _ in pairs),
        paper=paper,
        law=law,
        fit=checkpoint_fit,
        reason=reason,
        paper_fit=_fit(paper, law)[0] if law else None,
        differs=signature_differences(newest, [record for record, _ in pairs]),
    )


def _fit(points: Iterable[CurvePoint], law: Law) -> tuple[Fit | None, str]:
    """The fit, or the reason why there is none."""
    try:
        return fit([(point.parameters, law.loss(point.value)) for point in points]), ""
    except NumericsError as error:
        return None, str(error)


def _paper(column: str | None) -> tuple[CurvePoint, ...]:
    """The paper's models of four sizes, where it has a number."""
    points = (
        CurvePoint(p.model, p.parameters, p.value)
        for p in published.numbers()
        if p.column == column and p.parameters and p.model in published.SIZES
    )
    return tuple(sorted(points, key=lambda point: point.parameters))


def signature_differences(record: Record, others: Iterable[Record]) -> tuple[str, ...]:
    """The parts of the signatures in which records that measure the same thing differ."""
    names = dict.fromkeys(n for other in others for n in record.signature.diff(other.signature))
    return tuple(name for name in names if name != "rows")  # these are the same, see rows_in_words


def rows_in_words(record: Record) -> str:
    """Which rows were scored, in words."""
    rows = f"{record.rows:,} rows"
    if record.data["source"] == "sample":
        rows += " of the sample"
    if record.stopped:
        return f"{rows}, {record.extent}"
    if record.limit is None or record.rows >= record.data["rows"]:
        return f"all {rows}"
    return f"{rows}, seed {record.seed}"
