"""Entry points of the group `harness.tasks` -> `Task` values.

Built-in and third-party benchmarks take the same road: installed metadata. Names are listed
without importing anything; only the task that is asked for is imported, and refused here, by
name, if it is not what it says.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from harness.errors import PluginError, UsageError, in_one_line

if TYPE_CHECKING:
    from harness.task import Task

GROUP = "harness.tasks"


def task_names() -> list[str]:
    """Names of all installed benchmarks, in the order of their distributions."""
    return list(_points())


def origins(name: str) -> list[str]:
    """What claims to be the benchmark called `name`: `module:TASK`, and the distribution."""
    return [f"{point.value}{_owner(point)}" for point in _points()[name]]


def load_task(name: str) -> "Task":
    """The benchmark called `name`.

    Raises:
        UsageError: there is none; names the nearest.
        PluginError: the entry point is taken twice, cannot be imported, or leads to something
            that is no `Task` of that name, or one whose options and protocols do not fit.
    """
    from harness.plugins.guard import guarded
    from harness.task import Task, unknown

    points = _points()
    if name not in points:
        raise UsageError(unknown("task", name, points, see="`harness tasks`"))
    if len(points[name]) > 1:
        raise PluginError(
            f"two packages claim the benchmark {name!r}: {', '.join(origins(name))}; uninstall one"
        )
    [point] = points[name]
    try:
        task = point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"benchmark {name!r} ({point.value}) cannot be imported: {in_one_line(error)}"
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
        raise PluginError(f"benchmark {name!r} ({point.value}): {'; '.join(problems)}")
    return guarded(task)


def _points() -> dict[str, list[EntryPoint]]:
    """The entry points of each name; more than one if packages clash, which is that name's fault.

    An editable install can list the same distribution twice; only different targets clash.
    """
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, {}).setdefault(point.value, point)
    return {name: list(points.values()) for name, points in found.items()}


def _owner(point: EntryPoint) -> str:
    return f" ({point.dist.name})" if point.dist else ""
