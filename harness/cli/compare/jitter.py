"""`harness jitter`."""

from pathlib import Path
from typing import Any

import click

from harness.cli import completion
from harness.cli.options import PATH, Command, part, takes, without
from harness.commands.options import (
    DataOptions,
    ModelOptions,
    ProtocolOptions,
    RunOptions,
    WorkersOptions,
)


@click.command(cls=Command)
@click.argument(
    "names", nargs=-1, required=True, metavar="TASK...", shell_complete=completion.benchmarks
)
@click.option(
    "--file", type=PATH, default=Path("results/jitter.json"), show_default=True,
    help="write the measured noise to this file",
)  # fmt: skip
@takes(
    model=without(ModelOptions, "dtype", "batch_tokens"),
    data=DataOptions,
    protocol=part(ProtocolOptions, "name", "set"),
    workers=WorkersOptions,
)
def jitter(names: tuple[str, ...], file: Path, **groups: Any) -> None:
    """Measure run-to-run noise across batch sizes, thread counts and dtypes.

    Each TASK is run on this machine several times, always from scratch. `harness check --jitter
    FILE` tolerates that much.
    """
    from harness.commands.compare.jitter import run_jitter

    run_jitter(names, RunOptions(**groups), file)
