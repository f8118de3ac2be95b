"""What can be wrong with a benchmark, found without a model; `conformance` has the rest.

Each function returns the faults that it finds, a line each, and nothing where all is well.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.core import Source
from harness.data.load import Where, load
from harness.errors import TaskError, UsageError
from harness.runner import Job, Prepared, prepare
from harness.task import Protocol, Task
from harness.testing import golden

ROWS = 6  # of the sample are looked at
ENGINE_OPTIONS = frozenset({"bos", "stride", "windows"})


def sample_jobs(task: Task) -> Iterator[tuple[str, Job]]:
    """(preset, the first rows of the sample under it)."""
    for preset in task.protocols:
        yield preset, golden.sample_job(task, task.protocol(preset), ROWS)


def declaration(task: Task) -> list[str]:
    """What is odd about the declaration itself."""
    found = list(task.problems())
    if found:
        return found
    if task.version < 1:
        found.append(f"version is {task.version}, expected 1 or more")
    found += [f"{what} is empty" for what in ("title", "description") if not getattr(task, what)]
    resolved: dict[str, str] = {}
    for preset in task.protocols:
        key = json.dumps(dict(task.protocol(preset).options), sort_keys=True)
        if key in resolved:
            found.append(f"protocols {resolved[key]!r} and {preset!r} are the same options")
        resolved.setdefault(key, preset)
    measures = task.measures(task.protocol().options)
    return found + [f"two measures are named {name!r}" for name in _twice(m.name for m in measures)]


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


# --- options ----------------------------------------------------------------------------


class Watched(dict[str, str]):
    """Options that remember which of them were read."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__(options)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As a mapping's; a name that is not there counts as read, too."""
        self.read.add(name)
        return super().get(name, default)


def options(task: Task, in_runs: set[str]) -> list[str]:
    """Options that are read and not declared, or declared and never read.

    `in_runs` are those that were read when there were answers.
    """
    declared = {option.name for option in task.options}
    read = set(in_runs)
    for protocol in _one_at_a_time(task):
        watched = Watched(protocol.options)
        try:
            prepare(golden.sample_job(task, replace(protocol, options=watched), ROWS))
            task.measures(watched)
        except UsageError:  # the benchmark refuses this value with the other defaults
            pass
        except (KeyError, TaskError) as error:
            cause = error if isinstance(error, KeyError) else error.__cause__
            if not isinstance(cause, KeyError) or watched.read <= declared:
                raise
        read |= watched.read
    others = sorted(read - declared - ENGINE_OPTIONS)
    found = [f"option {name!r} is read, and not declared" for name in others]
    unread = sorted(declared - read - ENGINE_OPTIONS)
    return found + [f"option {name!r} is declared, and nothing reads it" for name in unread]


def _one_at_a_time(task: Task) -> Iterator[Protocol]:
    """The default protocol, then each other value of each option by itself."""
    yield task.protocol()
    for option in task.options:
        for choice in option.choices:
            value = "2" if choice == "<n>" else choice
            if value != option.default:
                yield task.protocol("paper", {option.name: value})


# --- rows -------------------------------------------------------------------------------


def rows(task: Task) -> list[str]:
    """Rows that change on their way through a file, and examples that depend on others."""
    found = []
    for preset, job in sample_jobs(task):
        once = prepare(job)
        faults = _through_a_file(task.source(job.protocol.options))
        if once.groups != prepare(job).groups:
            faults.append("the same rows are asked differently a second time")
        faults += [f"two examples have the id {name!r}" for name in _twice(_ids(once))]
        if not task.stream:
            faults += _each_alone(job, once)
        found += [f"{preset}: {fault}" for fault in faults]
    return found


def _ids(asked: Prepared) -> list[str]:
    return [example.id for example in asked.examples]


def _through_a_file(source: Source) -> list[str]:
    """The sample's bytes under the original's name must be found and read as the same rows."""
    name = source.files[0].removeprefix("./").replace("*", "")
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((files(source.package) / source.sample).read_bytes())
        if source.companion:
            other = files(source.package) / source.companion(source.sample)
            path.with_name(source.companion(path.name)).write_bytes(other.read_bytes())
        read = load(source, Where(folder=Path(folder)))
    if read.rows == load(source, Where(sample=True)).rows:
        return []
    return [f"{name} in a folder gives other rows than the sample"]


def _each_alone(job: Job, together: Prepared) -> list[str]:
    """Each row by itself must give the examples and requests that it gives among others."""
    apart = [prepare(replace(job, data=replace(job.data, rows=(row,)))) for row in job.data.rows]
    examples = tuple(example for asked in apart for example in asked.examples)
    groups = tuple(group for asked in apart for group in asked.groups)
    if (examples, groups) == (together.examples, together.groups):
        return []
    return ["a row by itself gives other examples than among others"]


# --- golden requests --------------------------------------------------------------------


def requests(task: Task, golden_file: Path) -> list[str]:
    """Where the requests differ from the golden ones; `golden.main` writes them."""
    rewrite = f"write them with `python -m harness.testing.golden {task.name} {golden_file.name}`"
    try:
        held = json.loads(golden_file.read_text("utf-8"))
    except OSError:
        return [f"there is no file {golden_file}; {rewrite}"]
    now = golden.golden(task)
    if now["version"] != held["version"]:
        was = f"version is {now['version']}, in {golden_file.name} {held['version']}"
        return [f"{was}; {rewrite}"]
    found = [
        _difference(preset, held["requests"].get(preset), now["requests"].get(preset))
        for preset in {**held["requests"], **now["requests"]}
    ]
    meant = f"if that is meant, raise Task.version and {rewrite}"
    return [f"{difference}; {meant}" for difference in found if difference]


def _difference(preset: str, held: Any, now: Any) -> str:
    """Both sides from where they part, or nothing."""
    if held == now:
        return ""
    before, after = (json.dumps(side, ensure_ascii=False) for side in (held, now))
    place = 0
    while before[place : place + 1] == after[place : place + 1]:
        place += 1
    part = slice(max(0, place - 20), place + 40)
    return f"protocol {preset!r} asks ...{after[part]}..., golden is ...{before[part]}..."
