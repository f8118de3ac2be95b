"""Names -> jobs: the tasks that are meant, their protocols and their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.analysis.paper import published
from harness.data import load as data
from harness.errors import DataError, UsageError
from harness.plugins.registry import load_task, task_names
from harness.runner import Job
from harness.task import Protocol, Task, unknown


class PaperTable(NamedTuple):
    """One of the paper's tables."""

    title: str
    columns: tuple[str, ...]


PAPER_TABLES = {
    "table3": PaperTable("Table 3", published.COLUMNS),
    "section3": PaperTable("Section 3", published.SECTION3),
}


class ProtocolChoice(NamedTuple):
    """A protocol by name, and the options that are changed in it."""

    name: str = "paper"  # in the choice of one task, an empty name stands for that of the others
    overrides: Mapping[str, str] = {}


class Protocols(NamedTuple):
    """Each task with its protocol."""

    pairs: list[tuple[Task, Protocol]]
    notes: list[str]  # one line per task that has no protocol of the name


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the rows of jobs come from, and which of them are evaluated."""

    where: data.Where
    limit: int | None = None
    seed: int = 0
    strict: bool = False


class Jobs(NamedTuple):
    """Jobs, and why other tasks have none."""

    jobs: list[Job]
    reasons: dict[str, str]  # by task


def task_list(names: Sequence[str]) -> list[str]:
    """Task names, with `table3` and `section3` spelled out; each once."""
    choices = [*PAPER_TABLES, *task_names()]
    tasks: list[str] = []
    for name in names:
        if name not in choices:
            raise UsageError(unknown("task", name, choices, see="`harness tasks`"))
        table = PAPER_TABLES.get(name)
        tasks += published.tasks(table.columns) if table else [name]
    return list(dict.fromkeys(tasks))


def with_protocols(
    names: Sequence[str],
    choice: ProtocolChoice,
    per_task: Mapping[str, ProtocolChoice] | None = None,
) -> Protocols:
    """Each task with its options and protocol; `paper` if it has no protocol of that name."""
    tasks = [load_task(name) for name in names]
    protocols = dict.fromkeys(name for task in tasks for name in task.protocols)
    if choice.name not in protocols:
        raise UsageError(unknown("protocol", choice.name, protocols, "no task has a"))
    declared = {task.name: {option.name for option in task.options} for task in tasks}
    all_options = sorted(set().union(*declared.values()))
    for name in choice.overrides:
        if name not in all_options:
            raise UsageError(unknown("option", name, all_options, "no task has an"))
    found = Protocols([], [])
    for task in tasks:
        own = (per_task or {}).get(task.name, ProtocolChoice(""))
        name = own.name or choice.name
        if not own.name and name not in task.protocols:
            found.notes.append(f"{task.name} has no protocol {name!r}, using paper")
            name = "paper"
        shared = {k: v for k, v in choice.overrides.items() if k in declared[task.name]}
        found.pairs.append((task, task.protocol(name, {**shared, **own.overrides})))
    return found


def job_for(task: Task, protocol: Protocol, rows: Rows) -> Job:
    """One task under one protocol, with its data.

    Raises:
        UsageError: options contradict each other.
        DataError: there is no data, or it is malformed.
    """
    task.measures(protocol.options)  # refuses options that contradict each other
    where, strict = rows.where, rows.strict
    if where.file and where.hub and not task.few_shot:
        raise UsageError("--data-file and --hub name different rows; give one of them")
    loaded = data.load(task.source(protocol.options), where, strict=strict)
    pool = None
    if task.few_shot:
        pool = data.load_pool(task.few_shot.source(protocol.options), where, strict=strict)
    return Job(task, protocol, loaded, rows.limit, rows.seed, strict, pool)


def jobs_for(pairs: Sequence[tuple[Task, Protocol]], rows: Rows, required: Sequence[str]) -> Jobs:
    """A job for each task that has data, and why each other task has none.

    Raises:
        DataError: there is no data for a required task, for any of them if `rows` are strict, or
            for none at all.
    """
    found = Jobs([], {})
    for task, protocol in pairs:
        try:
            found.jobs.append(job_for(task, protocol, rows))
        except DataError as error:
            if rows.strict or task.name in required:
                raise
            found.reasons[task.name] = str(error)
    if not found.jobs:
        raise DataError(
            f"none of the {len(found.reasons)} tasks can be run; "
            f"{next(iter(found.reasons.values()))}"
        )
    return found
