"""`harness init-task`: the package that it writes works as it is; what is refused."""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import forked
import pytest
from console import harness, refused

from harness.commands.setup.init_task import FILES, check_name, write
from harness.errors import UsageError

NAME = "odd-one-2"


def run(*words: object, folder: Path, path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{Path.cwd()}"}
    return forked.run(*words, folder=folder, environment=environment)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package that the command writes, and a folder with it installed."""
    folder = tmp_path_factory.mktemp("made")
    result = harness("init-task", NAME, "--out", folder)
    assert result.code == 0, result.err
    assert f"pip install -e {folder / NAME}\n" in result.out
    site = folder / "site"
    words = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = run(*words, "--target", site, folder / NAME, folder=folder, path=site)
    assert done.returncode == 0, done.stderr
    return folder / NAME, site


@pytest.mark.slow
def test_its_own_tests_pass(made: tuple[Path, Path]) -> None:
    package, site = made
    words = ["pytest", package, "-q", "-p", "no:cacheprovider", "-W", "error::DeprecationWarning"]
    done = run(*words, folder=package, path=site)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_its_own_tests_notice_a_changed_prompt(made: tuple[Path, Path], tmp_path: Path) -> None:
    package, site = made
    changed = shutil.copytree(site, tmp_path / "site")
    prompt = changed / "harness_odd_one_2" / "prompt.txt"
    prompt.write_text("Question: {question}\nMy answer:\n", "utf-8")
    words = ["pytest", package / "tests", "-q", "-p", "no:cacheprovider"]
    done = run(*words, "-k", "golden or declaration", folder=tmp_path, path=changed)
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "if this is intended, raise Task.version" in done.stdout


def test_it_runs(
    made: tuple[Path, Path],
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(made[1]))
    words = [NAME, "--model", tiny_folder, "--sample", "--no-cache", "--out", tmp_path, "--json"]
    result = harness(*words, "--protocol", "by-length")
    assert result.code == 0, result.err
    [record] = json.loads(result.out)["records"]
    assert (record["task"], record["examples"], record["requests"]) == (NAME, 6, 12)
    assert record["options"] == {"norm": "characters"}
    assert [score["metric"] for score in record["scores"]] == ["acc"]


def test_every_file_and_no_slot_left(tmp_path: Path) -> None:
    folder = write(NAME, tmp_path)
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    expected = {t.format(package="harness_odd_one_2", module="odd_one_2") for t in FILES.values()}
    assert files == expected
    text = "".join((folder / name).read_text("utf-8") for name in files)
    assert "$" not in text
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["entry-points"] == {"harness.tasks": {NAME: "harness_odd_one_2:TASK"}}


@pytest.mark.parametrize(
    "name", ["Riddles", "2fast", "my_riddles", "a--b", "-a", "a-", "a/b", "..", "é", "", "a" * 41]
)
def test_names_that_no_task_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a valid name for a task; expected at most 40"):
        check_name(name, ())
    assert "is not a valid name" in refused("init-task", "--out", tmp_path, "--", name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["lambada", "wmt14-en-fr", "tasks", "compare", "init-task"])
def test_names_that_are_taken(name: str, tmp_path: Path) -> None:
    message = refused("init-task", name, "--out", tmp_path)
    assert f"{name!r} is already a command or an installed task" in message
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path: Path) -> None:
    kept = tmp_path / "riddles" / "kept.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    message = refused("init-task", "riddles", "--out", tmp_path)
    assert message.endswith("exists already and is not overwritten; choose another name or --out")
    assert [p.name for p in kept.parent.iterdir()] == ["kept.txt"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refused("init-task", "riddles", "--out", tmp_path / "file")
    assert "cannot write" in message
    assert "choose another --out" in message
