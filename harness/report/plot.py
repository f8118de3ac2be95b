"""Curves of scores over model sizes as a PNG or SVG file, one panel per score.

Losses are drawn on two logarithmic axes, on which a power law is a straight line; other scores have
only a logarithmic axis of sizes. The colours are from Okabe and Ito's palette, which colour-blind
readers can tell apart (https://jfly.uni-koeln.de/color/); each series has its own marker or dashes.
The same curves give the same bytes: no date, version, random ids or user settings go into a file.
"""

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.scaling import KAPLAN_EXPONENT, Curve, CurvePoint, Law
from harness.errors import UsageError
from harness.files.output import write_bytes
from harness.report.number_format import short

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
MAX_PANELS = 60
MAX_TICK_NATS = 300  # no ticks of perplexity beyond: they would overflow a float64
PANELS_PER_ROW = 4
PANEL_WIDTH, PANEL_HEIGHT, LEGEND_WIDTH = 3.8, 3.2, 4.2  # inches
MAX_HEADING_CHARS = 52
FREE_SHARE = 0.06  # of an axis, at each end
PLAIN_DECADES, FINE_DECADES = 0.9, 2.2  # below: ticks as on a linear axis; above: powers of ten
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"
TITLE = "Scores over model sizes"
METADATA = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
LABELS = (
    "checkpoints, 95 % interval",
    "power law of the checkpoints",
    "GPT-2 (Radford et al. 2019)",
    f"slope of Kaplan et al. 2020, exponent {KAPLAN_EXPONENT}",
)
STYLE = {
    "svg.hashsalt": "harness",  # ids in SVG are random without one
    "text.parse_math": False,  # a dollar sign in a name is not math
    "font.size": 9,
    "axes.spines.top": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "savefig.dpi": 150,
}

Interval = tuple[float, float]


def check_picture(path: Path) -> None:
    """Refuse a name that ends in neither .png nor .svg, and a missing matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"cannot draw {str(path)!r}: expected a name that ends in .png or .svg")
    if find_spec("matplotlib") is None:
        raise UsageError("drawing curves needs matplotlib; pip install 'zero-shot-harness[plots]'")


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw all curves, at most MAX_PANELS, into one file."""
    check_panels(len(curves))
    with style():
        save(figure(curves), path)


def check_panels(count: int) -> None:
    """Refuse more panels than a picture can have."""
    if count > MAX_PANELS:
        raise UsageError(
            f"{count} curves are too many for one picture, which has at most {MAX_PANELS}; "
            "choose benchmarks with --task"
        )


def save(drawn: "Figure", path: Path, title: str = TITLE) -> None:
    """Write a picture, without the date and matplotlib's version, so that bytes do not change."""
    suffix = path.suffix.lower()
    file = io.BytesIO()
    drawn.savefig(file, format=suffix[1:], metadata={"Title": title, **METADATA[suffix]})
    write_bytes(path, file.getvalue())


@contextmanager
def style() -> Iterator[None]:
    """Apply our settings instead of the user's; missing glyphs are drawn as boxes, silently."""
    from matplotlib import style as matplotlib_style

    with matplotlib_style.context(STYLE, after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def figure(curves: Sequence[Curve]) -> "Figure":
    """One panel per curve, row by row, and a legend for all."""
    drawn, panels = grid(len(curves))
    columns = min(PANELS_PER_ROW, len(curves))
    handles: dict[str, Artist] = {}
    for panel, curve in zip(panels, curves, strict=True):
        _draw_panel(panel, curve)
        artists, names = panel.get_legend_handles_labels()
        handles |= zip(names, artists, strict=True)
    drawn.supxlabel("parameters, embeddings included", fontsize=9)
    labels = [label for label in LABELS if label in handles]
    drawn.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside upper center",
        frameon=False,
        ncols=columns if columns < 3 else len(labels),  # a row of four needs three panels
    )
    return drawn


