"""The command that draws scores over model sizes; `harness.cli.group` adds it."""

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="picture to draw, .png or .svg; needs the extra `plots`",
)
@click.option("--task", "tasks", multiple=True, help="this benchmark alone; may be repeated")
@click.option("--all", "every", is_flag=True, help="every score, not the paper's columns alone")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object, nothing else")
def curve(
    runs: tuple[Path, ...], out: Path | None, tasks: tuple[str, ...], every: bool, as_json: bool
) -> None:
    """Fit and draw scores over model sizes.

    RUNS are records or folders of them, of checkpoints of several sizes. Prints the exponents, with
    the paper's four sizes beside; four sizes make a fit. With -o, a picture of a panel a score.
    """
    from harness.commands.inspect.curve import run_curve

    run_curve(runs, out, tasks, every=every, as_json=as_json)


COMMANDS = (curve,)
