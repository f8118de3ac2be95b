"""Old names that plugins use: they work for now, with a warning at the line that uses them."""

import importlib
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from harness import moved
from harness.plugins.registry import load_task
from harness.task import Task

WINOGRAD = load_task("winograd")


def warned(folder: Path, code: str) -> list[tuple[str, int, str]]:
    """(file, line, message) of each DeprecationWarning of a module with this code."""
    path = folder / "plugin_of_old_names.py"
    path.write_text(code)
    script = (
        "import runpy, sys, warnings\n"
        "warnings.simplefilter('always')\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    runpy.run_path(sys.argv[1])\n"
        "for w in caught:\n"
        "    if w.category is DeprecationWarning:\n"
        "        print(w.filename, w.lineno, w.message, sep='\\t')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return [(Path(file).name, int(number), message) for file, number, message in lines]


@pytest.mark.parametrize(
    ("code", "message"),
    [(f"import {old}", f"{old} is now {new}") for old, new in moved.MODULES.items()]
    + [
        (
            "from harness.extract import all_greedy, target_nats",
            "harness.extract is now harness.metrics.extract",
        ),
        ("from harness.task import each", "harness.task.each is now harness.task.per_row"),
        (
            "from harness.metrics import most_confident",
            "harness.metrics.most_confident is now harness.metrics.selective_accuracy",
        ),
    ],
)
def test_a_warning_points_at_the_file_that_uses_an_old_name(
    tmp_path: Path, code: str, message: str
) -> None:
    found = warned(tmp_path, f"import harness.core\n\n{code}\n")
    assert ("plugin_of_old_names.py", 3, message) in found
    assert {file for file, _, _ in found} == {"plugin_of_old_names.py"}


@pytest.mark.parametrize("old", moved.MODULES)
def test_an_old_module_has_the_objects_of_the_new_one(old: str) -> None:
    with (
        pytest.warns(DeprecationWarning, match=f"^{old} is now")
        if old not in sys.modules
        else (warnings.catch_warnings())
    ):
        module = importlib.import_module(old)
    new = importlib.import_module(moved.MODULES[old])
    names = [name for name in vars(new) if not name.startswith("__")]
    assert names
    assert all(getattr(module, name) is getattr(new, name) for name in names)
    for alias, name in moved.ATTRIBUTES.get(old, {}).items():
        assert getattr(module, alias) is getattr(new, name)


def test_an_old_attribute_is_the_new_one_and_others_do_not_exist() -> None:
    for name in ("harness.metrics", "harness.task"):
        module = importlib.import_module(name)
        for old, new in moved.ATTRIBUTES[name].items():
            with pytest.warns(DeprecationWarning, match=f"{old} is now {name}.{new}"):
                assert getattr(module, old) is getattr(module, new)
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            module.nothing  # noqa: B018


def test_presets_are_protocols() -> None:
    with pytest.warns(DeprecationWarning, match="presets= is now protocols=") as caught:
        task = Task(
            name="riddles",
            version=1,
            title="t",
            description="d",
            source=WINOGRAD.source,
            read=WINOGRAD.read,
            ask=WINOGRAD.ask,
            measures=WINOGRAD.measures,
            presets={"paper": {}, "x": {"norm": "tokens"}},  # type: ignore[call-arg]
        )
    assert caught[0].filename == __file__
    assert list(task.protocols) == ["paper", "x"]
    with pytest.warns(DeprecationWarning, match="Task.presets is now Task.protocols") as caught:
        assert task.presets == task.protocols
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replace(task, version=2).protocols == task.protocols


def test_an_old_name_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("harness.no_such_module")
