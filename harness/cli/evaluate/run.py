"""`harness run`."""

from collections.abc import Mapping
from pathlib import Path

import click

from harness.cli import completion
from harness.cli.evaluate.benchmark import SEVERAL_TASKS
from harness.cli.evaluate.run_file import RunFile, read
from harness.cli.options import argument, command, given
from harness.commands.options import ProtocolOptions, RunOptions
from harness.engine.endpoint.settings import is_endpoint
from harness.errors import UsageError
from harness.plugins.registry import task_names


def _read(context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> RunFile:
    """Task names and the run file among the arguments; the file's options become defaults."""
    _refuse_models(words)
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


def _refuse_models(words: tuple[str, ...]) -> None:
    """Refuse the other paths of `--model ckpts/*`, which the shell expands."""
    tasks = {*completion.TABLES, *task_names()}
    others = [w for w in words if w not in tasks and not w.endswith(".toml")]
    paths = [w for w in others if is_endpoint(w) or Path(w).exists()]
    if paths:
        kind = "server" if is_endpoint(paths[0]) else "path"
        raise UsageError(
            f"{paths[0]!r} is a {kind}, not a task; to evaluate several models, repeat --model "
            f"before each: --model A --model {paths[0]}, or quote the pattern: --model 'A*'"
        )


@command()
def run(
    file: RunFile = argument(
        nargs=-1, is_eager=True, callback=_read, metavar="TASK[,...]|FILE.toml",
        shell_complete=completion.task_list,
    ),
    options: RunOptions = SEVERAL_TASKS,
) -> None:  # fmt: skip
    """Evaluate several tasks; print the scores of each, and a summary.

    TASKs are separated by commas or spaces; table3 and section3 stand for all tasks of those
    tables. A run file FILE.toml has tasks, protocols and any option below by its long name; the
    command line overrides it. Repeat --model to evaluate several models.
    """
    from harness.commands.evaluate.models import with_models
    from harness.commands.evaluate.run import run_tasks

    if not file.tasks:
        raise UsageError("run which tasks? name them, or list them as `tasks` in the run file")
    run_tasks(file.tasks, with_models(options), _protocols(file, options.protocol))


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
