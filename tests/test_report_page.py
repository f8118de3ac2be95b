"""`harness report`: what the page says against the records, and that text stays text."""

import base64
import hashlib
import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from console import harness, made_record, refused
from hypothesis import given
from hypothesis import strategies as st
from pages import HOSTILE, confident, model, passages, questions, read_page, report

from harness.analysis.paper import published as paper
from harness.analysis.runs import Run, load
from harness.records.folder import outcomes_path, read, write
from harness.records.outcomes import NO_OUTCOMES, Shown
from harness.report.page.columns import columns
from harness.report.page.curves import panels
from harness.report.page.examples import (
    MAX_TEXT_CHARS,
    ExampleGroup,
    PageExample,
    RunExample,
    sample,
)

A, B = [1, 1, 0, 0, 1], [1, 0, 1, 0, 1]  # example 1 is lost, example 2 is won


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name, right in (("first", A), ("second", B)):
        questions(folder / name, name, right)
        passages(folder / name, name, [1.0, 2.0, 3.0 if name == "first" else 2.0], 124_439_808)
    confident(folder / "first", "first")
    return report(folder / "report.html", folder / "first", folder / "second")


def row(page: Path, table: int, name: str) -> list[str]:
    [found] = [cells for cells in read_page(page).tables[table] if cells[0] == name]
    return found


# --- tables -------------------------------------------------------------------------------


def test_table_3_has_both_runs_beside_the_paper(page: Path) -> None:
    published = paper.published("LAMBADA PPL", "117M")
    assert published is not None
    one, two = math.exp(6 / 3), math.exp(5 / 3)
    cells = row(page, 0, "LAMBADA PPL")
    assert cells[1:3] == ["99.80", f"{published:.2f}"]
    assert cells[3] == f"{one:.2f} {0.9 * one:.2f} to {1.1 * one:.2f}"
    assert cells[4] == f"{100 * (one / published - 1):+.1f}% differs"
    assert cells[5] == f"{two:.2f} {0.9 * two:.2f} to {1.1 * two:.2f}"
    assert row(page, 0, "PTB PPL")[3:] == ["not run", "not run"]
    assert [cells[0] for cells in read_page(page).tables[0][2:]] == list(paper.COLUMNS)


def test_section_3_names_the_size_it_stands_beside(page: Path) -> None:
    head, cells = read_page(page).tables[1][1], row(page, 1, "NQ EM")
    largest = paper.published("NQ EM", "1542M")
    assert cells[head.index("1542M") + 1] == f"{largest:.2f}"
    assert "28.57 20.00 to 37.00" in cells


def test_the_leaderboard_leaves_out_what_is_the_same_in_all_rows(page: Path) -> None:
    head, *rows = read_page(page).tables[2]
    assert [cells[0] for cells in rows] == ["first", "second"]
    assert "protocol" not in head
    assert "protocol paper" in read_page(page).text
    assert rows[1][head.index("NQ EM")] == ""
    assert rows[0][head.index("CBT-CN ACC")] == "60.00"


def test_changes_count_what_flipped(page: Path) -> None:
    [table] = [t for t in read_page(page).tables if "lost / won" in t[0]]
    [cells] = [cells for cells in table if cells[0] == "cbt-cn"]
    assert cells[1:5] == ["acc", "60.00", "60.00", "0.00"]
    assert cells[-1] == "1 / 1"


# --- examples -----------------------------------------------------------------------------


def test_items_stand_with_all_runs(page: Path) -> None:
    groups = {group["task"]: group for group in read_page(page).data["groups"]}
    items = groups["cbt-cn"]["examples"]
    assert [item["id"] for item in items] == list("01234")
    for item, one, two in zip(items, A, B, strict=True):
        assert item["flipped"] == (one != two)
        assert [run["state"] for run in item["runs"]] == [
            "right" if right else "wrong" for right in (one, two)
        ]
        assert item["prompt"] == f"question {item['id']}"
    runs = groups["lambada"]["examples"][2]["runs"]
    assert [each["state"] for each in runs] == ["", ""]
    assert [each["values"] for each in runs] == [
        [["ppl", f"{math.exp(3):.2f} per word"]],
        [["ppl", f"{math.exp(2):.2f} per word"]],
    ]


