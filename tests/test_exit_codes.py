"""Exit codes when nobody listens, when the machine refuses, and when a value is out of range."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import save_tiny
from console import harness, record_files, refused

from harness.cli.evaluate.benchmark import ONE_TASK
from harness.cli.options import command
from harness.cli.types import MAX_BYTES, Duration, Size
from harness.commands.options import RunOptions
from harness.jobs.durations import MAX_SECONDS

CLOSED_PIPE = 141


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with one record, and a baseline that it passes."""
    folder = tmp_path_factory.mktemp("gate")
    model = save_tiny(folder / "tiny", context=128)
    run = ("lambada", "--model", model, "--sample", "--no-cache", "--out", folder / "runs")
    assert harness(*run).code == 0
    words = ("baseline", folder / "runs", "--out", folder / "main.toml", "--rule", "absolute:0")
    assert harness(*words).code == 0
    return folder / "runs", folder / "main.toml"


def unheard(*words: object, stdout: str = "pipe") -> tuple[int, str]:
    """Exit code and standard error of a command whose output nobody reads."""
    command = [sys.executable, "-m", "harness", *map(str, words)]
    if stdout == "closed":
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    if stdout == "full":
        command = ["sh", "-c", 'exec "$@" >/dev/full', "sh", *command]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        run = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=120
        )
    finally:
        os.close(writer)
    return run.returncode, run.stderr


# --- nobody reads the output ------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("--json",)], ids=["table", "json"])
def test_a_check_that_passes_is_no_regression_for_a_closed_pipe(
    held: tuple[Path, Path], words: tuple[str, ...]
) -> None:
    runs, baseline = held
    assert harness("check", runs, "--baseline", baseline, *words).code == 0
    assert unheard("check", runs, "--baseline", baseline, *words) == (CLOSED_PIPE, "")


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("tasks",), ("completion", "bash")])
def test_a_closed_pipe_is_quiet_whatever_writes(words: tuple[str, ...]) -> None:
    assert unheard(*words) == (CLOSED_PIPE, "")


def test_the_summary_of_a_job_is_written_though_nobody_reads(
    held: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code, _ = unheard("check", held[0], "--baseline", held[1])
    assert code == CLOSED_PIPE
    assert "lambada" in (tmp_path / "summary.md").read_text("utf-8")


def test_without_standard_output_the_exit_code_counts(held: tuple[Path, Path]) -> None:
    assert unheard("check", held[0], "--baseline", held[1], stdout="closed") == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line() -> None:
    code, err = unheard("tasks", stdout="full")
    assert (code, err) == (2, "harness: cannot write the output: No space left on device\n")


# --- what the machine refuses -----------------------------------------------------------------

LONG = "x" * 10_000


@pytest.mark.parametrize("option", ["--data-dir", "--data-file", "--out", "--dump"])
def test_a_path_that_is_too_long_is_one_line(
    option: str, tiny_folder: Path, tmp_path: Path
) -> None:
    words: dict[str, object] = {"--out": tmp_path / "out"}
    if not option.startswith("--data"):
        words["--sample"] = ""
    words[option] = LONG
    flat = [word for pair in words.items() for word in pair if word != ""]
    line = refused("ptb", "--model", tiny_folder, *flat)
    assert "too long" in line.lower()
    assert len(line) < 11_000


# --- values out of range ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("lambada", "--threads", "999999999999"), "is not in the range 1<=x<=4096"),
        (("doctor", "--threads", "999999999999"), "is not in the range 1<=x<=4096"),
        (("lambada", "--workers", "999999999999"), "is not in the range 1<=x<=4096"),
        (("lambada", "--budget", "9" * 400 + "h"), "expected at most 100 years"),
        (("cache", "prune", "--above", "9" * 90), f"expected at most {MAX_BYTES} bytes"),
        (("cache", "prune", "--above", "9" * 400), f"expected at most {MAX_BYTES} bytes"),
        (("cache", "prune", "--older", "9" * 90 + "w"), "expected at most 100 years"),
        (("cache", "prune", "--older", "30"), "s, m, h, d or w, such as 30d"),
        (("power", "x", "--drop", "1e-300"), "1e-300 is not in the range"),
        (("power", "x", "--alpha", "1e-320"), "1e-320 is not in the range"),
        (("baseline", "x", "--alpha", "1e-320"), "1e-320 is not in the range"),
        (("overlap", "ptb", "--backend", "bloom", "--rate", "1e-320"), "1e-320 is not in"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_a_number_that_overflows_is_one_line(words: tuple[str, ...], expected: str) -> None:
    assert expected in refused(*words)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1.5h", 5400),
        ("2H", 7200),
        ("30d", 2_592_000),
        ("8w", 4_838_400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration("10m").convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "0s", "1e3s", "nan", "infs", "١m", "1y"])
def test_what_is_not_a_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 10m"):
        Duration("10m").convert(text, None, None)


def test_the_longest_duration() -> None:
    assert Duration("10m").convert(f"{MAX_SECONDS}s", None, None) == MAX_SECONDS
    with pytest.raises(click.BadParameter, match="at most 100 years"):
        Duration("10m").convert(f"{MAX_SECONDS + 1}s", None, None)
    assert Duration("10m", zero=True).convert("0d", None, None) == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("7", 7), ("500M", 500e6), ("2G", 2e9), ("1.5kB", 1500), ("9t", 9e12)],
)
def test_sizes(text: str, size: float) -> None:
    assert Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "inf", "2GiB", "nan"])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 2G"):
        Size().convert(text, None, None)


def test_budget_and_cache_take_the_same_units(tmp_path: Path) -> None:
    """`10m` and `2d` mean the same wherever a time is given."""
    found: list[Any] = []

    @command()
    def probe(options: RunOptions = ONE_TASK) -> None:
        found.append(options.plan.budget)

    for text in ("10m", "2d"):
        probe.main(["--model", "x", "--budget", text], standalone_mode=False)
    assert found == [600, 172_800]
    words = ("cache", "--cache", tmp_path, "prune", "--older")
    assert [harness(*words, text).code for text in ("10m", "2d")] == [0, 0]


# --- models given twice -----------------------------------------------------------------------


def test_a_model_given_twice_is_evaluated_once(tiny_folder: Path, tmp_path: Path) -> None:
    run = ("lambada", "--model", tiny_folder, tiny_folder, "--sample", "--limit", 2)
    result = harness(*run, "--no-cache", "--out", tmp_path)
    assert result.code == 0
    assert "note: a model that is given more than once is evaluated once" in result.err
    assert len(record_files(tmp_path)) == 1
    assert result.out.count("lambada v") == 1
