"""Power laws through scores, and scores over training steps, as tables."""

from collections.abc import Sequence

from harness.analysis.scaling import KAPLAN_EXPONENT, Curve
from harness.analysis.steps import StepCurve
from harness.display.layout import FittedTable, table
from harness.display.terminal import OUT
from harness.report.number_format import number, short

MARK = "(!)"
ABOUT = f"""\
n: checkpoints; exponent: of loss = coefficient * parameters ** -exponent; paper: the exponent for
the models of Radford et al. 2019. Kaplan et al. 2020: {KAPLAN_EXPONENT}, for loss over parameters
without embeddings."""


def show_curves(curves: Sequence[Curve]) -> None:
    """Print one line per curve with its exponent, and in what its checkpoints differ."""
    rows = table(
        "score", "protocol", "rows", "law of", ">n", "sizes", ">exponent", "95 % interval", ">paper"
    )
    for curve in curves:
        fit, paper = curve.fit, curve.paper_fit
        sizes = dict.fromkeys(short(curve.points[end].parameters) for end in (0, -1))
        rows.add_row(
            curve.name,
            curve.protocol,
            curve.rows,
            curve.law.unit if curve.law else "-",
            str(len(curve.points)),
            " to ".join(sizes),
            f"{fit.exponent:z.3f}" if fit else "-",
            f"{fit.low:z.3f} to {fit.high:z.3f}" if fit else f"no fit: {curve.reason}",
            f"{paper.exponent:z.3f}" if paper else "",
        )
    OUT.print(rows)
    OUT.print(ABOUT)
    _show_differences(curves)


def show_step_curves(curves: Sequence[StepCurve]) -> None:
    """Print one table per training run: its steps and their scores; steps to look at are marked."""
    for run in dict.fromkeys(curve.run for curve in curves):
        own = [curve for curve in curves if curve.run == run]
        OUT.print(f"{run} by step")
        OUT.print(_by_step(own))
        show_marked_steps(own)
        _show_differences(own)


def show_marked_steps(curves: Sequence[StepCurve]) -> None:
    """Print one line per score that leaves the curve of its neighbours."""
    for curve in curves:
        for point in curve.points:
            if point.outlier:
                OUT.print(
                    f"{MARK} {point.name}: {curve.name} {number(point.value, curve.unit)} "
                    "leaves the curve of its neighbours; is it the right checkpoint?"
                )


def _by_step(curves: Sequence[StepCurve]) -> FittedTable:
    """One row per step, one column per score."""
    names = [curve.name for curve in curves]
    heads = [
        curve.name
        if names.count(curve.name) == 1
        else f"{curve.name}, {curve.protocol}, {curve.rows}"
        for curve in curves
    ]
    cells: dict[tuple[int, str], dict[int, str]] = {}
    for k, curve in enumerate(curves):
        for point in curve.points:
            mark = f" {MARK}" if point.outlier else ""
            row = cells.setdefault((point.step, point.digest), {})
            row[k] = number(point.value, curve.unit) + mark
    rows = table(">step", *(f">{head}" for head in heads))
    for (step, _), row in sorted(cells.items()):
        rows.add_row(f"{step:,}", *(row.get(k, "") for k in range(len(curves))))
    return rows


def _show_differences(curves: Sequence[Curve] | Sequence[StepCurve]) -> None:
    """Print in what the checkpoints of a curve differ besides the weights."""
    differences: dict[str, list[str]] = {}
    for curve in curves:
        if curve.differs:
            fact = f"checkpoints differ in {', '.join(curve.differs)}"
            differences.setdefault(fact, []).append(curve.name)
    for fact, names in differences.items():
        of = "" if len(names) == len(curves) else f"{', '.join(names)}: "
        OUT.print(f"note: {of}{fact}")
