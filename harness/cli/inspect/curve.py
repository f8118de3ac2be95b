"""`harness curve`."""

from pathlib import Path

import click

from harness.cli.options import JSON, PATH


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option(
    "-o", "--out", type=PATH,
    help="draw the curves into this .png or .svg file; needs the extra `plots`",
)  # fmt: skip
@click.option("--task", "tasks", multiple=True, metavar="TASK", help="only this task; repeatable")
@click.option("--all", "every", is_flag=True, help="all scores, not only the paper's columns")
@JSON
def curve(
    runs: tuple[Path, ...], out: Path | None, tasks: tuple[str, ...], every: bool, as_json: bool
) -> None:
    """Fit and draw scores over model sizes.

    RUNS are records, or folders of records, of checkpoints of several sizes. Prints the exponents
    next to those of the paper's four models. A fit needs four sizes. With -o, draws one panel per
    score.
    """
    from harness.commands.inspect.curve import run_curve

    run_curve(runs, out, tasks, every=every, as_json=as_json)
