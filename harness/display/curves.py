"""Power laws through scores, as a table."""

from collections.abc import Sequence

from harness.analysis.scaling import KAPLAN_EXPONENT, Curve
from harness.display.layout import table
from harness.display.terminal import OUT
from harness.report.number_format import short

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
    differences: dict[str, list[str]] = {}
    for curve in curves:
        if curve.differs:
            fact = f"checkpoints differ in {', '.join(curve.differs)}"
            differences.setdefault(fact, []).append(curve.name)
    for fact, names in differences.items():
        of = "" if len(names) == len(curves) else f"{', '.join(names)}: "
        OUT.print(f"note: {of}{fact}")
