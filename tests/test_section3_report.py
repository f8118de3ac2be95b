"""Section 3 and the paper: published numbers, Table 4, calibration, verdicts."""

import io
import re
from typing import Any

import pytest
from console import made_record

from harness.analysis import leaderboard
from harness.analysis.paper import published as paper
from harness.analysis.paper import section3, table3
from harness.core import Score
from harness.display import tables
from harness.display.console import console
from harness.metrics.calibration import STATISTICS
from harness.records.record import Record

MODEL = made_record().model

# Radford et al. 2019, Table 4: ROUGE-1, -2, -L and their average, from the paper.
TABLE4 = {
    "Bottom-Up Sum": (41.22, 18.68, 38.34, 32.75),
    "Lede-3": (40.38, 17.66, 36.62, 31.55),
    "Seq2Seq + Attn": (31.33, 11.81, 28.83, 23.99),
    "GPT-2 TL;DR:": (29.34, 8.27, 26.58, 21.40),
    "Random-3": (28.78, 8.63, 25.52, 20.98),
    "GPT-2 no hint": (21.58, 4.03, 19.47, 15.03),
}
# Numbers that the text of section 3 gives for the largest model.
LARGEST = {
    "CoQA F1": 55, "CNN/DM 1": 29.34, "CNN/DM 2": 8.27, "CNN/DM L": 26.58, "CNN/DM AVG": 21.40,
    "WMT14 En-Fr BLEU": 5, "WMT14 Fr-En BLEU": 11.5, "NQ EM": 4.1, "NQ EM TOP 1%": 63.1,
    "Winograd ACC": 70.70,
}  # fmt: skip


def score(metric: str, value: float, unit: str = "points", **changes: Any) -> Score:
    fields = {"column": None, "baseline": None, "totals": {}, **changes}
    return Score(metric, value, unit, True, 0.5, value - 1, value + 1, **fields)


def summaries(*, hint: str = "newline", **changes: Any) -> Record:
    """A record of cnn-dm with the scores of three systems."""
    scores = []
    for lead, column, low in (("", True, 15.0), ("lede-3", False, 28.0), ("random-3", False, 22.0)):
        for place, name in enumerate(("1", "2", "l", "avg")):
            scores.append(
                score(
                    f"{lead} rouge-{name}".strip(),
                    low + place / 4,
                    column=f"CNN/DM {name.upper()}" if column else None,
                    baseline=lead or None,
                )
            )
    scores.insert(4, score("rouge-avg over seeds", 0.125))
    fields: dict[str, Any] = {
        "task": "cnn-dm",
        "options": {"hint": hint, "k": 2},
        "scores": tuple(scores),
        "data": {"source": "file", "name": "test.csv", "sha256": "c3" * 32, "rows": 11_490,
                 "published": True, "warnings": []},
        "examples": 11_490,
    }  # fmt: skip
    return made_record(**{**fields, **changes})


def questions(**changes: Any) -> Record:
    """A record of nq: 6 answers of about 0.25, 2 right; 2 of 1, both right."""
    totals = dict.fromkeys(STATISTICS, 0.0)
    totals |= {"n2": 6.0, "confidence2": 1.5, "right2": 2.0}
    totals |= {"n9": 2.0, "confidence9": 2.0, "right9": 2.0, "questions": 8.0}
    scores = (
        score("em", 50.0, "%", column="NQ EM"),
        score("em-top-1%", 100.0, "%", column="NQ EM TOP 1%"),
        score("calibration-error", 6.25, totals=totals),
        score("question-word em", 0.5, "%", baseline="question-word"),
    )
    return made_record(**{"task": "nq", "scores": scores, **changes})


# --- the paper's numbers --------------------------------------------------------------------


def test_published_numbers_of_the_largest_model() -> None:
    assert tuple(LARGEST) == paper.SECTION3
    assert {c: paper.published(c, "1542M") for c in paper.SECTION3} == LARGEST


def test_averages_of_table_4_are_means_of_its_three_columns() -> None:
    rows = section3.table4(summaries())
    published = {system.name: system.values for system in rows if system.published}
    assert published == TABLE4
    for one, two, long, average in TABLE4.values():
        assert (one + two + long) / 3 == pytest.approx(average, abs=0.005)
    hint, none = TABLE4["GPT-2 TL;DR:"][3], TABLE4["GPT-2 no hint"][3]
    assert hint - none == pytest.approx(6.4, abs=0.05), "as section 3.6 says"


