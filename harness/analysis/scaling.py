"""Scores against the number of parameters, and the power law through them.

Kaplan et al. 2020 (https://arxiv.org/abs/2001.08361, section 1.2) find that the loss of a language
model falls as L(N) = (N_c / N) ** 0.076 in its parameters N, where nothing else is scarce. Their
loss is the cross-entropy in nats a token, and their N leaves the embeddings out. Here N is every
parameter, which is what a record has: small models, mostly embeddings, lie closer together on that
scale, and exponents come out larger.

A law is about a loss. What of a score that is depends on its unit, and `law` decides it:

    per word, per token ...   ln(score): nats per unit; a perplexity itself follows no power law
    bits per byte ...         the score; a constant factor does not move the exponent
    % that should be high     100 - score, the share that is wrong; error rates have been found to
                              follow power laws too (Rosenfeld et al. 2020,
                              https://arxiv.org/abs/1909.12673), in a narrower range
    anything else             none: ROUGE, BLEU and the like are drawn without a line
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from harness.analysis.paper import published
from harness.core import Score
from harness.records.record import Record
from harness.stats.intervals import LEVEL

KAPLAN = 0.076  # exponent of the loss in parameters: alpha_N of Kaplan et al. 2020, equation 1.1
LEAST = 4  # distinct sizes; below that no line is fitted


class Point(NamedTuple):
    """A model's size and its loss, in the unit of the law."""

    parameters: int
    value: float


class Fit(NamedTuple):
    """value = coefficient * parameters ** -exponent, with the 95 % interval of the exponent."""

    exponent: float
    low: float
    high: float
    coefficient: float


@dataclass(frozen=True, slots=True)
class Law:
    """What of a score is held against a power law, and the way back."""

    kind: Literal["loss", "error"]  # Kaplan's exponent is one of a loss
    unit: str
    loss: Callable[[float], float]  # score -> loss, in `unit`
    score: Callable[[float], float]  # loss -> score


class Place(NamedTuple):
    """A checkpoint of ours, or a model of the paper, in a curve; values as the score has them."""

    name: str
    parameters: int
    value: float
    low: float | None = None
    high: float | None = None
    digest: str = ""  # of the weights


@dataclass(frozen=True, slots=True)
class Curve:
    """One score over sizes: all checkpoints that were measured alike, each once."""

    task: str
    metric: str
    unit: str
    column: str | None  # of the paper's tables
    protocol: str
    rows: str  # which rows were scored, in words
    ours: tuple[Place, ...]  # by size
    paper: tuple[Place, ...]  # by size
    law: Law | None
    fit: Fit | None
    reason: str  # why there is no fit
    paper_fit: Fit | None
    differs: tuple[str, ...]  # parts of signatures in which the checkpoints differ

    @property
    def name(self) -> str:
        """The paper's column, else benchmark and score."""
        return self.column or f"{self.task} {self.metric}"


def obstacle(points: Sequence[Point]) -> str:
    """Why no power law is fitted to these points; empty if one is."""
    sizes = len({point.parameters for point in points})
    if sizes < LEAST:
        return f"{sizes} of {LEAST} sizes"
    odd = [p.value for p in points if not (math.isfinite(p.value) and p.value > 0)]
    return f"a loss of {odd[0]:g} has no logarithm" if odd else ""


def _reason(found: Fit | None, mine: Sequence[Point]) -> str:
    """Why a curve has no fit; empty if it has one."""
    return "" if found else obstacle(mine) or "the sizes are nearly the same"


def fit(points: Sequence[Point]) -> Fit | None:
    """The power law through some points; None where there is an `obstacle`, or sizes nearly agree.

    Least squares of ln(value) on ln(parameters), in float64, every point with the same weight. The
    interval is that of the slope by Student's t with n - 2 degrees of freedom: it is about the
    scatter of the points around the line, not about the choice of a benchmark's items.
    """
    if obstacle(points):
        return None
    from scipy.special import stdtrit

    sizes, losses = np.log(np.array(points, np.float64)).T
    middle = sizes.mean()  # around which slope and height are uncorrelated
    (slope, height), covariance = np.polyfit(sizes - middle, losses, 1, cov=True)
    reach = stdtrit(len(points) - 2, (1 + LEVEL) / 2) * math.sqrt(covariance[0, 0])
    with np.errstate(over="ignore", under="ignore"):
        coefficient = float(np.exp(height - slope * middle))
    if not 0 < coefficient < math.inf:  # sizes that nearly agree: the line is all but vertical
        return None
    return Fit(float(-slope), float(-slope - reach), float(-slope + reach), coefficient)


def along(found: Fit, parameters: float) -> float:
    """The loss that a fit has at a size."""
    return math.exp(math.log(found.coefficient) - found.exponent * math.log(parameters))


