"""Curves of scores over sizes as a PNG or SVG file, a panel a score.

A loss has two logarithmic axes, on which a power law is a straight line; other scores have a
logarithmic axis of sizes alone. Colours are those of Okabe and Ito, which colour-blind people tell
apart (https://jfly.uni-koeln.de/color/), and every series has a marker or dash of its own. Equal
curves make equal bytes: no date, no version, no random ids, no settings of the user.
"""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis.scaling import KAPLAN, Curve, Law, Place, along
from harness.errors import UsageError
from harness.files.output import write_bytes
from harness.report.ticks import Span, around, short, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg")
MOST = 60  # panels of one picture
MOST_NATS = 300  # above, the axis of perplexities has no ticks: they would leave float64
ACROSS = 4  # panels side by side
LONG = 52  # letters of a line over a panel
LEGEND = 4.2  # inches that the legend takes
WIDTH, HEIGHT = 3.8, 3.2  # of a panel, in inches
OURS, PAPER, GUIDE, QUIET = "#0072B2", "#D55E00", "#555555", "#555555"
TITLE = "Scores over model sizes"
METADATA = {  # without the date and the version of the library
    ".png": {"Title": TITLE, "Software": None},
    ".svg": {"Title": TITLE, "Date": None, "Creator": None},
}
LABELS = (
    "checkpoints, 95 % interval",
    "power law of the checkpoints",
    "GPT-2 (Radford et al. 2019)",
    f"slope of Kaplan et al. 2020, exponent {KAPLAN}",
)
STYLE = {
    "svg.hashsalt": "harness",  # ids in SVG are random without one
    "text.parse_math": False,  # dollars in a name are dollars
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


def check_picture(path: Path) -> None:
    """Make sure, before anything is read, that a picture of this name can be drawn.

    Raises:
        UsageError: it ends in neither .png nor .svg, or matplotlib is not installed.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"cannot draw {str(path)!r}: expected a name that ends in .png or .svg")
    if find_spec("matplotlib") is None:
        raise UsageError(
            "curves are drawn by matplotlib, which is missing; "
            "pip install 'zero-shot-harness[plots]'"
        )


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw a panel a curve into one file.

    Raises:
        UsageError: there are too many for one picture.
        RecordError: the file cannot be written.
    """
    if len(curves) > MOST:
        raise UsageError(
            f"{len(curves)} curves are too many for one picture of at most {MOST}; choose "
            "benchmarks with --task"
        )
    ending = path.suffix.lower()
    file = io.BytesIO()
    with _style():
        figure(curves).savefig(file, format=ending[1:], metadata=METADATA[ending])
    write_bytes(path, file.getvalue())


@contextmanager
def _style() -> Iterator[None]:
    """Our settings over the library's own; letters that its font lacks are boxes, silently."""
    from matplotlib import style

    with style.context(STYLE, after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def figure(curves: Sequence[Curve]) -> "Figure":
    """A panel a curve, row by row."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    across = min(ACROSS, len(curves))
    down = math.ceil(len(curves) / across)
    drawn = Figure(
        figsize=(max(WIDTH * across, LEGEND), HEIGHT * down + 0.7),
        layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.09),
    )
    axes = drawn.subplots(down, across, squeeze=False).ravel().tolist()
    for panel, curve in zip(axes, curves, strict=False):
        _panel(panel, curve)
    for panel in axes[len(curves) :]:
        panel.remove()
    drawn.supxlabel("parameters, embeddings included", fontsize=9)
    _legend(drawn, axes[: len(curves)], across)
    return drawn


def _legend(figure: "Figure", panels: Sequence["Axes"], across: int) -> None:
    """One for all panels; what is in several of them stands there once."""
    drawn = {
        label: handle
        for panel in panels
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    labels = [label for label in LABELS if label in drawn]
    figure.legend(
        [drawn[label] for label in labels],
        labels,
        loc="outside upper center",
        frameon=False,
        ncols=across if across < 3 else len(labels),  # a row of four takes three panels
    )


def _panel(axes: "Axes", curve: Curve) -> None:
    """One curve: points, the fit, the published sizes, and Kaplan's slope where it is a loss."""
    law = _loss(curve)
    sizes = around([place.parameters for place in (*curve.ours, *curve.paper)], 1.25, 4)
    _draw_paper(axes, curve.paper, law)
    if law:
        _draw_guide(axes, curve, law, sizes)
    _draw_fit(axes, curve, law)
    _draw_ours(axes, curve.ours, law)
    _size_axis(axes, sizes)
    if law:
        _loss_axis(axes, curve, law)
    else:
        axes.set_ylabel(curve.unit)
    _heading(axes, curve)


def _loss(curve: Curve) -> Law | None:
    """The law of a score that is drawn as a loss; of 0 there is no logarithm."""
    law = curve.law
    if law is None or law.kind != "loss":
        return None
    losses = [law.loss(place.value) for place in (*curve.ours, *curve.paper)]
    return law if all(math.isfinite(loss) and loss > 0 for loss in losses) else None


def _shown(value: float, law: Law | None) -> float:
    """Where a score is on the upright axis."""
    return law.loss(value) if law else value


def _draw_ours(axes: "Axes", places: Sequence[Place], law: Law | None) -> None:
    heights = [_shown(place.value, law) for place in places]
    lows = [
        h if p.low is None else _shown(p.low, law) for h, p in zip(heights, places, strict=True)
    ]
    highs = [
        h if p.high is None else _shown(p.high, law) for h, p in zip(heights, places, strict=True)
    ]
    arms = [
        [max(h - low, 0.0) for h, low in zip(heights, lows, strict=True)],
        [max(high - h, 0.0) for h, high in zip(heights, highs, strict=True)],
    ]
    axes.errorbar(
        [place.parameters for place in places], heights, yerr=arms, fmt="o", color=OURS,
        markersize=5, elinewidth=1.2, capsize=2.5, label=LABELS[0], zorder=4,
    )  # fmt: skip


def _draw_paper(axes: "Axes", places: Sequence[Place], law: Law | None) -> None:
    if places:
        axes.plot(
            [place.parameters for place in places], [_shown(p.value, law) for p in places], "D:",
            color=PAPER, markerfacecolor="white", markersize=5, linewidth=1,
            label=LABELS[2], zorder=3,
        )  # fmt: skip


def _draw_fit(axes: "Axes", curve: Curve, law: Law | None) -> None:
    """The fitted law between the smallest and the largest checkpoint."""
    if curve.fit is None or curve.law is None:
        return
    low, high = curve.ours[0].parameters, curve.ours[-1].parameters
    sizes = [low * (high / low) ** (step / 50) for step in range(51)]
    losses = [along(curve.fit, size) for size in sizes]
    heights = losses if law else [curve.law.score(loss) for loss in losses]
    axes.plot(sizes, heights, color=OURS, linewidth=1.6, label=LABELS[1])


def _draw_guide(axes: "Axes", curve: Curve, law: Law, sizes: Span) -> None:
    """Kaplan's slope through the middle of the checkpoints; its height means nothing."""
    count = len(curve.ours)
    middle = math.exp(sum(math.log(place.parameters) for place in curve.ours) / count)
    height = math.exp(sum(math.log(law.loss(place.value)) for place in curve.ours) / count)
    ends = [height * (size / middle) ** -KAPLAN for size in sizes]
    axes.plot(
        sizes, ends, color=GUIDE, linestyle=(0, (5, 3)), linewidth=1,
        label=LABELS[3],
    )  # fmt: skip


def _size_axis(axes: "Axes", sizes: Span) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*sizes)
    axes.set_xticks(places := ticks(sizes), map(short, places))
    axes.minorticks_off()


def _loss_axis(axes: "Axes", curve: Curve, law: Law) -> None:
    """The loss upwards, logarithmic; the perplexities that it comes from on the right."""
    drawn = (*curve.ours, *curve.paper)
    values = [v for place in drawn for v in place[2:5] if v is not None]
    losses = [loss for loss in (law.loss(v) for v in values) if math.isfinite(loss) and loss > 0]
    span = around(losses, 1.05, 1.3)
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(*span)
    axes.set_yticks(places := ticks(span), [f"{place:g}" for place in places])
    axes.set_ylabel(law.unit)
    if curve.unit.startswith("per "):
        right = axes.twinx()
        right.set_yscale("log")
        right.set_ylim(*span)
        perplexities = ticks(Span(law.score(span.low), law.score(min(span.high, MOST_NATS))))
        right.set_yticks([law.loss(tick) for tick in perplexities], map(short, perplexities))
        right.set_ylabel("perplexity")
        right.grid(visible=False)
        right.minorticks_off()
    axes.minorticks_off()


def _heading(axes: "Axes", curve: Curve) -> None:
    """What is drawn, how it was measured, and what was fitted."""
    axes.set_title(_line(curve.name), loc="left", fontweight="bold", fontsize=10, pad=27)
    axes.annotate(
        f"{_line(f'{curve.protocol}, {curve.rows}')}\n{_line(_said(curve))}", (0, 1), (0, 4),
        xycoords="axes fraction", textcoords="offset points", fontsize=8, color=QUIET,
    )  # fmt: skip


def _said(curve: Curve) -> str:
    """The exponent in words, or why there is none."""
    if curve.fit is None or curve.law is None:
        return f"no fit: {curve.reason}"
    found, of = curve.fit, "" if curve.law.kind == "loss" else f" of {curve.law.unit}"
    return f"exponent{of} {found.exponent:z.3f} ({found.low:z.3f} to {found.high:z.3f})"


def _line(text: str) -> str:
    """A text as one line that fits over a panel; what has no picture becomes a space."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= LONG else f"{plain[: LONG - 1]}…"
