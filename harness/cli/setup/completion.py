"""`harness completion`."""

import click
from click.shell_completion import get_completion_class

from harness.cli.completion import SHELLS, VARIABLE
from harness.errors import UsageError


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that completes `harness` in SHELL.

    It completes commands, tasks, options, protocols and their values. Add it to the startup file of
    the shell: `harness completion bash >> ~/.bashrc`.
    """
    complete = get_completion_class(shell)
    if complete is None:  # a version of click that does not know the shell
        raise UsageError(f"click has no completion for {shell!r}; choose from: {', '.join(SHELLS)}")
    click.echo(complete(context.find_root().command, {}, "harness", VARIABLE).source())
