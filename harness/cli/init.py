"""The command that begins a benchmark; `harness.cli.group` adds it."""

from pathlib import Path

import click


@click.command(name="init-task")
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    help="folder to put the package in; default: this one",
)
@click.pass_context
def init_task(context: click.Context, name: str, out: Path) -> None:
    """Begin a benchmark: write a package NAME that works at once.

    It holds a task, a prompt, a few rows, golden requests and tests. Install it, run it, and then
    put your own data and rules in their place.
    """
    from harness.commands.setup import init_task as scaffold
    from harness.display import terminal

    root = context.find_root()
    assert isinstance(root.command, click.Group)
    scaffold.check_name(name, root.command.list_commands(root))
    folder = scaffold.write(name, out)
    terminal.OUT.print(
        f"wrote {folder}: a benchmark that works at once; its README says what to change\n"
        f"  pip install -e {folder}\n"
        f"  harness {name} --model smollm2-135m --sample\n"
        f"  python -m pytest {folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


COMMANDS = (init_task,)
