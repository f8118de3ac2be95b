"""`harness tasks`: list the tasks, or describe one."""

from harness.analysis.paper import published
from harness.display import tables
from harness.plugins.registry import load_task, task_names


def list_tasks() -> None:
    """Print name, title and protocols of every task."""
    tasks = [load_task(name) for name in published.in_order(task_names())]
    tables.show_mapping(
        "benchmarks (harness tasks NAME explains one)",
        {task.name: f"{task.title} [{', '.join(task.protocols)}]" for task in tasks},
    )


def explain_task(name: str) -> None:
    """Print what a task measures, its data, options, protocols and scores."""
    tables.show_task(load_task(name))
