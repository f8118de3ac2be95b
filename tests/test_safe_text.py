"""Text of unknown origin in a terminal, a CSV, Markdown and a CI log."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from harness.display.console import console
from harness.files.escape import (
    csv_cell,
    json_line,
    markdown_cell,
    one_line,
    printable,
    without_workflow_commands,
)

ANYTHING = st.text(
    st.one_of(st.characters(), st.sampled_from("=+-@|<>[]()!\\`*:#\x1b\x9b\u202e\u2028\r\n\t "))
)


@given(ANYTHING)
def test_nothing_that_is_printed_steers_a_terminal(text: str) -> None:
    shown = printable(text)
    assert len(shown) == len(text)
    assert not any(c < " " and c not in "\t\n" for c in shown)
    assert not any("\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" for c in shown)
    shown.encode()


@given(ANYTHING)
def test_json_on_a_terminal_steers_nothing_and_loses_nothing(text: str) -> None:
    line = json_line({text: [text]})
    assert json.loads(line) == {text: [text]}
    assert printable(line) == line
    assert "\n" not in line


@pytest.mark.parametrize(
    "text", ["plain", "Größe", "日本語", "नमस्ते", "a\tb\nc", "\u200d👩\u200d🔬"]
)
def test_ordinary_text_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(ANYTHING)
def test_a_csv_cell_is_text_on_one_line(text: str) -> None:
    cell = csv_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", " "))
    assert cell.splitlines() in ([], [cell])
    [row] = csv.reader(io.StringIO(",".join(['"' + cell.replace('"', '""') + '"', "next"])))
    assert row == [cell, "next"]


@pytest.mark.parametrize(
    ("given_text", "cell"),
    [
        ("=1+1", "'=1+1"),
        (" =1+1", "'=1+1"),
        ("\n@x", "'@x"),
        ("\uff1d1", "'\uff1d1"),
        ("a=b", "a=b"),
        ("x\r\ny", "x y"),
    ],
)
def test_formulas_are_made_text(given_text: str, cell: str) -> None:
    assert csv_cell(given_text) == cell


@given(ANYTHING)
def test_a_markdown_cell_has_no_html_link_or_second_cell(text: str) -> None:
    cell = markdown_cell(text)
    assert "<" not in cell
    assert ">" not in cell
    for special in "|[]`*":
        assert cell.count(special) == cell.count("\\" + special)
    assert cell.splitlines() in ([], [cell])


def test_a_backslash_before_a_bar_does_not_free_it() -> None:
    assert markdown_cell("a\\|b") == "a\\\\\\|b"


@given(ANYTHING)
def test_no_line_is_a_workflow_command(text: str) -> None:
    for line in without_workflow_commands(text).split("\n"):
        assert not line.strip().startswith(("::", "##["))


def test_one_line_is_what_it_says() -> None:
    assert one_line(" a\u2028b\x85c\x1bd ") == "a b c\ufffdd"


@pytest.mark.parametrize("place", ["line", "cell"])
def test_a_console_prints_hostile_text_safely(
    place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    text = "name\x1b]0;title\x07\n::error::owned"
    if place == "line":
        console(width=80).print(text, markup=False)
    else:
        rows = Table("[name]")
        rows.add_row(text)
        console(width=80).print(rows)
    written = capsys.readouterr().out
    assert "owned" in written
    assert "\x1b" not in written
    assert "\x07" not in written
    assert not any(line.strip(" │").startswith("::") for line in written.split("\n"))
