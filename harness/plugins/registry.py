"""Find tasks through the entry points `harness.tasks`, and refuse those that cannot be loaded.

Built-in and third-party tasks are found alike, in the metadata of installed packages. Listing their
names imports nothing; only a requested task is imported, and checked here.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from harness.errors import PluginError, UsageError, in_one_line

if TYPE_CHECKING:
    from harness.task import Task

GROUP = "harness.tasks"


def task_names() -> list[str]:
    """Names of all installed tasks, in the order of their distributions."""
    return list(_points())


def origins(name: str) -> list[str]:
    """The entry points called `name`, each as `module:TASK (distribution)`."""
    return [f"{point.value}{_owner(point)}" for point in _points()[name]]


def load_task(name: str) -> "Task":
    """Import a task by its name.

    Raises:
        UsageError: there is no such task.
        PluginError: two packages define it, it cannot be imported, it is not a `Task` of that name,
            or its options and protocols contradict each other.
    """
    from harness.plugins.guard import guarded
    from harness.task import Task, unknown

    points = _points()
    if name not in points:
        raise UsageError(unknown("task", name, points, see="`harness tasks`"))
    if len(points[name]) > 1:
        raise PluginError(
            f"two packages define the task {name!r}: {', '.join(origins(name))}; uninstall one"
        )
    [point] = points[name]
    try:
        task = point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"task {name!r} ({point.value}) cannot be imported: {in_one_line(error)}"
        ) from error
    if not isinstance(task, Task):
        raise PluginError(f"{point.value} is a {type(task).__name__}, expected a harness.task.Task")
    if task.name != name:
        raise PluginError(f"{point.value} is named {task.name!r}, its entry point {name!r}")
    try:
        problems = task.problems()
    except Exception as error:  # options or protocols are of the wrong types
        problems = [f"its options and protocols cannot be read: {in_one_line(error)}"]
    if problems:
        raise PluginError(f"task {name!r} ({point.value}): {'; '.join(problems)}")
    return guarded(task)


def _points() -> dict[str, list[EntryPoint]]:
    """Entry points by name; several if packages clash.

    An editable install can list a distribution twice, so only different targets count.
    """
    points: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        points.setdefault(point.name, {}).setdefault(point.value, point)
    return {name: list(by_target.values()) for name, by_target in points.items()}


def _owner(point: EntryPoint) -> str:
    return f" ({point.dist.name})" if point.dist else ""
