"""Curves of scores over training steps as a PNG or SVG file: one panel per score, one line per run.

Steps are on a logarithmic axis if they span more than one decade; step 0 then stands at its left
end. Perplexities have a logarithmic axis. A step that leaves the curve of its neighbours is ringed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.steps import StepCurve
from harness.report.number_format import short
from harness.report.plot import GREY, ORANGE, check_panels, clip, grid, save, style, ticks

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Scores over training steps"
# Of Okabe and Ito's palette; the seventh run has the colour of the first, with other dashes.
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", ":", "-.")
MAX_RUNS_IN_LEGEND = 24
LOGARITHMIC_FROM = 10  # ratio of the last step to the first after 0
LEAVES = "leaves the curve of its neighbours"


def draw_steps(curves: Sequence[StepCurve], path: Path) -> None:
    """Draw all curves into one file."""
    panels: dict[tuple[str, ...], list[StepCurve]] = {}
    for curve in curves:
        panels.setdefault((curve.task, curve.metric, curve.protocol, curve.rows), []).append(curve)
    check_panels(len(panels))
    with style():
        save(_figure(list(panels.values())), path, TITLE)


def _figure(groups: Sequence[Sequence[StepCurve]]) -> "Figure":
    """One panel per group of curves of the same score, and a legend of all runs."""
    runs = list(dict.fromkeys(curve.run for group in groups for curve in group))
    drawn, panels = grid(len(groups))
    handles: dict[str, Artist] = {}
    for panel, group in zip(panels, groups, strict=True):
        for curve in group:
            _draw(panel, curve, runs.index(curve.run))
        _scale(panel, group)
        artists, names = panel.get_legend_handles_labels()
        handles = dict(zip(names, artists, strict=True)) | handles
    drawn.supxlabel("training step", fontsize=9)
    shown = [clip(run) for run in runs[:MAX_RUNS_IN_LEGEND]] + [LEAVES]
    labels = [label for label in dict.fromkeys(shown) if label in handles]
    drawn.legend(
        [handles[label] for label in labels], labels, loc="outside upper center", frameon=False,
        ncols=1 if len(groups) < 3 else 2,
    )  # fmt: skip
    return drawn


def _draw(axes: "Axes", curve: StepCurve, number: int) -> None:
    """One run: a line, the intervals, and rings around the steps to look at."""
    steps = [point.step for point in curve.points]
    values = np.array([point.value for point in curve.points])
    lows = np.array([p.value if p.low is None else p.low for p in curve.points])
    highs = np.array([p.value if p.high is None else p.high for p in curve.points])
    axes.errorbar(
        steps, values, yerr=np.maximum([values - lows, highs - values], 0), fmt="o",
        linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
        color=COLOURS[number % len(COLOURS)], markersize=3.5, linewidth=1.2, elinewidth=1,
        capsize=2, label=clip(curve.run), zorder=3,
    )  # fmt: skip
    marked = [point for point in curve.points if point.outlier]
    if marked:
        axes.plot(
            [point.step for point in marked], [point.value for point in marked], "o",
            color=ORANGE, markerfacecolor="none", markersize=11, markeredgewidth=1.6,
            label=LEAVES, zorder=4,
        )  # fmt: skip


def _scale(axes: "Axes", group: Sequence[StepCurve]) -> None:
    """Axes and headings of a panel."""
    first = group[0]
    steps = sorted({point.step for curve in group for point in curve.points})
    positive = [step for step in steps if step > 0]
    if positive and positive[-1] >= LOGARITHMIC_FROM * positive[0]:
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.3)
        zero = [0.0] if steps[0] == 0 else []
        places = [*zero, *ticks(positive[0], positive[-1])]
    else:
        places = [float(place) for place in axes.get_xticks() if steps[0] <= place <= steps[-1]]
    axes.set_xticks(places, [short(place) for place in places])
    if first.unit.startswith("per ") and all(p.value > 0 for c in group for p in c.points):
        axes.set_yscale("log", nonpositive="clip")
        low, high = axes.get_ylim()
        axes.set_yticks(heights := ticks(low, high), [short(height) for height in heights])
    axes.minorticks_off()
    axes.set_ylabel(f"perplexity {first.unit}" if first.unit.startswith("per ") else first.unit)
    axes.set_title(clip(first.name), loc="left", fontweight="bold", fontsize=10, pad=15)
    axes.annotate(
        clip(f"{first.protocol}, {first.rows}"), (0, 1), (0, 4), xycoords="axes fraction",
        textcoords="offset points", fontsize=8, color=GREY,
    )  # fmt: skip
