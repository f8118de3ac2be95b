"""Checks of a benchmark that need no model; `conformance` has the others.

Each function returns the problems it finds, one line each.
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
from harness.text import common_prefix_length

SAMPLE_ROWS = 6
ENGINE_OPTIONS = frozenset({"bos", "stride", "windows"})


def sample_jobs(task: Task) -> Iterator[tuple[str, Job]]:
    """Every protocol with a job on the first sample rows."""
    for name in task.protocols:
        yield name, golden.sample_job(task, task.protocol(name), SAMPLE_ROWS)


def declaration(task: Task) -> list[str]:
    """Mistakes in the declaration of the task."""
    if problems := task.problems():
        return problems
    if task.version < 1:
        problems.append(f"version is {task.version}, expected 1 or more")
    problems += [f"{what} is empty" for what in ("title", "description") if not getattr(task, what)]
    same: dict[str, str] = {}
    for name in task.protocols:
        key = json.dumps(dict(task.protocol(name).options), sort_keys=True)
        if key in same:
            problems.append(f"protocols {same[key]!r} and {name!r} are the same options")
        same.setdefault(key, name)
    measures = task.measures(task.protocol().options)
    twice = _twice(measure.name for measure in measures)
    return problems + [f"two measures are named {name!r}" for name in twice]


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


# --- options ----------------------------------------------------------------------------


class WatchedOptions(dict[str, str]):
    """Options that remember which of them were read."""

    def __init__(self, options: Mapping[str, str]) -> None:
        super().__init__(options)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Like `dict.get`; a missing name counts as read too."""
        self.read.add(name)
        return super().get(name, default)


def options(task: Task, read_in_runs: set[str]) -> list[str]:
    """Options that are read but not declared, or declared but never read.

    `read_in_runs` are those that were read when there were responses.
    """
    declared = {option.name for option in task.options}
    read = set(read_in_runs)
    for protocol in _one_at_a_time(task):
        watched = WatchedOptions(protocol.options)
        try:
            prepare(golden.sample_job(task, replace(protocol, options=watched), SAMPLE_ROWS))
            task.measures(watched)
        except UsageError:  # the task refuses this value with the other defaults
            pass
        except (KeyError, TaskError) as error:
            cause = error if isinstance(error, KeyError) else error.__cause__
            if not isinstance(cause, KeyError) or watched.read <= declared:
                raise
        read |= watched.read
    undeclared = sorted(read - declared - ENGINE_OPTIONS)
    unread = sorted(declared - read - ENGINE_OPTIONS)
    return [
        *(f"option {name!r} is read but not declared" for name in undeclared),
        *(f"option {name!r} is declared but never read" for name in unread),
    ]


def _one_at_a_time(task: Task) -> Iterator[Protocol]:
    """The default protocol, then each other value of each option with the other defaults."""
    yield task.protocol()
    for option in task.options:
        for choice in option.choices:
            value = "2" if choice == "<n>" else choice
            if value != option.default:
                yield task.protocol("paper", {option.name: value})


# --- rows -------------------------------------------------------------------------------


def rows(task: Task) -> list[str]:
    """Rows that a file changes, and examples that depend on others or on chance."""
    problems = []
    for name, job in sample_jobs(task):
        prepared = prepare(job)
        of_protocol = _through_a_file(task.source(job.protocol.options))
        if prepared.groups != prepare(job).groups:
            of_protocol.append("the same rows give other requests a second time")
        ids = _twice(example.id for example in prepared.examples)
        of_protocol += [f"two examples have the id {id_!r}" for id_ in ids]
        if not task.stream:
            of_protocol += _row_by_row(job, prepared)
        problems += [f"{name}: {problem}" for problem in of_protocol]
    return problems


def _through_a_file(source: Source) -> list[str]:
    """Whether the sample, saved under the name of the original file, is read as the same rows."""
    name = source.files[0].removeprefix("./").replace("*", "")
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((files(source.package) / source.sample).read_bytes())
        if source.companion:
            companion = files(source.package) / source.companion(source.sample)
            path.with_name(source.companion(path.name)).write_bytes(companion.read_bytes())
        from_file = load(source, Where(folder=Path(folder)))
    if from_file.rows == load(source, Where(sample=True)).rows:
        return []
    return [f"{name} in a data folder gives other rows than the sample"]


def _row_by_row(job: Job, together: Prepared) -> list[str]:
    """Whether single rows give the same examples and requests as all rows together."""
    alone = [prepare(replace(job, data=replace(job.data, rows=(row,)))) for row in job.data.rows]
    examples = tuple(example for prepared in alone for example in prepared.examples)
    groups = tuple(group for prepared in alone for group in prepared.groups)
    if (examples, groups) == (together.examples, together.groups):
        return []
    return ["a row alone gives other examples or requests than with the other rows"]


# --- golden requests --------------------------------------------------------------------


def requests(task: Task, golden_file: Path) -> list[str]:
    """Differences from the golden requests, which `golden.main` writes."""
    rewrite = f"write them with `python -m harness.testing.golden {task.name} {golden_file.name}`"
    try:
        expected = json.loads(golden_file.read_text("utf-8"))
    except OSError:
        return [f"there is no file {golden_file}; {rewrite}"]
    actual = golden.golden(task)
    version, golden_version = actual["version"], expected["version"]
    if version != golden_version:
        return [f"version is {version}, in {golden_file.name} {golden_version}; {rewrite}"]
    differences = [
        _difference(name, expected["requests"].get(name), actual["requests"].get(name))
        for name in {**expected["requests"], **actual["requests"]}
    ]
    advice = f"if this is intended, raise Task.version and {rewrite}"
    return [f"{difference}; {advice}" for difference in differences if difference]


def _difference(protocol: str, expected: Any, actual: Any) -> str:
    """Both sides from their first difference on, or an empty text."""
    if expected == actual:
        return ""
    before, after = (json.dumps(side, ensure_ascii=False) for side in (expected, actual))
    place = common_prefix_length([before, after])
    part = slice(max(0, place - 20), place + 40)
    return f"protocol {protocol!r} asks ...{after[part]}..., golden is ...{before[part]}..."
