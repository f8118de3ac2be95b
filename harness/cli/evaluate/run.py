"""`harness run`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from harness.cli import completion
from harness.cli.evaluate.benchmark import SEVERAL_TASKS, run_options
from harness.cli.evaluate.run_file import RunFile, read
from harness.cli.options import Command, given
from harness.commands.options import ProtocolOptions
from harness.errors import UsageError


def _read(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> RunFile:
    """Task names and the run file among the arguments; the file's options become defaults."""
    names = tuple(name for word in words for name in word.replace(",", " ").split())
    files = [name for name in names if name.endswith(".toml")]
    if len(files) > 1:
        raise UsageError(f"run takes one run file; {len(files)} were given")
    tasks = tuple(name for name in names if name not in files)
    if not files:
        return RunFile(tasks, {}, {})
    file = read(Path(files[0]), context.command)
    context.default_map = dict(file.options)
    return file._replace(tasks=tasks or file.tasks)


@click.command(cls=Command)
@click.argument(
    "file", nargs=-1, required=True, is_eager=True, callback=_read, metavar="TASK[,...]|FILE.toml",
    shell_complete=completion.tasks,
)  # fmt: skip
@SEVERAL_TASKS
def run(file: RunFile, **groups: Any) -> None:
    """Evaluate several tasks; print the scores of each, and a summary.

    TASKs are separated by commas or spaces; table3 and section3 stand for all tasks of those
    tables. A run file FILE.toml has tasks, protocols and any option below by its long name; the
    command line overrides it.
    """
    from harness.commands.evaluate.run import run_tasks

    if not file.tasks:
        raise UsageError("run which tasks? name them, or list them as `tasks` in the run file")
    run_tasks(file.tasks, run_options(**groups), _protocols(file, groups["protocol"]))


def _protocols(file: RunFile, options: ProtocolOptions) -> Mapping[str, ProtocolOptions]:
    """The file's protocols of single tasks, less what the command line overrides."""
    overridden = options.overrides() if given("set") else {}
    return {
        name: ProtocolOptions(
            "" if given("protocol") else own.name,
            tuple(pair for pair in own.set if pair.partition("=")[0] not in overridden),
        )
        for name, own in file.protocols.items()
    }
