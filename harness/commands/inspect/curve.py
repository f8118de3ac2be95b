"""`harness curve`: scores over model sizes, with power laws, or over training steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.runs import load
from harness.analysis.scaling import KAPLAN_EXPONENT, Curve, scaling_curves
from harness.analysis.steps import StepCurve, step_curves
from harness.commands.inspect.options import CurveOptions
from harness.display import terminal
from harness.display.curves import show_curves, show_step_curves
from harness.errors import UsageError
from harness.files.output import check_file
from harness.records.record import Record
from harness.report.plot import check_picture, draw
from harness.report.step_plot import draw_steps
from harness.task import unknown


def run_curve(
    paths: Sequence[Path], out: Path | None, tasks: Sequence[str], options: CurveOptions
) -> None:
    """Print the curves; draw them if a file is given."""
    if out:
        check_picture(out)
        check_file(out, "-o")
    records = _select([run.record for run in load(paths, outcomes="no")], tasks)
    over_steps = options.over == "step"
    (_over_steps if over_steps else _over_sizes)(records, out, options)
    if out and not options.as_json:
        terminal.OUT.print(f"wrote {out}")


def _over_sizes(records: Sequence[Record], out: Path | None, options: CurveOptions) -> None:
    unsized = sorted({r.model["name"] for r in records if r.parameters is None})
    if unsized:
        terminal.note(f"left out, number of parameters unknown: {', '.join(unsized)}")
    curves = scaling_curves(records, every=options.every)
    if not curves:
        raise UsageError("nothing to draw: no record has a score and the size of its model")
    if out:
        draw(curves, out)
    if options.as_json:
        terminal.print_json({"kaplan": KAPLAN_EXPONENT, "curves": [_to_json(c) for c in curves]})
    else:
        show_curves(curves)


def _over_steps(records: Sequence[Record], out: Path | None, options: CurveOptions) -> None:
    without = sorted({r.model["name"] for r in records if r.model.get("step") is None})
    if without:
        terminal.note(f"left out, training step unknown: {', '.join(without)}")
    curves = step_curves(records, every=options.every)
    if not curves:
        raise UsageError(
            "nothing to draw: no record has a score and the training step of its checkpoint; the "
            "step is read from names such as checkpoint-500 or pythia-14m@step1000"
        )
    if out:
        draw_steps(curves, out)
    if options.as_json:
        terminal.print_json({"curves": [{**_shared_fields(c), "run": c.run} for c in curves]})
    else:
        show_step_curves(curves)


def _select(records: Sequence[Record], tasks: Sequence[str]) -> list[Record]:
    """The records of some tasks, or all."""
    available = sorted({record.task for record in records})
    for name in tasks:
        if name not in available:
            raise UsageError(unknown("record of", name, available))
    return [record for record in records if not tasks or record.task in tasks]


def _shared_fields(curve: Curve | StepCurve) -> dict[str, Any]:
    names = ("task", "metric", "unit", "column", "protocol", "rows")
    return {
        **{name: getattr(curve, name) for name in names},
        "points": [point._asdict() for point in curve.points],
        "differs": list(curve.differs),
    }


def _to_json(curve: Curve) -> dict[str, Any]:
    """A curve as plain JSON values; losses have the unit of `law`."""
    law = curve.law
    return {
        **_shared_fields(curve),
        "law": {"kind": law.kind, "unit": law.unit} if law else None,
        "fit": curve.fit._asdict() if curve.fit else None,
        "reason": curve.reason,
        "paper_fit": curve.paper_fit._asdict() if curve.paper_fit else None,
        "paper": [point._asdict() for point in curve.paper],
    }
