"""The example plugin, built, installed next to the harness and run by every command."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import pytest
from conftest import save_tiny

from harness.core import Row

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "harness-rhymes"
MAY_IMPORT = {"core", "data.parsers", "metrics", "metrics.extract", "prompt", "task"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built package in it, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, folder / "source")  # building leaves files in the source
    target = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-index", "--no-build-isolation", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny", context=128)


def harness(installed: Path, folder: Path, *arguments: object) -> str:
    """Standard output of `python -m harness ...` with the plugin on the path."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    environment.pop("HARNESS_DATA", None)
    done = forked.run("harness", *arguments, folder=folder, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_listed_and_explained(installed: Path, tmp_path: Path) -> None:
    assert "rhymes" in harness(installed, tmp_path, "--help").partition("Tasks:")[2]
    assert "Rhymes: the last word of a couplet" in harness(installed, tmp_path, "tasks")
    explained = harness(installed, tmp_path, "tasks", "rhymes")
    assert "rhymes (version 1): Rhymes: the last word of a couplet" in explained
    assert "which lines the model reads [both, second; default both]" in explained
    assert "lines=second" in explained
    assert "rhymes.jsonl" in explained


def test_shown(installed: Path, tmp_path: Path, model: Path) -> None:
    shown = harness(installed, tmp_path, "show", "rhymes", "--model", model, "--sample")
    assert "rhymes item 0  references: ['light']" in shown
    context, _, target = shown.partition("‖")
    assert context.replace("|", "").endswith("found his flour milled by morning ")
    assert target.replace("|", "").strip() == "light"


def test_run_recorded_and_tabled(installed: Path, tmp_path: Path, model: Path) -> None:
    out = harness(
        installed, tmp_path, "rhymes", "--model", model, "--sample", "--json",
        "--protocol", "no-rhyme",
    )  # fmt: skip
    [record] = json.loads(out)["records"]
    assert record["task"] == "rhymes"
    assert record["options"] == {"lines": "second"}
    assert record["examples"] == 12
    assert [score["metric"] for score in record["scores"]] == ["acc", "ppl"]
    assert record["prompt"]["name"] == "rhymes.txt"
    assert record["data"]["name"] == "rhymes.jsonl"
    [file] = (tmp_path / "results" / "records").rglob("rhymes-*.json")
    assert file.name.startswith("rhymes-no-rhyme-")

    harness(installed, tmp_path, "leaderboard")
    with (tmp_path / "results" / "leaderboard.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    ppl = next(score["value"] for score in record["scores"] if score["metric"] == "ppl")
    assert float(row["rhymes ppl"]) == pytest.approx(ppl)
    assert row["protocol"] == "no-rhyme"


def test_its_own_files_decide_what_is_asked(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    import harness_rhymes

    task = harness_rhymes.TASK
    row = Row(3, {"text": "a cat\nin a hat"})
    for lines, context in (("both", "a cat\nin a"), ("second", "in a")):
        options = task.protocol("paper", {"lines": lines}).options
        [example] = task.read([row], options)
        [request] = task.ask(example, task.prompt(options), options)
        assert request.context == f"A couplet that rhymes:\n{context}"
        assert request.continuation == " hat"
        assert example.references == ("hat",)


def test_needs_only_the_plugin_modules_and_forty_lines() -> None:
    text = (EXAMPLE / "harness_rhymes" / "__init__.py").read_text("utf-8")
    lines = [line for line in text.split("\n") if line.strip()]
    imported = {line.split()[1].removeprefix("harness.") for line in lines if "import" in line}
    assert imported == MAY_IMPORT
    assert len(lines) <= 45
