"""The checkpoints of a folder and their scores, one line each."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.core import Score
from harness.display.curves import MARK
from harness.display.layout import table
from harness.display.terminal import OUT
from harness.report.number_format import number


class Line(NamedTuple):
    """One checkpoint."""

    name: str
    step: int | None  # of the training
    scores: Mapping[str, Score]  # by column
    marked: frozenset[str]  # columns whose score leaves the curve of its neighbours


def show_checkpoints(lines: Sequence[Line]) -> None:
    """Print one line per checkpoint."""
    units = {name: score.unit for line in lines for name, score in line.scores.items()}
    rows = table(">step", "checkpoint", *(f">{name}" for name in units))
    for line in lines:
        step = "-" if line.step is None else f"{line.step:,}"
        rows.add_row(step, line.name, *(_cell(line, name) for name in units))
    OUT.print(rows)


def _cell(line: Line, name: str) -> str:
    score = line.scores.get(name)
    if score is None:
        return "-"
    return number(score.value, score.unit) + (f" {MARK}" if name in line.marked else "")
