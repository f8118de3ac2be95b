"""`harness curve`."""

from pathlib import Path

from harness.cli.options import ALL_SCORES, JSON, command
from harness.commands.options import option


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
    every: bool = ALL_SCORES,
    as_json: bool = JSON,
) -> None:  # fmt: skip
    """Fit and draw scores over model sizes.

    RUNS are records, or folders of records, of checkpoints of several sizes. Prints the exponents
    next to those of the paper's four models. A fit needs four sizes. With -o, draws one panel per
    score.
    """
    from harness.commands.inspect.curve import run_curve

    run_curve(runs, out, tasks, every=every, as_json=as_json)
