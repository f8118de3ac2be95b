"""`harness tasks`."""

from harness.cli import completion
from harness.cli.options import argument, command


@command()
def tasks(
    name: str | None = argument(required=False, metavar="[TASK]", shell_complete=completion.task),
) -> None:
    """List the tasks, or describe one.

    With TASK, print what it measures, where its data comes from, its options and protocols.
    """
    from harness.analysis.paper import published
    from harness.display import tables
    from harness.plugins.registry import load_task, task_names

    if name:
        tables.show_task(load_task(name))
    else:
        tables.show_tasks([load_task(task) for task in published.in_order(task_names())])
