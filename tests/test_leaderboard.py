"""Records -> CSV and Markdown: order of columns, one row a checkpoint and protocol, safety."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from console import harness, made_record, refused

from harness.analysis.leaderboard import rows, write
from harness.analysis.paper import published as paper
from harness.core import Score
from harness.records.folder import write as write_record
from harness.records.record import Record

MODEL = made_record().model


def ptb(value: float = 70.0, **changes: Any) -> Record:
    score = Score("ppl", value, "per word", False, None, None, None, {}, "PTB PPL")
    return made_record(**{"task": "ptb", "scores": (score,), "prompt": None, **changes})


def board(tmp_path: Path, *made: Record) -> list[dict[str, str]]:
    """The CSV's rows, by way of the command."""
    for number, record in enumerate(made):
        write_record(record, tmp_path / f"records{number}")
    out = tmp_path / "out" / "board.csv"
    options = [word for n in range(len(made)) for word in ("--records", tmp_path / f"records{n}")]
    result = harness("leaderboard", *options, "--out", out)
    assert result.code == 0, result.err
    assert f"board.csv ({len(rows(list(made)))} rows)" in result.out
    assert "board.md" in result.out
    return list(csv.DictReader(io.StringIO(out.read_bytes().decode(), newline="")))


def test_a_name_of_the_markdown_table_leaves_room_for_the_csv(tmp_path: Path) -> None:
    write_record(made_record(), tmp_path / "records")
    out = tmp_path / "board.md"
    result = harness("leaderboard", "--records", tmp_path / "records", "--out", out)
    assert result.out.split()[1::4] == [str(out.with_suffix(".csv")), str(out)]
    assert out.read_text("utf-8").startswith("| model")
    assert out.with_suffix(".csv").read_text("utf-8").startswith("model,")


def test_columns_are_the_papers_in_its_order(tmp_path: Path) -> None:
    [row] = board(tmp_path, made_record(), ptb())
    names = list(row)
    start = names.index(paper.COLUMNS[0])
    assert tuple(names[start : start + 10]) == paper.COLUMNS
    assert names[:2] == ["model", "digest"]
    assert names[-1] == "signatures"


