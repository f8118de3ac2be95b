"""`harness watch`."""

import re
from pathlib import Path
from typing import Any

import click

from harness.cli.options import argument, command, part, without
from harness.cli.types import Duration
from harness.commands.declare import option
from harness.commands.evaluate.watch.options import Until, WatchOptions
from harness.commands.model_options import ModelOptions
from harness.commands.options import (
    CacheOptions,
    DataOptions,
    OutputOptions,
    PlanOptions,
    ProtocolOptions,
    RunOptions,
)


class _Until(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """`5000`, a training step, or `12h`, a time."""

    name = "step or time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Until:
        """Parse a step or a time."""
        if isinstance(value, Until):
            return value
        if re.fullmatch("[0-9]{1,18}", str(value)):
            return Until(step=int(value))
        return Until(seconds=Duration("12h, or a training step").convert(value, param, ctx))


UNTIL: Any = option(
    Until(), "stop after the checkpoint of this training step, or after this time",
    type=_Until(), metavar="STEP|TIME", show_default=False,
)  # fmt: skip
OPTIONS: Any = {
    "model": without(ModelOptions, "names", "revision", "tensor_parallel"),
    "data": without(DataOptions, "data_file"),
    "protocol": without(ProtocolOptions, "grid", "vary"),
    "output": part(OutputOptions, "out", "leaderboard"),
    "plan": part(PlanOptions, "budget"),
    "cache": part(CacheOptions),
}


@command()
def watch(
    folder: Path = argument(metavar="DIR"),
    tasks: str = option(
        "table3", "evaluate these tasks; table3 and section3 stand for those of the tables",
        metavar="TASK[,...]",
    ),
    until: Until = UNTIL,
    watching: WatchOptions = part(WatchOptions),
    options: RunOptions = OPTIONS,
) -> None:  # fmt: skip
    """Evaluate the checkpoints in a folder as they appear.

    Each checkpoint below DIR is evaluated once, when it is complete, and a table shows all of them
    after each. One that cannot be read is named and left out. Interrupted or killed, the same
    command goes on where it was.
    """
    from harness.commands.evaluate.watch.watcher import run_watch

    names = tasks.replace(",", " ").split()
    run_watch(folder, names, options, watching, until)
