"""What `harness curve` does: records -> exponents as a table or JSON, and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.runs import load
from harness.analysis.scaling import KAPLAN, Curve, Fit, curves, sized
from harness.display import terminal
from harness.display.layout import table
from harness.errors import UsageError
from harness.files.output import check_file
from harness.records.record import Record
from harness.report.plot import check_picture, draw
from harness.report.ticks import short
from harness.task import unknown

ABOUT = f"""\
n: checkpoints; exponent: of loss = coefficient * parameters ** -exponent; paper: the same through
the sizes of Radford et al. 2019. Kaplan et al. 2020: {KAPLAN}, of the loss in parameters without
embeddings."""


def run_curve(
    paths: Sequence[Path], out: Path | None, tasks: Sequence[str], *, every: bool, as_json: bool
) -> None:
    """Fit, print, and draw if a file is given.

    Raises:
        UsageError: nothing can be drawn, or not in that file.
        RecordError: a record cannot be read, or the file not be written.
    """
    if out:
        check_picture(out)
        check_file(out, "-o")
    found = curves(_chosen([run.record for run in load(paths, "no")], tasks), every=every)
    if not found:
        raise UsageError("nothing to draw: no record has a score and says how large its model is")
    if out:
        draw(found, out)
    if as_json:
        value = {"kaplan": KAPLAN, "curves": [to_json(curve) for curve in found]}
        terminal.print_json(value)
    else:
        show(found)
        if out:
            terminal.OUT.print(f"wrote {out}", markup=False)


def _chosen(records: Sequence[Record], tasks: Sequence[str]) -> list[Record]:
    """Records of the benchmarks asked for, and a note on those that have no size.

    Raises:
        UsageError: there is no record of one of the benchmarks.
    """
    known = sorted({record.task for record in records})
    for name in tasks:
        if name not in known:
            raise UsageError(unknown("record of", name, known))
    chosen = [record for record in records if not tasks or record.task in tasks]
    without = {r.model["name"] for r in chosen if not sized(r)}
    if without:
        names = ", ".join(sorted(without))
        terminal.note(f"left out, since they do not say how many parameters they have: {names}")
    return chosen


def to_json(curve: Curve) -> dict[str, Any]:
    """A curve as plain JSON values; losses are in the unit of `law`."""
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
        "points": [place._asdict() for place in curve.ours],
        "paper": [place._asdict() for place in curve.paper],
        "differs": list(curve.differs),
    }


def show(found: Sequence[Curve]) -> None:
    """The exponents, a line a curve, with what to hold them against."""
    rows = table(
        "score", "protocol", "rows", "law of", ">n", "sizes", ">exponent", "95 % interval", ">paper"
    )
    for curve in found:
        rows.add_row(
            curve.name,
            curve.protocol,
            curve.rows,
            curve.law.unit if curve.law else "-",
            str(len(curve.ours)),
            _sizes(curve),
            f"{curve.fit.exponent:z.3f}" if curve.fit else "-",
            _interval(curve.fit) if curve.fit else f"no fit: {curve.reason}",
            f"{curve.paper_fit.exponent:z.3f}" if curve.paper_fit else "",
        )
    terminal.OUT.print(rows)
    terminal.OUT.print(ABOUT, markup=False)
    for line in _notes(found):
        terminal.OUT.print(f"note: {line}", markup=False)


def _notes(found: Sequence[Curve]) -> list[str]:
    """In what the checkpoints of a curve differ; equal facts once, with their curves."""
    concerned: dict[str, list[str]] = {}
    for curve in found:
        if curve.differs:
            fact = f"checkpoints differ in {', '.join(curve.differs)}"
            concerned.setdefault(fact, []).append(curve.name)
    return [
        fact if len(names) == len(found) else f"{', '.join(names)}: {fact}"
        for fact, names in concerned.items()
    ]


def _sizes(curve: Curve) -> str:
    """`135M`, or `124M to 1.56B`."""
    ends = dict.fromkeys(short(curve.ours[end].parameters) for end in (0, -1))
    return " to ".join(ends)


def _interval(found: Fit) -> str:
    return f"{found.low:z.3f} to {found.high:z.3f}"
