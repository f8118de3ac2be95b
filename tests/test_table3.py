"""Table 3: verdicts, sizes, cells, remarks, and the command with part of the data."""

from pathlib import Path
from typing import Any

import pytest
from console import harness, made_record, record_files, refused

from harness.analysis.paper import published as paper
from harness.analysis.paper import table3
from harness.core import Score
from harness.errors import UsageError
from harness.records.folder import read
from harness.report.number_format import distance, number

pytestmark = pytest.mark.usefixtures("self_tests_once")


def shown_distance(cell: table3.Cell) -> str:
    return distance(cell.score.value, cell.paper, cell.score.unit) if cell.score else ""


def difference(cell: table3.Cell) -> float:
    assert cell.score is not None
    assert cell.paper is not None
    return paper.difference(cell.score.value, cell.paper, cell.score.unit)


# Radford et al. 2019, Table 3, first row of our own copy of the paper.
SMALLEST = (35.13, 45.99, 87.65, 83.4, 29.41, 65.85, 1.16, 1.17, 37.50, 75.20)


def test_published_numbers_of_the_smallest_model() -> None:
    assert tuple(paper.published(column, "117M") for column in paper.COLUMNS) == SMALLEST
    assert paper.published("LAMBADA PPL", "1542M") == 8.63
    assert paper.published("1BW PPL", paper.STATE_OF_THE_ART) == 21.8
    assert paper.published("LAMBADA PPL", "3B") is None
    assert sum(number.column in paper.COLUMNS for number in paper.numbers()) == 10 * 5


@pytest.mark.parametrize(
    ("value", "published", "unit", "expected"),
    [
        (103.0, 100.0, "per word", "matches"),
        (103.01, 100.0, "per word", "differs"),
        (97.0, 100.0, "per word", "matches"),
        (96.99, 100.0, "per word", "differs"),
        (1.03, 1.0, "bits per byte", "matches"),
        (1.0301, 1.0, "bits per byte", "differs"),
        (46.5, 45.0, "%", "matches"),
        (84.9, 83.4, "%", "matches"),
        (46.51, 45.0, "%", "differs"),
        (43.5, 45.0, "%", "matches"),
        (43.49, 45.0, "%", "differs"),
    ],
)
def test_verdict_at_the_edges(value: float, published: float, unit: str, expected: str) -> None:
    assert paper.verdict(value, published, unit) == expected


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        (1, "117M"),
        (124439808, "117M"),
        (135_000_000, "117M"),
        (210_126_000, "117M"),  # the geometric mean of the two smallest is 210.1 million
        (210_132_000, "345M"),
        (774_030_080, "762M"),
        (1_557_611_200, "1542M"),
        (10**12, "1542M"),
    ],
)
def test_nearest_size_by_ratio(parameters: int, size: str) -> None:
    assert paper.nearest_size(parameters) == size


def test_sizes_are_checked() -> None:
    assert paper.check_size("345M") == "345M"
    with pytest.raises(UsageError, match=r"'1.5B'; choose from: 117M, 345M, 762M, 1542M"):
        paper.check_size("1.5B")


def test_benchmarks_of_table_3_come_first() -> None:
    assert paper.in_order(["mine", "ptb", "lambada"]) == ["lambada", "ptb", "mine"]


def test_cells_stand_in_the_papers_order_with_difference_and_verdict() -> None:
    cells = table3.cells([made_record()], "117M", {"ptb": "no data for PTB"})
    assert tuple(cell.column for cell in cells) == paper.COLUMNS
    ppl, acc, *others = cells
    assert difference(ppl) == pytest.approx(35.5 / 35.13 - 1)
    assert ppl.verdict == "matches"
    assert difference(acc) == pytest.approx(45.0 - 45.99)
    assert acc.verdict == "matches"
    assert ppl.tokens_per_second == 30.0
    assert all(cell.score is None and cell.verdict == "" for cell in others)
    assert [cell.reason for cell in cells if cell.column == "PTB PPL"] == ["no data for PTB"]
    assert [shown_distance(ppl), shown_distance(acc), shown_distance(others[0])] == [
        "+1.1%",
        "-0.99 pt",
        "",
    ]


def test_numbers_on_the_built_in_sample_get_no_verdict() -> None:
    record = made_record(data={**made_record().data, "source": "sample"})
    assert table3.cells([record], "117M", {})[0].verdict == "sample"


