"""`harness curve`."""

from pathlib import Path

from harness.cli.options import command, part
from harness.commands.declare import option
from harness.commands.inspect.options import CurveOptions


@command()
def curve(
    runs: tuple[Path, ...],
    out: Path | None = option(
        None, "draw the curves into this .png or .svg file; needs the extra `plots`",
        flag="-o --out",
    ),
    tasks: tuple[str, ...] = option(
        (), "only this task; repeatable", flag="task", metavar="TASK"
    ),
    options: CurveOptions = part(CurveOptions, heading="Options"),
) -> None:  # fmt: skip
    """Fit and draw scores over model sizes or training steps.

    RUNS are records, or folders of records. Over sizes, prints the exponents of power laws next to
    those of the paper's four models; a fit needs four sizes. Over steps, prints the scores of each
    training run by step, and marks steps that leave the curve of their neighbours. No law is fitted
    there: what one run reaches at a step depends on its schedule of learning rates. With -o, draws
    one panel per score.
    """
    from harness.commands.inspect.curve import run_curve

    run_curve(runs, out, tasks, options)
