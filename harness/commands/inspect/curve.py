"""`harness curve`: fit power laws to the scores of records, and draw them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.runs import load
from harness.analysis.scaling import KAPLAN_EXPONENT, Curve, parameters, scaling_curves
from harness.display import terminal
from harness.display.curves import show_curves
from harness.errors import UsageError
from harness.files.output import check_file
from harness.records.record import Record
from harness.report.plot import check_picture, draw
from harness.task import unknown


def run_curve(
    paths: Sequence[Path], out: Path | None, tasks: Sequence[str], *, every: bool, as_json: bool
) -> None:
    """Print the fits; draw the curves if a file is given."""
    if out:
        check_picture(out)
        check_file(out, "-o")
    records = _select([run.record for run in load(paths, outcomes="no")], tasks)
    curves = scaling_curves(records, every=every)
    if not curves:
        raise UsageError("nothing to draw: no record has a score and the size of its model")
    if out:
        draw(curves, out)
    if as_json:
        terminal.print_json({"kaplan": KAPLAN_EXPONENT, "curves": [_to_json(c) for c in curves]})
        return
    show_curves(curves)
    if out:
        terminal.OUT.print(f"wrote {out}")


def _select(records: Sequence[Record], tasks: Sequence[str]) -> list[Record]:
    """The records of some tasks, or all; a note names models of unknown size."""
    available = sorted({record.task for record in records})
    for name in tasks:
        if name not in available:
            raise UsageError(unknown("record of", name, available))
    selected = [record for record in records if not tasks or record.task in tasks]
    unsized = sorted({r.model["name"] for r in selected if parameters(r) is None})
    if unsized:
        terminal.note(f"left out, number of parameters unknown: {', '.join(unsized)}")
    return selected


def _to_json(curve: Curve) -> dict[str, Any]:
    """A curve as plain JSON values; losses have the unit of `law`."""
    law = curve.law
    return {
        "task": curve.task,
        "metric": curve.metric,
        "unit": curve.unit,
        "column": curve.column,
        "protocol": curve.protocol,
        "rows": curve.rows,
        "law": {"kind": law.kind, "unit": law.unit} if law else None,
        "fit": curve.fit._asdict() if curve.fit else None,
        "reason": curve.reason,
        "paper_fit": curve.paper_fit._asdict() if curve.paper_fit else None,
        "points": [point._asdict() for point in curve.points],
        "paper": [point._asdict() for point in curve.paper],
        "differs": list(curve.differs),
    }
