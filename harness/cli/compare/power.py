"""`harness power`."""

from pathlib import Path
from typing import Any

import click

from harness.cli.options import JSON, PATH, given
from harness.cli.types import LEVEL, Number
from harness.errors import UsageError


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option(
    "--drop", default=2.0, show_default=True, type=Number(1e-6, 1e6),
    help="drop to detect, in points for scores in points, else in percent of the score",
)  # fmt: skip
@click.option(
    "--alpha", default=0.05, show_default=True, type=LEVEL, help="significance level of the test"
)
@click.option(
    "--power", default=0.8, show_default=True, type=Number(0, 1),
    help="probability of detecting the drop",
)  # fmt: skip
@click.option(
    "--correlation", default=0.5, show_default=True, type=Number(-1, 1),
    help="assumed correlation between the items of two runs; for one run",
)  # fmt: skip
@click.option(
    "--discordance", type=Number(0, 1),
    help="assumed share of right/wrong items that only one of two runs gets right; for one run",
)  # fmt: skip
@JSON
def power(runs: tuple[Path, ...], as_json: bool, **question: Any) -> None:
    """Estimate the items needed to detect a drop, and the smallest detectable drop.

    RUNS: one run, two runs of different checkpoints, or a baseline. Two runs give a better
    estimate: the spread of the differences between their items is measured.
    """
    from harness.analysis.power import PowerSettings
    from harness.commands.compare.power import run_power

    if len(runs) == 2:
        for name in ("correlation", "discordance"):
            if given(name):
                raise UsageError(f"--{name} is measured on two runs; leave it out, or give one run")
    run_power(runs, PowerSettings(**question), as_json=as_json)
