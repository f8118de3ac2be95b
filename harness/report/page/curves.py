"""Scores against parameters, and calibration, as the page's charts want them.

What is fitted, and to what, is decided by `harness.analysis.scaling`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis import scaling
from harness.analysis.paper import section3
from harness.analysis.scaling import Curve, Fit, Law, Place
from harness.metrics.calibration import Bin
from harness.report.number_format import interval, number
from harness.report.page.columns import LONGEST_LABEL, Column, clip

STEPS = 24  # points of a drawn line
BEYOND = 1.3  # lines go a little beyond the outermost models, as a factor


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: words and numbers for the reader, values for the chart."""

    title: str
    unit: str
    words: str
    rows: tuple[tuple[str, str, str, str], ...]  # model, parameters, score, interval
    chart: dict[str, Any]


def panels(sides: Sequence[Column]) -> list[Panel]:
    """A panel a score; of several protocols of a benchmark each has its own."""
    found = scaling.curves(record for side in sides for record in side.records)
    several = [curve.column or curve.metric for curve in found]
    return [
        _panel(curve, sides, several.count(curve.column or curve.metric) > 1) for curve in found
    ]


def _panel(curve: Curve, sides: Sequence[Column], several: bool) -> Panel:
    title = curve.column or f"{curve.task} {curve.metric}"
    ours = [(_side(place, curve, sides), place) for place in curve.ours]
    rows = [
        (f"GPT-2 {p.name} (paper)", f"{p.parameters:,}", number(p.value, curve.unit), "")
        for p in curve.paper
    ]
    rows += [
        (
            sides[side].label,
            f"{p.parameters:,}",
            number(p.value, curve.unit),
            interval(p.low, p.high, curve.unit),
        )
        for side, p in ours
    ]
    protocol = f", {clip(curve.protocol, LONGEST_LABEL)}" if several else ""
    return Panel(
        f"{title}{protocol}", f"{curve.unit}, {curve.rows}", _words(curve), tuple(rows),
        _chart(curve, ours),
    )  # fmt: skip


def _side(place: Place, curve: Curve, sides: Sequence[Column]) -> int:
    """The column that a point of a curve belongs to."""
    for number_, side in enumerate(sides):
        for record in side.records:
            same = record.model["digest"] == place.digest and record.protocol == curve.protocol
            if same and any(
                (record.task, score.metric, score.value) == (curve.task, curve.metric, place.value)
                for score in record.scores
            ):
                return number_
    return 0  # not reached: curves are made of the columns' own records


def _words(curve: Curve) -> str:
    """The exponents, or why there are none."""
    said = []
    if curve.fit:
        said.append(f"Exponent {_exponent(curve.fit)}")
    elif curve.law:
        said.append(f"No fit: {curve.reason}")
    else:
        said.append(f"No fit for scores in {curve.unit}")
    if curve.paper_fit:
        said.append(f"the paper’s models {_exponent(curve.paper_fit)}")
    if curve.law and curve.law.kind == "loss" and (curve.fit or curve.paper_fit):
        said.append(f"dotted: {scaling.KAPLAN:g}")
    text = "; ".join(said) + "."
    if curve.differs:
        text += f" The runs differ in {', '.join(curve.differs)}."
    return text


def _exponent(fit: Fit) -> str:
    return f"{fit.exponent:.3f} ({fit.low:.3f} to {fit.high:.3f})"


def _chart(curve: Curve, ours: Sequence[tuple[int, Place]]) -> dict[str, Any]:
    sizes = [place.parameters for place in (*curve.paper, *curve.ours)]
    ends = (min(sizes) / BEYOND, max(sizes) * BEYOND)
    return {
        "log": curve.unit.startswith("per ") and all(p.value > 0 for _, p in ours),
        "paper": [
            _point(place, place.name, curve)
            for place in sorted(curve.paper, key=lambda place: place.parameters)
        ],
        "ours": [
            {
                **_point(place, clip(Path(place.name).name or place.name, LONGEST_LABEL), curve),
                "side": side,
                "low": place.low,
                "high": place.high,
            }
            for side, place in ours
        ],
        "fit": _line(curve.fit, curve.law, ends),
        "kaplan": _line(_guide(curve, ends), curve.law, ends),
    }


def _point(place: Place, name: str, curve: Curve) -> dict[str, Any]:
    between = interval(place.low, place.high, curve.unit)
    text = f"{number(place.value, curve.unit)} {curve.unit}"
    return {
        "x": place.parameters,
        "y": place.value,
        "name": name,
        "text": f"{text} ({between})" if between else text,
    }


def _guide(curve: Curve, ends: tuple[float, float]) -> Fit | None:
    """A law with Kaplan's exponent that meets the runs' fit, or the paper's, in the middle."""
    through = curve.fit or curve.paper_fit
    if through is None or curve.law is None or curve.law.kind != "loss":
        return None
    middle = float(np.sqrt(ends[0] * ends[1]))
    height = scaling.along(through, middle) * middle**scaling.KAPLAN
    return Fit(scaling.KAPLAN, scaling.KAPLAN, scaling.KAPLAN, height)


def _line(fit: Fit | None, law: Law | None, ends: tuple[float, float]) -> list[list[float]] | None:
    """Points of a fit in the score's own unit."""
    if fit is None or law is None:
        return None
    sizes = np.geomspace(*ends, STEPS)
    return [[float(n), law.score(scaling.along(fit, float(n)))] for n in sizes]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Calibration of one column."""

    side: int
    label: str
    bins: tuple[Bin, ...]
    error: str  # expected calibration error, in points


def reliabilities(sides: Sequence[Column]) -> list[Reliability]:
    """Bins of confidence of all columns that have them."""
    found = []
    for place, side in enumerate(sides):
        for record in side.records:
            bins = section3.reliability(record) if record.origin == "harness" else []
            if bins:
                errors = [s.value for s in record.scores if s.metric == "calibration-error"]
                found.append(
                    Reliability(place, side.label, tuple(bins), number(next(iter(errors), None)))
                )
    return found
