"""Scores over model sizes, and calibration, for the charts of the page.

`harness.analysis.scaling` decides what is fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis import scaling
from harness.analysis.paper import section3
from harness.analysis.scaling import KAPLAN_EXPONENT, Curve, CurvePoint, Fit
from harness.metrics.calibration import Bin
from harness.records.record import short_name
from harness.report.number_format import interval, number
from harness.report.page.columns import MAX_LABEL_CHARS, Column, clip

LINE_POINTS = 24
LINE_MARGIN = 1.3  # factor by which lines go beyond the outermost models


@dataclass(frozen=True, slots=True)
class Panel:
    """The chart of one curve, and the same for readers."""

    title: str
    curve: Curve
    labels: tuple[str, ...]  # of the columns that the points belong to
    chart: dict[str, Any]


def panels(columns: Sequence[Column]) -> list[Panel]:
    """One panel per curve, with the protocol in the title where a score has several."""
    curves = scaling.scaling_curves(record for column in columns for record in column.records)
    names = [curve.column or curve.metric for curve in curves]
    owners = {id(record): k for k, column in enumerate(columns) for record in column.records}
    result = []
    for curve, name in zip(curves, names, strict=True):
        protocol = clip(curve.protocol, MAX_LABEL_CHARS)
        title = f"{curve.name}, {protocol}" if names.count(name) > 1 else curve.name
        own = [owners[id(record)] for record in curve.records]
        labels = tuple(columns[k].label for k in own)
        result.append(Panel(title, curve, labels, _chart(curve, own)))
    return result


def _chart(curve: Curve, owners: Sequence[int]) -> dict[str, Any]:
    sizes = [point.parameters for point in (*curve.paper, *curve.points)]
    ends = (min(sizes) / LINE_MARGIN, max(sizes) * LINE_MARGIN)
    return {
        "log": curve.unit.startswith("per ") and all(p.value > 0 for p in curve.points),
        "paper": [_point(p, p.name, curve.unit) for p in curve.paper],
        "runs": [
            {
                **_point(p, clip(short_name(p.name), MAX_LABEL_CHARS), curve.unit),
                "column": column,
                "low": p.low,
                "high": p.high,
            }
            for column, p in zip(owners, curve.points, strict=True)
        ],
        "fit": _line(curve, curve.fit, ends),
        "kaplan": _line(curve, _kaplan(curve, ends), ends),
    }


def _point(point: CurvePoint, name: str, unit: str) -> dict[str, Any]:
    between = interval(point.low, point.high, unit)
    text = f"{number(point.value, unit)} {unit}"
    return {
        "x": point.parameters,
        "y": point.value,
        "name": name,
        "text": f"{text} ({between})" if between else text,
    }


def _kaplan(curve: Curve, ends: tuple[float, float]) -> Fit | None:
    """Kaplan's exponent through the middle of the fit of the runs, or of the paper's models."""
    fit = curve.fit or curve.paper_fit
    if fit is None or curve.law is None or curve.law.kind != "loss":
        return None
    middle = float(np.sqrt(ends[0] * ends[1]))
    coefficient = fit.loss(middle) * middle**KAPLAN_EXPONENT
    return Fit(KAPLAN_EXPONENT, KAPLAN_EXPONENT, KAPLAN_EXPONENT, coefficient)


def _line(curve: Curve, fit: Fit | None, ends: tuple[float, float]) -> list[list[float]] | None:
    """Points of a fit in the unit of the score."""
    if fit is None or curve.law is None:
        return None
    sizes = np.geomspace(*ends, LINE_POINTS).tolist()
    return [[size, curve.law.score(fit.loss(size))] for size in sizes]


@dataclass(frozen=True, slots=True)
class Reliability:
    """The calibration of one column."""

    column: int
    label: str
    bins: list[Bin]
    error: float | None  # expected calibration error, in points


def reliabilities(columns: Sequence[Column]) -> list[Reliability]:
    """The bins of confidence of each column that has them."""
    result = []
    for k, column in enumerate(columns):
        for record in column.records:
            bins = section3.reliability(record) if record.origin == "harness" else []
            if bins:
                errors = [s.value for s in record.scores if s.metric == "calibration-error"]
                result.append(Reliability(k, column.label, bins, next(iter(errors), None)))
    return result