def test_what_the_text_says_of_the_numbers() -> None:
    smallest = paper.published("NQ EM", "117M")
    assert smallest is not None
    assert 4.1 / smallest == pytest.approx(5.3, abs=0.3), "section 3.8: 5.3 times as many"
    assert smallest < (paper.published("NQ EM", "Question-word") or 0) == 1.0
    best = paper.published("Winograd ACC", paper.STATE_OF_THE_ART)
    assert best is not None
    assert 70.70 - best == pytest.approx(7, abs=0.05), "section 3.4: better by 7 points"
    assert round(100 * 193 / 273, 2) == 70.70, "193 right of 273"


def test_files_name_tasks_units_and_sources() -> None:
    numbers = [number for number in paper.numbers() if number.column in paper.SECTION3]
    assert {number.unit for number in numbers} == {"%", "points"}
    assert paper.tasks(paper.SECTION3) == (
        "coqa", "cnn-dm", "wmt14-en-fr", "wmt14-fr-en", "nq", "winograd",
    )  # fmt: skip
    for number in numbers:
        assert (number.parameters is not None) == (number.model in paper.SIZES)
    keys = [(number.column, number.model) for number in paper.numbers()]
    assert len(keys) == len(set(keys)), "no number is there twice"


@pytest.mark.parametrize(
    ("column", "size", "beside"),
    [
        ("CoQA F1", "117M", ("117M", 26.5)),
        ("CoQA F1", "762M", ("762M", 50.0)),
        ("CoQA F1", "1542M", ("1542M", 55)),
        ("CNN/DM AVG", "345M", ("345M", 18.4)),
        ("CNN/DM 1", "345M", ("1542M", 29.34)),
        ("WMT14 Fr-En BLEU", "117M", ("117M", 0.6)),
        ("WMT14 En-Fr BLEU", "117M", ("1542M", 5)),
        ("NQ EM TOP 1%", "762M", ("1542M", 63.1)),
        ("Winograd ACC", "117M", ("117M", 58)),
        ("Winograd ACC", "345M", ("1542M", 70.70)),
        ("LAMBADA PPL", "345M", ("345M", 15.60)),
    ],
)
def test_a_size_without_a_number_stands_beside_the_largest(
    column: str, size: str, beside: tuple[str, float]
) -> None:
    assert paper.nearest(column, size) == beside


@pytest.mark.parametrize("column", ["CoQA F1", "CNN/DM AVG", "WMT14 Fr-En BLEU", "NQ EM"])
def test_figure_1_grows_with_the_model(column: str) -> None:
    values = [paper.published(column, size) for size in paper.SIZES]
    assert None not in values
    assert values == sorted(values, key=lambda value: value or 0)


# --- verdicts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "published", "unit", "expected"),
    [
        # a fifth of 4.1 is 0.82
        (4.92, 4.1, "%", "matches"),
        (4.93, 4.1, "%", "differs"),
        (3.28, 4.1, "%", "matches"),
        (3.27, 4.1, "%", "differs"),
        (5.5, 4.1, "%", "differs"),
        (0.72, 0.6, "points", "matches"),
        (0.73, 0.6, "points", "differs"),
        (0.0, 0.6, "points", "differs"),
        # from 7.5 on 1.5 points are less than a fifth
        (9.0, 7.5, "points", "matches"),
        (9.01, 7.5, "points", "differs"),
        (13.0, 11.5, "points", "matches"),
        (13.01, 11.5, "points", "differs"),
        (56.5, 55.0, "%", "matches"),
        # perplexities have no such band
        (8.88, 8.63, "per word", "matches"),
        (8.89, 8.63, "per word", "differs"),
    ],
)
def test_small_points_have_a_small_band(
    value: float, published: float, unit: str, expected: str
) -> None:
    assert paper.verdict(value, published, unit) == expected


