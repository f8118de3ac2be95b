"""Entry points: three lists that agree, an outside package, and what is refused at the door."""

import dataclasses
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from console import harness

from harness.errors import PluginError, UsageError
from harness.plugins.registry import GROUP, load_task, task_names
from harness.task import Option, Task

ROOT = Path(__file__).parents[1]
Install = Callable[..., None]
REINSTALL = "an editable install sees a new benchmark only after `pip install -e .`"


def test_three_lists_agree() -> None:
    """Tasks in `tasks/`, the table in pyproject.toml, what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = project["entry-points"][GROUP]
    found = {
        value.name: f"harness.tasks.{path.stem}:{name}"
        for path in (ROOT / "tasks").glob("*.py")
        for name, value in vars(import_module(f"harness.tasks.{path.stem}")).items()
        if isinstance(value, Task)
    }
    installed = {
        point.name: point.value
        for point in entry_points(group=GROUP)
        if point.dist is not None and point.dist.name == project["name"]
    }
    assert found == declared, "tasks/*.py and the entry points of pyproject.toml differ"
    assert installed == declared, REINSTALL


def test_all_can_be_loaded() -> None:
    names = task_names()
    assert len(names) == len(set(names)) >= 9
    assert all(load_task(name).name == name for name in names)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lamdaba", "there is no task 'lamdaba'; did you mean lambada?"),
        ("wikitext", "did you mean wikitext2 or wikitext103?"),
        ("zzz", r"there is no task 'zzz' \(see `harness tasks`\)$"),
    ],
)
def test_unknown_names_the_nearest(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_task(name)


PLUGIN = """
from harness.task import Task
from harness.tasks.ptb import TASK as model
import dataclasses
TASK = dataclasses.replace(model, name="outside")
NUMBER = 17
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts the metadata of a distribution on the path, as an installer would."""

    def add(distribution: str, points: dict[str, str], module: str = "", source: str = "") -> None:
        folder = tmp_path / distribution
        info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        if module:
            (folder / f"{module}.py").write_text(source)
        monkeypatch.syspath_prepend(folder)

    return add


def test_an_outside_package_is_found(install: Install) -> None:
    install("outside-task", {"outside": "outside_found:TASK"}, "outside_found", PLUGIN)
    assert "outside" in task_names()
    assert load_task("outside").name == "outside"


def test_same_name_from_two_distributions(install: Install) -> None:
    install("one-task", {"mine": "one:TASK"})
    install("other-task", {"mine": "other:TASK"})
    words = r"the task 'mine': .*one:TASK \(one-task\).*; uninstall one"
    with pytest.raises(PluginError, match=words):
        load_task("mine")
    assert "mine" in task_names()
    assert load_task("lambada").name == "lambada", "two that clash hinder no other"


@pytest.mark.parametrize(
    ("point", "words"),
    [
        (
            {"number": "outside_bad:NUMBER"},
            "outside_bad:NUMBER is a int, expected a harness.task.Task",
        ),
        ({"renamed": "outside_bad:TASK"}, "is named 'outside', its entry point 'renamed'"),
        (
            {"gone": "outside_bad:NOTHING"},
            r"task 'gone' \(outside_bad:NOTHING\) cannot be imported: AttributeError",
        ),
        (
            {"absent": "no_such_module:TASK"},
            "cannot be imported: ModuleNotFoundError: .*no_such_module",
        ),
    ],
)
def test_what_is_refused(install: Install, point: dict[str, str], words: str) -> None:
    install("outside-bad", point, "outside_bad", PLUGIN)
    [name] = point
    assert name in task_names(), "names are listed without importing anything"
    with pytest.raises(PluginError, match=words):
        load_task(name)


def test_modules_in_the_working_folder_hide_no_benchmark(tmp_path: Path) -> None:
    """Many projects have a `tasks.py`; ours are modules of `harness` and of nothing else."""
    for name in ("tasks", "prompts", "results"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    api = (
        "import harness\n"
        "task = harness.load_task('lambada')\n"
        "protocol = task.protocol('paper', {})\n"
        "source = task.source(protocol.options)\n"
        "rows = harness.load_data(source, harness.Where(sample=True))\n"
        "print(task.prompt(protocol.options).name, len(rows.rows))\n"
        "from harness.analysis.paper.published import published\n"
        "print(published('LAMBADA PPL', '117M'))\n"
    )
    (tmp_path / "script.py").write_text(api)
    for words in (["-m", "harness", "tasks", "lambada"], ["script.py"]):
        run = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        assert "lambada" in run.stdout
    assert "35.13" in run.stdout


def test_an_import_that_fails_is_named(install: Install) -> None:
    install(
        "broken-task", {"broken": "outside_broken:TASK"}, "outside_broken", "raise OSError('disk')"
    )
    with pytest.raises(PluginError, match=r"'broken' .* cannot be imported: OSError: disk"):
        load_task("broken")
    assert load_task("lambada").name == "lambada", "one broken plugin hinders no other"


def test_a_benchmark_named_like_a_command_is_named_and_left_out(install: Install) -> None:
    install("odd-task", {"show": "odd_show:TASK"}, "odd_show", PLUGIN)
    result = harness("--help")
    assert result.code == 0, result.err
    assert "note: task 'show' (odd_show:TASK (odd-task)) is named like a command" in result.err
    benchmarks = result.out.split("Tasks:")[1]
    assert "lambada" in benchmarks
    assert "show" not in benchmarks
    assert "Show what the model reads" in harness("show", "--help").out
    assert harness("tasks", "lambada").code == 0


def test_a_declaration_that_contradicts_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = dataclasses.replace(
        load_task("ptb"),
        options=(Option("unit", "letters", ("words",), ""), Option("bos", "none", ("none",), "")),
        protocols={"lm-eval": {"bos": "some", "stride": "32"}},
    )
    assert odd.problems() == [
        "there is no protocol 'paper', the default",
        "the default of unit: option unit='letters' is not allowed; choose from: words",
        "protocol 'lm-eval': option bos='some' is not allowed; choose from: none",
        "protocol 'lm-eval' sets stride, which is not an option",
    ]
    monkeypatch.setattr("harness.tasks.ptb.TASK", odd)
    with pytest.raises(
        PluginError, match=r"'ptb' \(harness.tasks.ptb:TASK\): there is no protocol 'paper'"
    ):
        load_task("ptb")