def test_one_row_a_checkpoint_and_protocol(tmp_path: Path) -> None:
    [row] = board(tmp_path, made_record(), ptb())
    assert row["model"] == "gpt2"
    assert float(row["LAMBADA PPL"]) == 35.5
    assert float(row["LAMBADA ACC"]) == 45.0
    assert float(row["PTB PPL"]) == 70.0
    assert row["1BW PPL"] == ""
    assert str(made_record().signature) in row["signatures"]
    assert str(ptb().signature) in row["signatures"]


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "lm-eval"},
        {"limit": 10, "examples": 10},
        {"data": {**made_record().data, "source": "sample"}},
        {"model": {**MODEL, "digest": "77" * 32}},
        {"model": {**MODEL, "dtype": "bfloat16"}},
        {"model": {**MODEL, "context": 512}},
        {"version": 3},
        {"environment": {"versions": {"harness": "0.2.0"}}},
        {"data": {**made_record().data, "sha256": "55" * 32}},
    ],
    ids=str,
)
def test_other_signatures_of_a_task_never_share_a_row(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    table = board(tmp_path, made_record(), made_record(**change))
    assert len(table) == 2
    assert all(len(row["signatures"].split(" ")) == 1 for row in table)
    heads = [
        tuple(v for k, v in row.items() if k not in (*paper.COLUMNS, "signatures")) for row in table
    ]
    assert heads[0] != heads[1], "what sets them apart must show"


def test_two_limits_never_share_a_row_even_across_tasks(tmp_path: Path) -> None:
    table = board(tmp_path, made_record(limit=10, examples=10), ptb(limit=20, examples=20))
    assert len(table) == 2
    assert {row["rows"] for row in table} == {"10 rows, seed 0", "20 rows, seed 0"}


def test_the_same_run_twice_is_one_row(tmp_path: Path) -> None:
    later = ptb(71.0, created="2026-02-01T00:00:00+00:00")
    [row] = board(tmp_path, ptb(), later)
    assert float(row["PTB PPL"]) == 71.0, "the newer one counts"


def test_full_precision_in_csv_and_four_decimals_in_markdown(tmp_path: Path) -> None:
    [row] = board(tmp_path, ptb(1 / 3))
    assert float(row["PTB PPL"]) == 1 / 3
    markdown = (tmp_path / "out" / "board.md").read_text("utf-8")
    assert " 0.3333 " in markdown
    assert "0.33333" not in markdown
    assert "signatures" not in markdown


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x", "\tx", " =x", "\uff1dx", "a\n=b"])
def test_names_that_a_spreadsheet_would_run_are_made_text(tmp_path: Path, name: str) -> None:
    """In cells and, since a plugin names its scores, in headers."""
    score = Score(name, 1.0, "%", True, None, None, None, {}, name)
    [row] = board(tmp_path, made_record(model={**MODEL, "name": name}, scores=(score,)))
    for text in (row["model"], *row):
        assert not text.startswith(("=", "+", "-", "@", "\t", " ", "\uff1d"))
        assert "\n" not in text


def test_numbers_below_zero_stay_numbers(tmp_path: Path) -> None:
    [row] = board(tmp_path, ptb(-1.5))
    assert float(row["PTB PPL"]) == -1.5


def test_markdown_keeps_its_cells_and_has_no_html(tmp_path: Path) -> None:
    name = "a|b\nc <img src=x> [d](javascript:e)"
    score = Score(name, 1.0, "%", True, None, None, None, {}, name)
    made = made_record(model={**MODEL, "name": name}, scores=(score,))
    _, markdown = write(rows([made]), tmp_path / "x.csv")
    lines = markdown.read_text("utf-8").strip().split("\n")
    assert len(lines) == 3
    assert "a\\|b c" in lines[2]
    unescaped = [re.sub(r"\\.", "", line) for line in lines]
    assert len({line.count("|") for line in unescaped}) == 1
    assert not any("<" in line or "](" in line for line in unescaped)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {**MODEL, "device": "cuda:0"}},
        {"engine": {"numerics": "dtype:float32|compiled:True"}},
    ],
    ids=["device", "compiled"],
)
def test_what_ran_elsewhere_has_a_row_of_its_own(tmp_path: Path, change: dict[str, Any]) -> None:
    table = board(tmp_path, made_record(), made_record(**change))
    assert len({row["device"] for row in table}) == 2


def test_other_benchmarks_come_after_the_papers_columns() -> None:
    score = Score("f1", 50.0, "%", True, None, None, None, {})
    [row] = rows([made_record(task="mine", scores=(score,))])
    names = list(row)
    assert names.index("mine f1") > names.index(paper.COLUMNS[-1])
    assert row["mine f1"] == 50.0


@pytest.mark.parametrize("content", ['{"schema": 99}', '{"schema": 1, "ta'])
def test_odd_records_are_refused_by_name_and_nothing_is_written(
    tmp_path: Path, content: str
) -> None:
    write_record(made_record(), tmp_path)
    (tmp_path / "odd.json").write_text(content)
    line = refused("leaderboard", "--records", tmp_path, "--out", tmp_path / "board.csv")
    assert "odd.json" in line
    assert not (tmp_path / "board.csv").exists()


def test_no_records(tmp_path: Path) -> None:
    line = refused("leaderboard", "--records", tmp_path, "--out", tmp_path / "board.csv")
    assert f"no record in {str(tmp_path)!r}; expected a record or a folder with records" in line


def test_unwritable_output(tmp_path: Path) -> None:
    write_record(made_record(), tmp_path / "records")
    (tmp_path / "file").write_text("mine")
    line = refused(
        "leaderboard", "--records", tmp_path / "records", "--out", tmp_path / "file" / "x.csv"
    )
    assert "cannot write" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_load_orders_by_time(tmp_path: Path) -> None:
    late = ptb(created="2026-03-01T00:00:00+00:00")
    early = made_record(created="2026-01-01T00:00:00+00:00")
    for record in (late, early):
        write_record(record, tmp_path)
    out = tmp_path / "board.csv"
    assert harness("leaderboard", "--records", tmp_path, "--out", out).code == 0
    [row] = csv.DictReader(out.read_text("utf-8").splitlines())
    assert row["signatures"] == f"{early.signature} {late.signature}"