def test_cells_of_section_3() -> None:
    cells = table3.cells([summaries(), questions()], "117M", {"coqa": "no data"}, paper.SECTION3)
    assert tuple(cell.column for cell in cells) == paper.SECTION3
    by_column = {cell.column: cell for cell in cells}
    average = by_column["CNN/DM AVG"]
    assert (average.size, average.paper, average.state_of_the_art) == ("117M", 16.2, 32.75)
    assert average.score is not None
    assert average.score.value == 15.75, "the model's own, no baseline's"
    assert average.paper is not None
    assert paper.difference(15.75, average.paper, average.score.unit) == pytest.approx(-0.45)
    assert average.verdict == "matches"
    first = by_column["CNN/DM 1"]
    assert (first.size, first.verdict) == ("1542M", "differs")
    exact = by_column["NQ EM"]
    assert exact.score is not None
    assert (exact.score.value, exact.paper, exact.score.unit) == (50, 0.8, "%")
    assert (by_column["CoQA F1"].score, by_column["CoQA F1"].reason) == (None, "no data")
    assert by_column["Winograd ACC"].reason == ""


def test_json_names_the_model_that_a_score_is_put_beside() -> None:
    scores: Any = table3.with_paper(summaries())["scores"]
    found = {s["metric"]: (s["paper_model"], s["paper"]) for s in scores}
    assert found["rouge-avg"] == ("117M", 16.2)
    assert found["rouge-1"] == ("1542M", 29.34)
    assert found["lede-3 rouge-1"] == found["rouge-avg over seeds"] == (None, None)


# --- Table 4 --------------------------------------------------------------------------------


def test_table_4_has_the_papers_rows_then_ours() -> None:
    rows = section3.table4(summaries())
    assert [system.published for system in rows] == [True] * 6 + [False] * 3
    assert {system.name: system.values for system in rows[6:]} == {
        "gpt2 (newline hint)": (15.0, 15.25, 15.5, 15.75),
        "lede-3": (28.0, 28.25, 28.5, 28.75),
        "random-3": (22.0, 22.25, 22.5, 22.75),
    }
    assert section3.table4(summaries(hint="none"))[6].name == "gpt2 (none hint)"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"examples": 100, "limit": 100}, "100 articles of test.csv, the paper's are of all 11,49"),
        (
            {"examples": 500, "data": {"rows": 500, "published": False}},
            "500 articles of test.csv, the paper's are of all 11,490; CNN's stories, which come "
            "first there, have lower scores than the Daily Mail's",
        ),
        (
            {"examples": 8, "data": {"rows": 8, "source": "sample"}},
            "the built-in sample is not newsp",
        ),
    ],
)
def test_distance_says_why_the_baselines_differ(changes: dict[str, Any], words: str) -> None:
    data = {**summaries().data, **changes.pop("data", {})}
    found = section3.distance(summaries(data=data, **changes))
    assert found.startswith(words)
    assert bool(found) == bool(words)


# --- calibration ----------------------------------------------------------------------------


def test_bins_by_hand() -> None:
    low, high = section3.reliability(questions())
    assert (low.low, low.high, low.answers) == (0.2, 0.3, 6)
    assert (low.confidence, low.accuracy) == pytest.approx((0.25, 1 / 3))
    assert tuple(high) == (0.9, 1.0, 2, 1.0, 1.0)


def test_other_records_have_no_bins() -> None:
    assert section3.reliability(summaries()) == []


# --- as printed -----------------------------------------------------------------------------


def printed(monkeypatch: pytest.MonkeyPatch, *records: Record, width: int = 120) -> list[str]:
    """The lines of the table for the smallest model, as a terminal of that width shows them."""
    screen = console(file=io.StringIO(), force_terminal=True, width=width, soft_wrap=False)
    monkeypatch.setattr(tables, "OUT", screen)
    cells = table3.cells(records, "117M", {"coqa": "no data for CoQA [yet]"}, paper.SECTION3)
    tables.show_paper_table("Section 3", cells, records, "117M")
    assert isinstance(screen.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.file.getvalue()).split("\n")


def columns(line: str) -> list[str]:
    return re.split(" {2,}", line.strip())