def grid(count: int) -> "tuple[Figure, list[Axes]]":
    """A picture with that many panels, row by row."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(PANELS_PER_ROW, count)
    rows = math.ceil(count / columns)
    drawn = Figure(
        figsize=(max(PANEL_WIDTH * columns, LEGEND_WIDTH), PANEL_HEIGHT * rows + 0.7),
        layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.09),
    )
    panels = drawn.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in panels[count:]:
        panel.remove()
    return drawn, panels[:count]


def _draw_panel(axes: "Axes", curve: Curve) -> None:
    law = _loss_law(curve)
    height = law.loss if law else float
    sizes = interval_around([p.parameters for p in (*curve.points, *curve.paper)], 1.25, 4)
    if curve.paper:
        axes.plot(
            [p.parameters for p in curve.paper], [height(p.value) for p in curve.paper], "D:",
            color=ORANGE, markerfacecolor="white", markersize=5, linewidth=1, label=LABELS[2],
            zorder=3,
        )  # fmt: skip
    if law:
        _draw_kaplan(axes, curve.points, law, sizes)
    if curve.fit and curve.law:
        low, high = curve.points[0].parameters, curve.points[-1].parameters
        steps = np.geomspace(low, high, 51).tolist()
        losses = [curve.fit.loss(size) for size in steps]
        heights = losses if law else [curve.law.score(loss) for loss in losses]
        axes.plot(steps, heights, color=BLUE, linewidth=1.6, label=LABELS[1])
    _draw_points(axes, curve.points, height)
    axes.set_xscale("log")
    axes.set_xlim(*sizes)
    axes.set_xticks(places := ticks(*sizes), map(short, places))
    if law:
        _scale_losses(axes, curve, law)
    axes.set_ylabel(law.unit if law else curve.unit)
    axes.minorticks_off()
    axes.set_title(clip(curve.name), loc="left", fontweight="bold", fontsize=10, pad=27)
    axes.annotate(
        f"{clip(f'{curve.protocol}, {curve.rows}')}\n{clip(_fit_in_words(curve))}",
        (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=8,
        color=GREY,
    )  # fmt: skip


def _loss_law(curve: Curve) -> Law | None:
    """The law of a score that is drawn as a loss, which needs a logarithm everywhere."""
    law = curve.law
    if law is None or law.kind != "loss":
        return None
    losses = [law.loss(point.value) for point in (*curve.points, *curve.paper)]
    return law if all(math.isfinite(loss) and loss > 0 for loss in losses) else None


def _draw_points(
    axes: "Axes", points: Sequence[CurvePoint], height: Callable[[float], float]
) -> None:
    heights = np.array([height(p.value) for p in points])
    lows = np.array([height(p.value if p.low is None else p.low) for p in points])
    highs = np.array([height(p.value if p.high is None else p.high) for p in points])
    errors = np.maximum([heights - lows, highs - heights], 0)
    axes.errorbar(
        [p.parameters for p in points], heights, yerr=errors, fmt="o", color=BLUE, markersize=5,
        elinewidth=1.2, capsize=2.5, label=LABELS[0], zorder=4,
    )  # fmt: skip


def _draw_kaplan(axes: "Axes", points: Sequence[CurvePoint], law: Law, sizes: Interval) -> None:
    """Draw Kaplan's slope through the middle of the checkpoints; its height has no meaning."""
    middle = math.exp(sum(math.log(p.parameters) for p in points) / len(points))
    height = math.exp(sum(math.log(law.loss(p.value)) for p in points) / len(points))
    losses = [height * (size / middle) ** -KAPLAN_EXPONENT for size in sizes]
    axes.plot(sizes, losses, color=GREY, linestyle=(0, (5, 3)), linewidth=1, label=LABELS[3])


def _scale_losses(axes: "Axes", curve: Curve, law: Law) -> None:
    """Make the axis of losses logarithmic; perplexities get a second axis on the right."""
    points = (*curve.points, *curve.paper)
    values = [value for p in points for value in (p.value, p.low, p.high) if value is not None]
    losses = [loss for loss in map(law.loss, values) if math.isfinite(loss) and loss > 0]
    low, high = interval_around(losses, 1.05, 1.3)
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(low, high)
    axes.set_yticks(places := ticks(low, high), [f"{place:g}" for place in places])
    if curve.unit.startswith("per "):
        right = axes.twinx()
        right.set_yscale("log")
        right.set_ylim(low, high)
        perplexities = ticks(law.score(low), law.score(min(high, MAX_TICK_NATS)))
        right.set_yticks([law.loss(tick) for tick in perplexities], map(short, perplexities))
        right.set_ylabel("perplexity")
        right.grid(visible=False)
        right.minorticks_off()


def _fit_in_words(curve: Curve) -> str:
    if curve.fit is None or curve.law is None:
        return f"no fit: {curve.reason}"
    fit, of = curve.fit, "" if curve.law.kind == "loss" else f" of {curve.law.unit}"
    return f"exponent{of} {fit.exponent:z.3f} ({fit.low:z.3f} to {fit.high:z.3f})"


def clip(text: str) -> str:
    """One line that fits above a panel; unprintable characters become spaces."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= MAX_HEADING_CHARS else f"{line[: MAX_HEADING_CHARS - 1]}…"


def interval_around(values: Sequence[float], margin: float, ratio: float) -> Interval:
    """The ends of a logarithmic axis around positive values.

    `margin` is the minimum factor between the outermost values and the ends, `ratio` the minimum
    ratio of the ends.
    """
    low, high = min(values), max(values)
    factor = max(margin, (high / low) ** FREE_SHARE, math.sqrt(ratio * low / high))
    return low / factor, high * factor


def ticks(low: float, high: float) -> list[float]:
    """About three to seven round numbers on a logarithmic axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    decades = math.log10(high / low)
    if decades < PLAIN_DECADES:
        places = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    else:
        subs = (1, 2, 5) if decades < FINE_DECADES else (1,)
        places = LogLocator(subs=subs).tick_values(low, high)
    return [float(place) for place in places if low <= place <= high]