def test_a_large_gap_is_a_factor() -> None:
    score = Score("ppl", 3513.0, "per word", False, None, None, None, {}, "LAMBADA PPL")
    [cell, *_] = table3.cells([made_record(scores=(score,))], "117M", {})
    assert shown_distance(cell) == "x 100"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "", "-"),
        (35.128, "per word", "35.13"),
        (1.16, "bits per byte", "1.1600"),
        (123456.0, "per word", "1.23e+05"),
        (0.0, "%", "0.00"),
    ],
)
def test_number(value: float | None, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_remarks_of_one_kind_are_one_line_that_names_some_benchmarks_or_holds_for_all() -> None:
    sample = {**made_record().data, "source": "sample"}
    one = made_record(data=sample, preflight={"truncated": 1})
    two = made_record(task="ptb", data=sample, preflight={"truncated": 3, "crossing": 0})
    assert table3.remarks([one, two]) == [
        "built-in sample rows",
        "requests cut to fit the context: lambada 1 of 40, ptb 3 of 40",
    ]
    assert table3.remarks([one, two, made_record(task="lm1b")]) == [
        "built-in sample rows: lambada, ptb",
        "requests cut to fit the context: lambada 1 of 40, ptb 3 of 40",
    ]
    assert table3.remarks([two]) == [
        "built-in sample rows", "requests cut to fit the context: 3 of 40",
    ]  # fmt: skip
    assert table3.remarks([made_record()]) == []


def test_remarks_name_subsets_and_unpublished_files() -> None:
    data = {**made_record().data, "warnings": ["x.jsonl has 20 rows, the published data 5153"]}
    record = made_record(limit=5, examples=5, seed=7, data=data)
    assert table3.remarks([record]) == [
        "x.jsonl has 20 rows, the published data 5153",
        "at most 5 rows, chosen at random with seed 7",
    ]


def test_folded_signatures_are_whole_again_when_joined() -> None:
    signatures = [made_record().signature, made_record(task="ptb", prompt=None).signature]
    heads, shared = table3.fold(signatures)
    assert [head + shared for head in heads] == [str(signature) for signature in signatures]
    assert shared.startswith("|tok:")
    assert table3.fold(signatures[:1]) == (["lambada"], heads[0][7:] + shared)
    other = made_record(environment={"versions": {"torch": "2"}}).signature
    assert table3.fold([signatures[0], other]) == ([str(signatures[0]), str(other)], "")


# --- the command --------------------------------------------------------------------------


@pytest.fixture
def base(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    out = tmp_path / "records"
    return ["--model", tiny_folder, "--device", "cpu", "--limit", 1, "--out", out]


def table(out: str) -> dict[str, str]:
    """Column -> its line."""
    lines = out.split("\n")
    return {c: line for c in paper.COLUMNS for line in lines if line.startswith(f"{c} ")}


def test_all_columns_on_the_samples(base: list[Any], tmp_path: Path) -> None:
    result = harness("table3", *base, "--sample")
    assert result.code == 0
    rows = table(result.out)
    assert tuple(rows) == paper.COLUMNS
    for column, published in zip(paper.COLUMNS, SMALLEST, strict=True):
        assert f" {published:.2f} " in rows[column]
        assert " sample " in rows[column]
    assert "; paper: 117M" in result.out
    assert result.out.count("built-in sample rows") == 1
    paths = record_files(tmp_path / "records")
    assert len(paths) == 9
    assert f"wrote 9 records to {tmp_path / 'records'}" in result.err
    assert "|p:paper|" not in result.out


def test_missing_data_is_named_and_the_rest_is_run(base: list[Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ptb.test.txt").write_text(" the sand and the sea \n" * 4)
    result = harness("table3", *base, "--data-dir", tmp_path / "data")
    assert result.code == 0
    rows = table(result.out)
    assert [c for c, line in rows.items() if "not run" not in line] == ["PTB PPL"]
    assert " differs " in rows["PTB PPL"]
    reasons = [x for x in result.out.split("\n") if x.startswith("not run: no data for ")]
    assert len(reasons) == 8
    assert any("looked for lambada_test.jsonl" in reason for reason in reasons)
    assert len(record_files(tmp_path / "records")) == 1


def test_missing_data_is_refused_by_strict(base: list[Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ptb.test.txt").write_text(" the sand and the sea \n" * 4)
    line = refused("table3", *base, "--data-dir", tmp_path / "data", "--strict")
    assert "no data for LAMBADA" in line
    assert record_files(tmp_path / "records") == []


def test_nothing_at_all(base: list[Any]) -> None:
    line = refused("table3", *base)
    assert "none of the 9 tasks can be run; no data for LAMBADA" in line
    assert "--sample" in line


def test_a_chosen_size_and_a_preset_that_few_have(base: list[Any]) -> None:
    words = ["--sample", "--size", "345M", "--protocol", "strided", "--set", "stride=128"]
    result = harness("table3", *base, *words)
    assert result.code == 0
    assert "; paper: 345M" in result.out
    assert " 15.60 " in table(result.out)["LAMBADA PPL"]
    assert "note: lambada has no protocol 'strided', using paper" in result.err
    protocols = {r.task: r.protocol for r in map(read, record_files(base[-1]))}
    assert protocols["lambada"] == "paper"
    assert protocols["ptb"] == "strided+stride=128"


def test_a_model_that_fails_does_not_take_the_first_ones_table_away(
    base: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ptb.test.txt").write_text(" the sand and the sea \n" * 4)
    result = harness("table3", *base, "--data-dir", tmp_path / "data", "--model", tmp_path / "gone")
    assert result.code == 2
    assert tuple(table(result.out)) == paper.COLUMNS
    assert "gone" in result.err.strip().split("\n")[-1]
    assert len(record_files(tmp_path / "records")) == 1