def made_group(flips: list[bool]) -> ExampleGroup:
    examples = tuple(
        PageExample(str(i), "", "", (RunExample(0, "", "right", (), None),
                    RunExample(1, "", "wrong" if flip else "right", (), None)))
        for i, flip in enumerate(flips)
    )  # fmt: skip
    return ExampleGroup("t", "p", examples)


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 40))
def test_a_sample_is_in_order_and_keeps_flips(flips: list[bool], most: int) -> None:
    group = made_group(flips)
    shown = sample(group, most)
    items = shown.examples
    places = [int(item.id) for item in items]
    assert places == sorted(set(places))
    assert len(items) == min(most, len(flips))
    if len(flips) > most:
        assert shown.picked == min(sum(flips), most // 2)
        assert sum(item.flipped for item in items) >= shown.picked


def test_many_items_are_sampled_and_all_are_beside_the_page(tmp_path: Path) -> None:
    right = [i % 3 == 0 for i in range(50)]
    questions(tmp_path / "a", "a", right)
    questions(tmp_path / "b", "b", [not r for r in right])
    page = report(tmp_path / "few page.html", tmp_path / "a", tmp_path / "b", "--items", 8)
    found = read_page(page)
    [group] = found.data["groups"]
    assert len(group["examples"]) == 8
    assert "8 examples on this page, of 50 in all (4 picked because they flipped" in group["words"]
    assert ("a", "href", "few%20page-items.jsonl") in found.attributes
    lines = (tmp_path / "few page-items.jsonl").read_text("utf-8").splitlines()
    dumped = [json.loads(line) for line in lines]
    assert [line["id"] for line in dumped] == [str(i) for i in range(50)]
    assert [run["run"] for run in dumped[0]["runs"]] == ["a", "b"]
    assert [line["runs"][0]["state"] == "right" for line in dumped] == right


def test_no_file_is_written_beside_a_page_with_all_items(page: Path) -> None:
    assert not list(page.parent.glob("*.jsonl"))


# --- curves and calibration ---------------------------------------------------------------


def test_a_known_law_is_found_and_drawn(tmp_path: Path) -> None:
    sizes = [10_000_000 * 4**k for k in range(4)]
    for n in sizes:  # nats = 30 * n ** -0.1, exactly
        passages(tmp_path, f"m{n}", [30 * n**-0.1] * 3, n)
    made = columns(load([tmp_path], "optional"))
    [panel] = panels(made)
    page = report(tmp_path / "r.html", tmp_path)
    assert "Exponent 0.100 (0.100 to 0.100); the paper’s models" in read_page(page).text
    assert all(y == pytest.approx(math.exp(30 * x**-0.1), rel=1e-6) for x, y in panel.chart["fit"])
    assert [point["x"] for point in panel.chart["runs"]] == sizes
    assert [made[p["column"]].label for p in panel.chart["runs"]] == [f"m{n}" for n in sizes]
    assert [point["name"] for point in panel.chart["paper"]] == list(paper.SIZES)
    middle = math.sqrt(panel.chart["kaplan"][0][0] * panel.chart["kaplan"][-1][0])
    assert curve_at(panel.chart["kaplan"], middle) == pytest.approx(
        math.exp(30 * middle**-0.1), rel=1e-3
    )


def curve_at(line: list[list[float]], x: float) -> float:
    """Between the points of a drawn line, straight in both logarithms."""
    for (x0, y0), (x1, y1) in pairwise(line):
        if x0 <= x <= x1:
            share = math.log(x / x0) / math.log(x1 / x0)
            return math.exp((1 - share) * math.log(y0) + share * math.log(y1))
    raise AssertionError(x)


def test_fewer_sizes_have_no_line(page: Path) -> None:
    chart = read_page(page).data["curves"][0]
    assert chart["fit"] is None
    assert len(chart["runs"]) == 2


def test_calibration_has_the_bins_of_the_record(page: Path) -> None:
    [plot] = read_page(page).data["calibration"]
    assert [(b["answers"], b["confidence"], b["accuracy"]) for b in plot["bins"]] == [
        (10, 0.25, 0.1),
        (4, pytest.approx(0.95), 0.75),
    ]


# --- safety -------------------------------------------------------------------------------


def checksum(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_the_policy_allows_what_is_in_the_page_and_nothing_else(page: Path) -> None:
    found = read_page(page)
    rules = dict(rule.strip().split(" ", 1) for rule in found.policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == [checksum(script) for script in found.scripts]
    assert rules["style-src"].split() == [checksum(style) for style in found.styles]
    assert len(found.scripts) == 4
    assert not re.search(r"unsafe|http|\*", found.policy)


def test_nothing_points_outside(page: Path) -> None:
    found = read_page(page)
    assert found.attributes
    for tag, name, value in found.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "srcset", "style", "background"), (tag, name)
        if name == "href":
            assert value.startswith("#"), value


def hostile_run(folder: Path) -> Path:
    shown = [Shown(text, text, text) for text in HOSTILE]
    return questions(folder, HOSTILE[0] + HOSTILE[2], [1] * len(HOSTILE), shown)


def test_hostile_text_is_text(tmp_path: Path) -> None:
    hostile_run(tmp_path / "a")
    page = report(tmp_path / "r.html", tmp_path / "a", "--title", HOSTILE[1], "--items", 3)
    found = read_page(page)
    assert len(found.scripts) == 4
    assert not [a for a in found.attributes if a[0] in ("img", "b") or a[1].startswith("on")]
    assert HOSTILE[1] in found.text
    assert HOSTILE[2][:20] in found.text.replace("\n", "")
    dumped = (tmp_path / "r-items.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["prompt"] for line in dumped] == list(HOSTILE)


def test_hostile_items_reach_the_script_as_they_are(tmp_path: Path) -> None:
    hostile_run(tmp_path / "a")
    [group] = read_page(report(tmp_path / "r.html", tmp_path / "a")).data["groups"]
    for item, text in zip(group["examples"], HOSTILE, strict=True):
        if len(text) <= MAX_TEXT_CHARS:
            assert (item["prompt"], item["reference"], item["runs"][0]["response"]) == (text,) * 3
        else:
            rest = len(text) - MAX_TEXT_CHARS
            assert item["prompt"] == f"{text[:MAX_TEXT_CHARS]}… ({rest:,} more characters)"


def test_the_page_stays_small_whatever_the_texts(tmp_path: Path) -> None:
    questions(tmp_path / "a", "n" * 100_000, [1] * 80, [Shown(*["y" * 50_000] * 3)] * 80)
    page = report(tmp_path / "r.html", tmp_path / "a")
    assert page.stat().st_size < 2_000_000


def test_lone_surrogates_are_written(tmp_path: Path) -> None:
    questions(tmp_path / "a", "a", [1], [Shown("x\ud800y", "w", "g")])
    [group] = read_page(report(tmp_path / "r.html", tmp_path / "a")).data["groups"]
    assert group["examples"][0]["prompt"] == "x\ud800y"


# --- which runs ---------------------------------------------------------------------------


def test_records_without_items_have_their_scores(tmp_path: Path) -> None:
    path = questions(tmp_path / "a", "a", A)
    outcomes_path(path).unlink()
    page = report(tmp_path / "r.html", path)
    assert "1 record has no outcomes file" in read_page(page).text
    assert read_page(page).data["groups"] == []
    assert "60.00 55.00 to 65.00" in row(page, 0, "CBT-CN ACC")


def test_the_newest_of_a_benchmark_counts(tmp_path: Path) -> None:
    for day, value in (("02", 40.0), ("01", 50.0)):
        record = read(questions(tmp_path / "x", "a", A))
        score = made_record().scores[1]
        changed = made_record(
            model=record.model, created=f"2026-01-{day}", seed=int(day),
            scores=(type(score)("acc", value, "%", True, None, None, None, {}, "LAMBADA ACC"),),
        )  # fmt: skip
        write(changed, tmp_path / day)
    [side] = columns(load([tmp_path / "02", tmp_path / "01"], "optional"))
    assert [score.value for record in side.records for score in record.scores] == [40.0]


def test_benchmarks_of_one_checkpoint_share_a_column_whatever_their_rows() -> None:
    records = [
        made_record(limit=20),
        made_record(limit=10, created="2026-02-02"),
        made_record(task="ptb", limit=10),
        made_record(limit=20, created="2026-02-01"),
    ]
    found = columns([Run(record, NO_OUTCOMES, "x") for record in records])
    assert [side.label for side in found] == ["gpt2", "gpt2, 10 rows, seed 0"]
    assert [side.records for side in found] == [[records[3], records[2]], [records[1]]]


def test_names_that_are_alike_are_told_apart() -> None:
    records = [
        made_record(model=model("ckpts/a/last")),
        made_record(model=model("ckpts/b/last")),
        made_record(model={**model("ckpts/b/last"), "dtype": "bfloat16"}),
        made_record(model=model("other")),
    ]
    found = columns([Run(record, NO_OUTCOMES, "x") for record in records])
    labels = [side.label for side in found]
    assert labels[3] == "other"
    assert len(set(labels)) == 4
    assert labels[0] == f"last, {records[0].model['digest'][:8]}, float32"


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    out = ("-o", tmp_path / "r.html")
    assert "no record in" in refused("report", tmp_path / "none", *out)
    path = questions(tmp_path / "a", "a", A)
    assert "cannot write --out" in refused("report", path, "-o", path / "r.html")
    outcomes_path(path).write_bytes(b"other")
    assert "the checksums differ" in refused("report", path, *out)
    assert not (tmp_path / "r.html").exists()


def test_help_says_what_it_makes() -> None:
    assert "One file that needs no network" in harness("report", "--help").out
