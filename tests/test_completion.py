"""Shell completion: called through the environment as shells do, and in a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from console import harness, refused

from harness.cli import group
from harness.cli.completion import SHELLS, VARIABLE
from harness.errors import PluginError
from harness.plugins.registry import load_task, task_names

HARNESS = Path(sys.executable).with_name("harness")


def offered(*words: str) -> list[str]:
    """What is offered for the last word."""
    complete = BashComplete(group.cli, {}, "harness", VARIABLE)
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_commands_and_benchmarks() -> None:
    assert set(offered("")) == {*group.COMMANDS, *task_names()}
    assert offered("lamb") == ["lambada"]
    assert offered("wikitext1") == ["wikitext103"]
    assert offered("cache", "") == ["check", "prune"]
    assert offered("--ver") == ["--version"]


@pytest.mark.parametrize("command", ["tasks", "show", "jitter"])
def test_arguments_that_are_benchmarks(command: str) -> None:
    assert offered(command, "wmt14-e") == ["wmt14-en-fr"]
    assert set(offered(command, "")) == set(task_names())


def test_options() -> None:
    assert offered("lambada", "--proto") == ["--protocol"]
    assert offered("lambada", "--dtype", "b") == ["bfloat16"]


@pytest.mark.parametrize("before", [["cbt-cn"], ["show", "cbt-cn"], ["jitter", "cbt-cn"]])
def test_values_are_those_of_the_benchmark(before: list[str]) -> None:
    task = load_task("cbt-cn")
    assert offered(*before, "--protocol", "") == list(task.protocols)
    assert offered(*before, "--set", "split=") == ["split=valid", "split=test"]
    options = [f"{option.name}=" for option in task.options]
    assert [o.partition("=")[0] for o in offered(*before, "--set", "")] == [
        option.name for option in task.options for _ in option.choices
    ]
    if len(before) == 1:  # the others are about one protocol
        assert offered(*before, "--vary", "") == options


def test_a_number_is_left_to_be_typed() -> None:
    assert offered("ptb", "--set", "str") == [
        "stream=file", "stream=line", "stride=context", "stride=",
    ]  # fmt: skip


def test_a_table_offers_what_any_of_its_benchmarks_has() -> None:
    assert {"paper", "lm-eval", "hf", "strided"} <= set(offered("table3", "--protocol", ""))
    assert offered("section3", "--set", "hint=n") == ["hint=newline", "hint=none"]


def test_models() -> None:
    complete = BashComplete(group.cli, {}, "harness", VARIABLE)
    assert offered("lambada", "--model", "smol") == ["smollm2-135m"]
    [item] = complete.get_completions(["lambada", "--model", "x", "--model"], "./ck")
    assert (item.type, item.value) == ("file", "./ck")


def test_silent_where_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise PluginError(f"{name} is broken")

    monkeypatch.setattr("harness.cli.completion.load_task", broken)
    assert offered("table3", "--protocol", "") == []
    monkeypatch.setattr("harness.plugins.registry.load_task", broken)
    monkeypatch.setenv(VARIABLE, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "harness lambada --prot")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert harness() == (2, "", "")


def test_the_scripts_are_clicks_own() -> None:
    for shell in SHELLS:
        result = harness("completion", shell)
        assert result.code == 0
        assert f"{VARIABLE}={shell}_complete" in result.out
    assert "is not one of 'bash', 'zsh', 'fish'" in refused("completion", "ksh")


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
@pytest.mark.skipif(not HARNESS.exists(), reason="the command is not installed beside python")
def test_bash_takes_the_script(tmp_path: Path) -> None:
    script = tmp_path / "harness.bash"
    script.write_text(harness("completion", "bash").out, "utf-8")
    lines = f"""
        source {script}
        COMP_WORDS=(harness lambada --protocol last) COMP_CWORD=3
        _harness_completion {HARNESS}
        echo "${{COMPREPLY[*]}}"
    """
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1] == "last-token", done.stderr


@pytest.mark.parametrize(
    "words", ["harness ", "harness lambada --set quotes=", "harness table3 --"]
)
def test_no_heavy_import(words: str) -> None:
    """A list of benchmarks costs no import of any, the values of one no torch."""
    code = (
        "import sys; from harness.cli.group import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*{'torch', 'transformers', 'datasets', 'harness.tasks.coqa'} & set(sys.modules), "
        "file=sys.stderr)"
    )
    typed = {VARIABLE: "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **typed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip() == ""
    assert done.stdout.strip()


def test_a_wrong_name_is_still_answered_outside_of_completion() -> None:
    assert "did you mean lambada" in refused("lamdaba")
