"""`harness TASK`, the command of one task, and the options of all commands that evaluate."""

from dataclasses import replace
from typing import Any

import click

from harness.cli import completion
from harness.cli.options import Command, takes, without
from harness.commands.options import (
    CacheOptions,
    DataOptions,
    ModelOptions,
    OutputOptions,
    PlanOptions,
    ProtocolOptions,
    RunOptions,
    WorkersOptions,
)

MORE_MODELS = click.argument(
    "more_models", nargs=-1, metavar="[MODEL]...", shell_complete=completion.models
)
"""The other paths of `--model ckpts/*`, which the shell expands."""
ONE_TASK = takes(
    model=ModelOptions,
    data=DataOptions,
    protocol=ProtocolOptions,
    output=without(OutputOptions, "size", "leaderboard"),
    plan=PlanOptions,
    workers=WorkersOptions,
    cache=CacheOptions,
)
SEVERAL_TASKS = takes(
    model=ModelOptions,
    data=without(DataOptions, "data_file"),
    protocol=without(ProtocolOptions, "grid", "vary"),
    output=OutputOptions,
    plan=PlanOptions,
    workers=WorkersOptions,
    cache=CacheOptions,
)


def run_options(more_models: tuple[str, ...] = (), **groups: Any) -> RunOptions:
    """The groups of a command as one value; every model once."""
    options = RunOptions(**groups)
    names = (*options.model.names, *more_models)
    distinct = tuple(dict.fromkeys(names))
    if len(distinct) < len(names):
        from harness.display import terminal

        terminal.note("a model that is given more than once is evaluated once")
    return replace(options, model=replace(options.model, names=distinct))


def benchmark_command(name: str) -> click.Command:
    """The command of one task, with the task's description as help."""
    from harness.plugins.registry import load_task

    task = load_task(name)

    @click.command(
        name,
        cls=Command,
        help=f"{task.title}.\n\n{task.description}",
        epilog=f"`harness tasks {name}` describes its options and protocols.",
    )
    @MORE_MODELS
    @ONE_TASK
    def benchmark(**groups: Any) -> None:
        from harness.commands.evaluate.benchmark import run_benchmark
        from harness.commands.evaluate.grid import run_grid

        options = run_options(**groups)
        if options.protocol.several:
            run_grid(name, options)
        else:
            run_benchmark(name, options)

    return benchmark
