"""`harness tasks`."""

import click

from harness.cli import completion


@click.command()
@click.argument("name", required=False, shell_complete=completion.benchmarks)
def tasks(name: str | None) -> None:
    """List the tasks, or describe one.

    With NAME, print what the task measures, where its data comes from, its options and protocols.
    """
    from harness.commands.evaluate.tasks import explain_task, list_tasks

    if name:
        explain_task(name)
    else:
        list_tasks()