def law(unit: str, *, higher_is_better: bool) -> Law | None:
    """What of a score with this unit may follow a power law; None if nothing does.

    >>> law("per word", higher_is_better=False).unit
    'nats per word'
    """
    if unit.startswith("per "):
        return Law("loss", f"nats {unit}", _ln, math.exp)
    if unit.startswith("bits per "):
        return Law("loss", unit, _same, _same)
    if unit == "%" and higher_is_better:
        return Law("error", "% wrong", _wrong, _wrong)
    return None


def _ln(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _same(value: float) -> float:
    return value


def _wrong(value: float) -> float:
    return 100 - value


def points(places: Iterable[Place], kind: Law) -> list[Point]:
    """Sizes and losses of some places."""
    return [Point(place.parameters, kind.loss(place.value)) for place in places]


def parameters(record: Record) -> int | None:
    """Size of a record's model; None where the record does not say, as lm-eval's may not."""
    known = record.model["parameters"]
    return known if isinstance(known, int) and known > 0 else None


def sized(record: Record) -> bool:
    """Whether a record says how many parameters its model has."""
    return parameters(record) is not None


def curves(records: Iterable[Record], *, every: bool = False) -> list[Curve]:
    """A curve for each score, in the order of the paper's tables; of a checkpoint once.

    Only records that measure the same thing share one: benchmark, version, options, data, prompt,
    example pairs and rows. Of several such runs of one checkpoint the newest counts. Records
    without a number of parameters are left out.

    Args:
        records: of any benchmarks, protocols and checkpoints.
        every: every score, not those alone that fill a column of the paper's tables.
    """
    groups: dict[tuple[str, ...], dict[str, Record]] = {}
    for record in sorted(filter(sized, records), key=lambda record: record.created):
        groups.setdefault(_measured(record), {})[record.model["digest"]] = record
    found = [
        _curve(list(group.values()), metric)
        for group in groups.values()
        for metric in _metrics(group.values(), every)
    ]
    order = published.in_order(dict.fromkeys(curve.task for curve in found))
    return sorted(found, key=lambda curve: order.index(curve.task))


def _measured(record: Record) -> tuple[str, ...]:
    """What records of one curve have in common."""
    return (*record.signature.identity(), _rows(record))


def _metrics(records: Iterable[Record], every: bool) -> list[str]:
    """Names of the scores to draw: the paper's columns; all where none fills one."""
    scores = [s for record in records for s in record.scores if s.baseline is None]
    main = scores if every else [s for s in scores if s.column] or scores
    return list(dict.fromkeys(score.metric for score in main))


def _curve(records: Sequence[Record], metric: str) -> Curve:
    """The curve of one score of records that were measured alike."""
    held = [(r, s) for r in records for s in r.scores if s.metric == metric and not s.baseline]
    newest, score = max(held, key=lambda pair: pair[0].created)
    ours = tuple(sorted((_place(r, s) for r, s in held), key=lambda place: place[1:3]))
    theirs = _paper(score.column)
    kind = law(score.unit, higher_is_better=score.higher_is_better)
    mine = points(ours, kind) if kind else []
    found = fit(mine)
    reason = _reason(found, mine) if kind else f"{score.unit or 'numbers'} are no loss"
    return Curve(
        task=newest.task,
        metric=metric,
        unit=score.unit,
        column=score.column,
        protocol=newest.protocol,
        rows=_rows(newest),
        ours=ours,
        paper=theirs,
        law=kind,
        fit=found,
        reason=reason,
        paper_fit=fit(points(theirs, kind)) if kind else None,
        differs=_differing(newest, [r for r, _ in held]),
    )


def _differing(newest: Record, records: Sequence[Record]) -> tuple[str, ...]:
    """Parts of the signatures that are not the same in all; the rows are."""
    signature = newest.signature
    names = dict.fromkeys(n for record in records for n in signature.diff(record.signature))
    return tuple(name for name in names if name != "rows")


def _place(record: Record, score: Score) -> Place:
    model = record.model
    return Place(
        model["name"], model["parameters"], score.value, score.low, score.high, model["digest"]
    )


def _paper(column: str | None) -> tuple[Place, ...]:
    """The paper's models of four sizes, those that it has a number for."""
    return tuple(
        Place(p.model, p.parameters, p.value)
        for p in published.numbers()
        if p.column == column and p.parameters and p.model in published.SIZES
    )


def _rows(record: Record) -> str:
    """Which rows were scored, in words; the data's checksum is not among them."""
    of = " of the sample" if record.data["source"] == "sample" else ""
    if record.limit is None or record.rows >= record.data["rows"]:
        return f"all {record.rows:,} rows{of}"
    return f"{record.rows:,} rows{of}, seed {record.seed}"
