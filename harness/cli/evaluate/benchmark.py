"""`harness TASK`, the command of one task, and the options of all commands that evaluate."""

from typing import Any

import click

from harness.cli import completion
from harness.cli.options import argument, command, part, without
from harness.commands.model_options import ModelOptions
from harness.commands.options import (
    CacheOptions,
    DataOptions,
    OutputOptions,
    PlanOptions,
    ProtocolOptions,
    RunOptions,
    WorkersOptions,
)
from harness.commands.server_options import ServerOptions

MORE_MODELS: Any = argument(required=False, metavar="[MODEL]...", shell_complete=completion.models)
"""The other paths of `--model ckpts/*`, which the shell expands."""
ONE_TASK: Any = {
    "model": part(ModelOptions),
    "data": part(DataOptions),
    "protocol": part(ProtocolOptions),
    "output": without(OutputOptions, "size", "leaderboard"),
    "plan": part(PlanOptions),
    "workers": part(WorkersOptions),
    "server": part(ServerOptions),
    "cache": part(CacheOptions),
}
SEVERAL_TASKS: Any = ONE_TASK | {
    "data": without(DataOptions, "data_file"),
    "protocol": without(ProtocolOptions, "grid", "vary"),
    "output": part(OutputOptions),
}


def benchmark_command(name: str) -> click.Command:
    """The command of one task, with the task's description as help."""
    from harness.plugins.registry import load_task

    task = load_task(name)

    @command(
        name=name,
        help=f"{task.title}.\n\n{task.description}",
        epilog=f"`harness tasks {name}` describes its options and protocols.",
    )
    def benchmark(
        more_models: tuple[str, ...] = MORE_MODELS, options: RunOptions = ONE_TASK
    ) -> None:
        from harness.commands.evaluate.benchmark import run_benchmark
        from harness.commands.evaluate.grid import run_grid
        from harness.commands.evaluate.models import with_models

        evaluate = run_grid if options.protocol.several else run_benchmark
        evaluate(name, with_models(options, more_models))

    return benchmark  # type: ignore[no-any-return]
