"""`harness init-task`."""

from pathlib import Path

import click

from harness.cli.options import command
from harness.commands.declare import option


@command()
def init_task(
    name: str,
    out: Path = option(
        Path(), "create the package in this folder; default: here", show_default=False
    ),
) -> None:
    """Create a package for a new task NAME that works at once.

    It has a task, a prompt, a few rows, expected requests and tests. Install it, run it, then put
    your own data and rules in their place.
    """
    from harness.commands.setup import init_task as scaffold
    from harness.display import terminal

    root = click.get_current_context().find_root()
    assert isinstance(root.command, click.Group)
    scaffold.check_name(name, root.command.list_commands(root))
    folder = scaffold.write(name, out)
    terminal.OUT.print(f"wrote {folder}: a task that works at once; its README says what to change")
    terminal.OUT.print(
        f"  pip install -e {folder}\n"
        f"  harness {name} --model smollm2-135m --sample\n"
        f"  python -m pytest {folder}",
        soft_wrap=True,  # commands to copy
    )
