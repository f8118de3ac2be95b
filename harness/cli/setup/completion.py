"""`harness completion`."""

import click
from click.shell_completion import get_completion_class

from harness.cli.completion import SHELLS, VARIABLE
from harness.cli.options import argument, command
from harness.errors import UsageError


@command()
def completion(shell: str = argument(type=click.Choice(SHELLS))) -> None:
    """Print a script that completes `harness` in SHELL.

    It completes commands, tasks, options, protocols and their values. Add it to the startup file of
    the shell: `harness completion bash >> ~/.bashrc`.
    """
    complete = get_completion_class(shell)
    if complete is None:  # a version of click that does not know the shell
        raise UsageError(f"click has no completion for {shell!r}; choose from: {', '.join(SHELLS)}")
    root = click.get_current_context().find_root().command
    click.echo(complete(root, {}, "harness", VARIABLE).source())
