"""`harness jitter`."""

from pathlib import Path
from typing import Any

from harness.cli import completion
from harness.cli.options import argument, command, part, without
from harness.commands.declare import option
from harness.commands.model_options import ModelOptions
from harness.commands.options import DataOptions, ProtocolOptions, RunOptions, WorkersOptions
from harness.commands.server_options import ServerOptions

OPTIONS: Any = {
    "model": without(ModelOptions, "dtype", "batch_tokens"),
    "data": part(DataOptions),
    "protocol": part(ProtocolOptions, "name", "set"),
    "workers": part(WorkersOptions),
    "server": part(ServerOptions),
}


@command()
def jitter(
    names: tuple[str, ...] = argument(metavar="TASK...", shell_complete=completion.task),
    file: Path = option(Path("results/jitter.json"), "write the measured noise to this file"),
    options: RunOptions = OPTIONS,
) -> None:
    """Measure run-to-run noise across batch sizes, thread counts and dtypes.

    Each TASK is run on this machine several times, always from scratch. `harness check --jitter
    FILE` tolerates that much.
    """
    from harness.commands.compare.jitter import run_jitter

    run_jitter(names, options, file)
