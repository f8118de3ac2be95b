"""What `harness watch` shows and writes after each checkpoint.

That is a table, and on request a leaderboard, a picture of the curves, and event files.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from harness.analysis import leaderboard
from harness.analysis.steps import StepCurve, step_curves
from harness.core import Score
from harness.display import watched
from harness.display.curves import show_marked_steps
from harness.display.terminal import note
from harness.engine.checkpoint.steps import run_of
from harness.files.output import check_file, check_writable
from harness.records.record import Record
from harness.report import tensorboard
from harness.report.plot import check_picture
from harness.report.step_plot import draw_steps


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A checkpoint and its records."""

    path: Path  # below the watched folder
    records: tuple[Record, ...]

    @property
    def step(self) -> int | None:
        """The training step, where the checkpoint or its name says it."""
        step: int | None = self.records[0].model["step"]
        return step

    @property
    def folder(self) -> Path:
        """The folder that has all checkpoints of the training run."""
        path = Path(run_of(str(self.path)))
        starred = [i for i, part in enumerate(path.parts) if "*" in part]
        return Path(*path.parts[: starred[0]]) if starred else path.parent

    def scores(self) -> dict[str, Score]:
        """The scores of the paper's columns, or else the first of a task, by name."""
        return {
            score.column or f"{record.task} {score.metric}": score
            for record in self.records
            for score in ([s for s in record.scores if s.column] or record.scores[:1])
        }

    def marked(self, curves: Sequence[StepCurve]) -> frozenset[str]:
        """The scores that leave the curve of their neighbours."""
        model = self.records[0].model
        own = (model["name"], model["step"], model["digest"])
        return frozenset(
            curve.name
            for curve in curves
            for point in curve.points
            if point.outlier and (point.name, point.step, point.digest) == own
        )


@dataclass(slots=True)
class Progress:
    """The outputs of a watch; each is written anew after every checkpoint."""

    leaderboard: Path | None
    plot: Path | None
    tensorboard: Path | None
    _without_step: bool = False  # whether it has been said that such a checkpoint is left out

    def check(self) -> None:
        """Refuse outputs that cannot be written, before anything is computed."""
        if self.leaderboard:
            check_file(self.leaderboard, "--leaderboard")
        if self.plot:
            check_picture(self.plot)
            check_file(self.plot, "--plot")
        if self.tensorboard:
            tensorboard.check_tensorboard()
            check_writable(self.tensorboard, "--tensorboard")

    def update(self, evaluated: Sequence[Evaluated]) -> None:
        """Print a line per checkpoint so far, and write the files that were asked for."""
        ordered = sorted(
            evaluated, key=lambda e: (e.folder, e.step is None, e.step or 0, e.path.name)
        )
        records = [record for e in ordered for record in e.records]
        curves = step_curves(records)
        watched.show_checkpoints([
            watched.Line(str(e.path), e.step, e.scores(), e.marked(curves)) for e in ordered
        ])  # fmt: skip
        show_marked_steps(curves)
        if self.leaderboard:
            leaderboard.write(leaderboard.rows(records), self.leaderboard)
        if self.plot and curves:
            draw_steps(curves, self.plot)
        if self.tensorboard:
            _write_events(self.tensorboard, ordered)
        left_out = [e for e in ordered if e.step is None]
        if left_out and (self.plot or self.tensorboard) and not self._without_step:
            note(f"{left_out[0].path}: no training step is known; the curves leave it out")
            self._without_step = True


def _write_events(folder: Path, evaluated: Sequence[Evaluated]) -> None:
    """Add the scores that the event files lack; each training run has a folder."""
    points: dict[Path, list[tensorboard.Point]] = defaultdict(list)
    for e in evaluated:
        if e.step is not None:
            points[folder / e.folder] += _points(e, e.step)
    for run, of_run in points.items():
        tensorboard.add(run, of_run)


def _points(e: Evaluated, step: int) -> list[tensorboard.Point]:
    """All scores of a checkpoint, under `harness/<task>/<metric>`."""
    return [
        tensorboard.Point(
            f"harness/{record.task}{_suffix(record.protocol)}/{score.metric}",
            step,
            score.value,
            datetime.fromisoformat(record.created).timestamp(),
        )
        for record in e.records
        for score in record.scores
        if score.baseline is None
    ]


def _suffix(protocol: str) -> str:
    return "" if protocol == "paper" else f"-{protocol}"