def test_all_parts_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(monkeypatch, summaries(examples=100, limit=100), questions())
    assert lines[0].startswith("Section 3 of Radford et al. 2019 for gpt2 (124,439,808 parameters")
    assert lines[0].endswith("; paper: 117M")
    rows = {columns(line)[0]: columns(line)[1:] for line in lines if line}
    assert rows["CNN/DM AVG"][:4] == ["32.75", "16.20", "15.75", "14.75 to 16.75"]
    assert rows["CNN/DM AVG"][4:] == ["-0.45 pt", "matches", "100", "30"]
    assert rows["CNN/DM 2"][:3] == ["18.68", "8.27 (1542M)", "15.25"]
    assert rows["CoQA F1"] == ["89.00", "26.50", "-", "not run"]
    assert rows["Bottom-Up Sum"] == ["paper", "41.22", "18.68", "38.34", "32.75"]
    assert rows["GPT-2 no hint"] == ["paper", "21.58", "4.03", "19.47", "15.03"]
    assert rows["gpt2 (newline hint)"] == ["here", "15.00", "15.25", "15.50", "15.75"]
    assert rows["lede-3"] == ["here", "28.00", "28.25", "28.50", "28.75"]
    assert rows["0.2 to 0.3"] == ["6", "25.0%", "33.3%"]
    assert rows["0.9 to 1.0"] == ["2", "100.0%", "100.0%"]
    assert "expected calibration error: 6.25 points" in lines
    assert "not run: no data for CoQA [yet]" in lines
    text = " ".join(lines)
    assert "lede-3 and random-3 need no model; the paper's differ because: 100 articles of" in text


def test_the_full_test_set_needs_no_excuse(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the paper's differ because" not in " ".join(printed(monkeypatch, summaries()))


def test_parts_of_benchmarks_that_were_not_run_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "\n".join(printed(monkeypatch, questions()))
    assert "Table 4" not in text
    assert "calibration" in text
    assert printed(monkeypatch) == [""], "without records there is nothing to show"


@pytest.mark.parametrize("width", [80, 120])
def test_section_3_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    lines = printed(monkeypatch, summaries(), questions(), width=width)
    table = [line for line in lines[1:] if "|" not in line and not line.startswith("Table")]
    assert max(map(len, table)) <= width
    assert sum(line.startswith("CNN/DM") for line in table) == 4
    assert any(columns(line)[0] == "Lede-3" for line in table)


@pytest.mark.parametrize("name", ["a[/b]c", "m[bold]n", "tiny[v2]", "x [link=y]z"])
def test_names_are_printed_as_they_are(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    record = summaries(model={**MODEL, "name": name})
    lines = printed(monkeypatch, record, questions(model={**MODEL, "name": name}))
    assert lines[0].startswith(f"Section 3 of Radford et al. 2019 for {name} (")
    assert any(line.startswith(f"{name} (newline hint) ") for line in lines)


# --- leaderboard ----------------------------------------------------------------------------


def test_leaderboard_has_the_models_scores_and_no_baselines() -> None:
    [row] = leaderboard.rows([summaries(limit=5), questions(limit=5), made_record(limit=5)])
    names = list(row)
    assert not any("lede" in name or "random" in name or "question-word" in name for name in names)
    ours = ["CNN/DM 1", "CNN/DM 2", "CNN/DM L", "CNN/DM AVG", "NQ EM", "NQ EM TOP 1%"]
    start = names.index(paper.COLUMNS[-1]) + 1
    assert names[start : start + 6] == ours, "after Table 3, in the paper's order"
    assert [row[name] for name in ours] == [15.0, 15.25, 15.5, 15.75, 50.0, 100.0]
    assert row["cnn-dm rouge-avg over seeds"] == 0.125
    assert row["nq calibration-error"] == 6.25
    assert row["LAMBADA PPL"] == 35.5
    assert "CoQA F1" not in names, "columns that nobody has are left out"


def test_other_example_pairs_are_another_row() -> None:
    pool = {"name": "NQ-open.train.jsonl", "sha256": "e5" * 32}
    rows = leaderboard.rows([questions(pool=pool), questions(pool={**pool, "sha256": "f6" * 32})])
    assert [row["variant"] for row in rows] == ["", "2"]
    assert all("|pool:NQ-open.train.jsonl@" in row["signatures"] for row in rows)
