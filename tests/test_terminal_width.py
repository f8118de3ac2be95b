"""Everything that a command prints fits the terminal, and no number is cut."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from console import harness, law_records, record_files
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from test_power import ACC, MORE, NATS, OTHER, PPL, RIGHT, made

from harness.display import console as consoles
from harness.display import terminal
from harness.display.layout import table
from harness.records.folder import write

WIDTHS = (60, 80, 120)


def lines_at(width: int, monkeypatch: pytest.MonkeyPatch, *words: object) -> list[str]:
    """What a command prints in a terminal of that width."""
    monkeypatch.setattr(terminal.OUT, "width", width)
    monkeypatch.setattr(terminal.OUT, "soft_wrap", False)
    result = harness(*words)
    assert result.code in (0, 1), result.err
    return result.out.rstrip("\n").split("\n")


@pytest.fixture(scope="module")
def base(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Options of a quick run; its answers are computed once for all widths."""
    folder = tmp_path_factory.mktemp("width")
    return ["--model", tiny_folder, "--device", "cpu", "--sample", "--limit", 2,
            "--cache", folder / "cache", "--out", folder / "records"]  # fmt: skip


COMMANDS = {
    "benchmark": ["lambada"],
    "text": ["wikitext2"],
    "table3": ["table3"],
    "section3": ["section3"],
    "run": ["run", "lambada,ptb,coqa"],
    "plan": ["table3", "--plan"],
    "grid": ["lambada", "--grid"],
    "vary": ["ptb", "--vary", "stride=32,64"],
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", COMMANDS)
def test_evaluating_commands_fit(
    base: list[Any], monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    lines = lines_at(width, monkeypatch, *COMMANDS[command], *base)
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["lambada", "wikitext2", "cbt-cn", "coqa", "nq"])
def test_show_and_explain_fit(
    base: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, width: int
) -> None:
    shown = lines_at(width, monkeypatch, "show", name, *base[:2], "--sample")
    assert max(map(cell_len, shown)) <= width
    harness(name, *base, "--out", tmp_path)
    [path] = record_files(tmp_path)
    item = re.findall(r"near ones are: ([^,\s]+)", harness("explain", path, "no such").err)[0]
    explained = lines_at(width, monkeypatch, "explain", path, item, *base[7:9], "--no-ranks")
    assert max(map(cell_len, explained)) <= width


@pytest.mark.usefixtures("short_measurements")
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("words", [["tasks"], ["tasks", "lambada"], ["tasks", "coqa"], ["doctor"]])
def test_lists_fit(monkeypatch: pytest.MonkeyPatch, words: list[str], width: int) -> None:
    assert max(map(cell_len, lines_at(width, monkeypatch, *words))) <= width


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs `one` and `two`, records of several sizes, and a baseline."""
    folder = tmp_path_factory.mktemp("runs")
    made(folder / "one", {PPL: NATS, ACC: RIGHT})
    made(folder / "two", {PPL: MORE, ACC: OTHER})
    for record in law_records(0.07):
        write(record, folder / "sizes")
    for name in ("one", "two"):
        assert harness("baseline", folder / name, "--out", folder / f"{name}.toml").code == 0
    words = "the ants carried the sand to the hill and then to the sea "
    (folder / "corpus.txt").write_text(words * 20)
    return folder


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "words",
    [
        ["compare", "one", "two", "--all", "--flips", "3"],
        ["compare", "one", "two", "one"],
        ["check", "two", "--baseline", "one.toml"],
        ["power", "one"],
        ["curve", "sizes", "--all"],
        ["leaderboard", "--records", "one", "--out", "board.csv"],
        ["overlap", "lambada,ptb,coqa,cbt-cn", "--sample", "--corpus", "corpus.txt"],
        ["init-task", "my-riddles"],
    ],
    ids=" ".join,
)
def test_commands_on_runs_fit(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], width: int
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    assert max(map(cell_len, lines_at(width, monkeypatch, *words))) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_the_cache_fits(base: list[Any], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    harness("lambada", *base)
    lines = lines_at(width, monkeypatch, "cache", *base[7:9])
    assert max(map(cell_len, lines)) <= width


# --- the width ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "width", "wraps"),
    [("60", 60, True), ("200", 200, True), ("3", 40, True), ("0", 120, False), ("x", 120, False)],
)
def test_columns_sets_the_width(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int, wraps: bool
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    screen = consoles.output_console()
    assert screen.width == width
    assert screen.soft_wrap is not wraps


def test_a_pipe_has_a_fixed_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert consoles.output_console().width == consoles.PIPE_WIDTH


# --- tables -------------------------------------------------------------------------------------


def printed(rows: Any, width: int) -> list[str]:
    screen = consoles.console(width=width, height=25, soft_wrap=False)
    with screen.capture() as capture:
        screen.print(rows)
    return [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]


def example() -> Any:
    rows = table("name", ">count", ">95 % interval", "why", optional=("why",))
    rows.add_row("a-name", "1,234,567", "33.46 to 35.68", "because of a long reason, said in words")
    return rows


def test_columns_give_way_in_order() -> None:
    assert printed(example(), 80) == [
        "name        count   95 % interval  why",
        "a-name  1,234,567  33.46 to 35.68  because of a long reason, said in words",
    ]
    wrapped = printed(example(), 60)
    assert wrapped[1] == "a-name  1,234,567  33.46 to 35.68  because of a long reason,"
    assert wrapped[2].strip() == "said in words"
    assert printed(example(), 36) == [
        "name        count   95 % interval",
        "a-name  1,234,567  33.46 to 35.68",
    ]
    assert printed(example(), 26) == [
        "                      95 %",
        "name       count  interval",
        "a-name 1,234,567  33.46 to",
        "                     35.68",
    ]
    assert printed(example(), 20)[:2] == ["name: a-name", "count: 1,234,567"]


WORDS = st.text("abc 语", max_size=20)
ROWS = st.lists(st.tuples(WORDS, st.integers(0, 10**9), st.floats(0, 1e6), WORDS), max_size=4)


@given(ROWS, st.integers(40, 130))
def test_no_digit_is_lost_at_any_width(
    values: list[tuple[str, int, float, str]], width: int
) -> None:
    rows = table("name", ">items", ">95 % interval", "verdict")
    for name, count, low, why in values:
        rows.add_row(name, f"{count:,}", f"{low:.2f} to {low + 1:.2f}", why)
    lines = printed(rows, width)
    assert max(map(cell_len, lines)) <= width
    text = " ".join(lines)
    for _, count, low, _ in values:
        assert f"{count:,}" in text
        assert f"{low:.2f}" in text
        assert f"{low + 1:.2f}" in text


def test_cells_of_text_are_never_markup() -> None:
    rows = table("name")
    rows.add_row("[bold]x[/b]")
    assert printed(rows, 80)[1] == "[bold]x[/b]"
