"""`harness baseline`."""

from pathlib import Path

import click

from harness.cli.options import PATH
from harness.cli.types import LEVEL


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option(
    "--out", type=PATH, default=Path("results/baselines/main.toml"), show_default=True,
    help="write this TOML file, and a copy of the runs next to it",
)  # fmt: skip
@click.option(
    "--rule", metavar="RULE",
    help="rule of every score: paired:DELTA, absolute:TOLERANCE, relative:SHARE or report; "
    "default: paired:0",
)  # fmt: skip
@click.option(
    "--alpha", default=0.05, show_default=True, type=LEVEL,
    help="significance level of all paired rules together",
)  # fmt: skip
def baseline(runs: tuple[Path, ...], out: Path, rule: str | None, alpha: float) -> None:
    """Save RUNS as the baseline for `harness check`.

    RUNS are records, or folders of records; the newest record of a task and protocol counts.
    """
    from harness.commands.compare.baseline import write_baseline

    write_baseline(runs, out, rule, alpha)
