"""`harness curve`: the table, the JSON, the pictures, and what is refused."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from console import SIZES, harness, law_records, made_record, refused, sized_record

from harness.analysis.paper import published
from harness.analysis.scaling import KAPLAN_EXPONENT, scaling_curves
from harness.core import Score
from harness.records.folder import write
from harness.records.record import Record
from harness.report.number_format import short
from harness.report.plot import LABELS, MAX_PANELS, draw, figure, ticks

MODEL = made_record().model
FIT = LABELS[1]
PNG = b"\x89PNG\r\n\x1a\n"


def runs(folder: Path, records: list[Record]) -> Path:
    for record in records:
        write(record, folder / "runs")
    return folder / "runs"


def scored(*scores: Score, **changes: Any) -> Record:
    return made_record(scores=scores, **changes)


# --- the table and the JSON --------------------------------------------------------------


def test_the_table_has_the_exponent_with_its_interval(tmp_path: Path) -> None:
    folder = runs(tmp_path, law_records(0.12))
    [curve] = scaling_curves(law_records(0.12))
    assert curve.fit is not None
    assert curve.paper_fit is not None
    result = harness("curve", folder)
    [line] = [x for x in result.out.split("\n") if x.startswith("LAMBADA PPL")]
    assert f"  {curve.fit.exponent:.3f}  {curve.fit.low:.3f} to {curve.fit.high:.3f}  " in line
    assert "nats per word" in line
    assert "10M to 10B" in line
    assert line.rstrip().endswith(f"{curve.paper_fit.exponent:.3f}")
    assert f"Kaplan et al. 2020: {KAPLAN_EXPONENT}" in result.out
    assert not list(tmp_path.glob("*.png")), "no picture without -o"


def test_fewer_than_four_checkpoints_are_points_without_a_fit(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = runs(tmp_path, law_records(0.12)[:3])
    out = tmp_path / "c.svg"
    result = harness("curve", folder, "-o", out)
    assert result.code == 0, result.err
    assert "no fit: 3 of 4 sizes" in result.out
    assert "no fit: 3 of 4 sizes" in out.read_text("utf-8")
    assert FIT not in out.read_text("utf-8")
    assert LABELS[0] in out.read_text("utf-8")


def test_json_has_points_fit_and_the_paper(tmp_path: Path) -> None:
    folder = runs(tmp_path, law_records(0.12))
    result = harness("curve", folder, "--json")
    value = json.loads(result.out)
    assert value["kaplan"] == KAPLAN_EXPONENT
    [curve] = value["curves"]
    [expected] = scaling_curves(law_records(0.12))
    assert expected.fit is not None
    assert curve["fit"] == expected.fit._asdict()
    assert curve["fit"]["low"] <= 0.12 <= curve["fit"]["high"]
    assert curve["law"] == {"kind": "loss", "unit": "nats per word"}
    assert [(p["name"], p["parameters"]) for p in curve["points"]] == [(f"m{n}", n) for n in SIZES]
    assert [p["name"] for p in curve["paper"]] == list(published.SIZES)
    assert (curve["task"], curve["reason"], curve["differs"]) == ("lambada", "", [])


def test_single_files_and_one_benchmark(tmp_path: Path) -> None:
    ptb = scored(Score("ppl", 70.0, "per word", False, None, None, None, {}, "PTB PPL"), task="ptb")
    files = [write(record, tmp_path) for record in [*law_records(0.12), ptb]]
    both = harness("curve", *files)
    assert "PTB PPL" in both.out
    assert "LAMBADA PPL" in both.out
    assert "PTB PPL" not in harness("curve", *files, "--task", "lambada").out
    assert "LAMBADA PPL" not in harness("curve", *files, "--task", "ptb").out


def test_all_scores_on_demand(tmp_path: Path) -> None:
    folder = runs(
        tmp_path,
        [scored(*made_record().scores, Score("x", 1.0, "points", True, None, None, None, {}))],
    )
    assert "lambada x" not in harness("curve", folder).out
    out = harness("curve", folder, "--all").out
    assert "no fit: x (points) is not a loss" in next(
        x for x in out.split("\n") if "lambada x" in x
    )


def test_what_checkpoints_differ_in_is_said_once(tmp_path: Path) -> None:
    other = {**MODEL, "parameters": 10**9, "digest": "7" * 64, "dtype": "bfloat16"}
    folder = runs(tmp_path, [made_record(), made_record(model=other)])
    alike = "note: checkpoints differ in dtype"
    assert alike in harness("curve", folder).out.split("\n"), "of both scores"
    write(sized_record(10**8, task="ptb"), folder)
    assert f"note: LAMBADA PPL, LAMBADA ACC: {alike[6:]}" in harness("curve", folder).out


def test_results_of_lm_eval_have_curves_too() -> None:
    results = Path(__file__).parent / "lm_eval_results"
    out = harness("curve", results).out
    assert "toy_page bits_per_byte" in out
    assert "no fit: 2 of 4 sizes" in out


def test_models_of_unknown_size_are_named(tmp_path: Path) -> None:
    nameless = {**MODEL, "name": "other", "digest": "7" * 64, "parameters": "unknown"}
    folder = runs(tmp_path, [sized_record(10**8), sized_record(10**9, model=nameless)])
    result = harness("curve", folder)
    assert result.code == 0
    assert "note: left out" in result.err
    assert result.err.strip().endswith("other")


# --- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["c.pdf", "c", "png", ".png"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    folder = runs(tmp_path, law_records(0.12))
    line = refused("curve", folder, "-o", tmp_path / name)
    assert "expected a name that ends in .png or .svg" in line
    assert not (tmp_path / name).exists()


def test_without_matplotlib_the_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = runs(tmp_path, law_records(0.12))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refused("curve", folder, "-o", tmp_path / "c.png")
    assert "pip install 'zero-shot-harness[plots]'" in line
    assert harness("curve", folder).code == 0, "the table needs none"


def test_no_records(tmp_path: Path) -> None:
    assert "expected a record or a folder" in refused("curve", tmp_path / "nothing")
    assert "expected a record or a folder" in refused("curve", tmp_path)


def test_an_unknown_benchmark(tmp_path: Path) -> None:
    folder = runs(tmp_path, law_records(0.12))
    line = refused("curve", folder, "--task", "lambda")
    assert "did you mean lambada?" in line


def test_no_model_of_known_size(tmp_path: Path) -> None:
    folder = runs(tmp_path, [made_record(model={**MODEL, "parameters": "unknown"})])
    assert "nothing to draw" in refused("curve", folder)


def test_a_damaged_record(tmp_path: Path) -> None:
    folder = runs(tmp_path, law_records(0.12))
    (folder / "odd.json").write_text('{"schema": 99}')
    assert "odd.json" in refused("curve", folder)


def test_an_unwritable_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = runs(tmp_path, law_records(0.12))
    (tmp_path / "file").write_text("mine")
    assert "cannot write -o" in refused("curve", folder, "-o", tmp_path / "file" / "c.png")
    assert (tmp_path / "file").read_text() == "mine"


def test_too_many_panels_for_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = [f"s{n}" for n in range(MAX_PANELS + 1)]
    scores = [Score(n, 1.0, "points", True, None, None, None, {}) for n in names]
    folder = runs(tmp_path, [scored(*scores)])
    line = refused("curve", folder, "-o", tmp_path / "c.png")
    assert f"{MAX_PANELS + 1} curves are too many" in line
    assert not (tmp_path / "c.png").exists()


# --- pictures ----------------------------------------------------------------------------


def test_the_files_are_what_their_names_say(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = runs(tmp_path, law_records(0.12))
    for name in ("c.png", "C.PNG", "c.svg"):
        result = harness("curve", folder, "-o", tmp_path / name)
        assert result.code == 0, result.err
        assert f"wrote {tmp_path / name}" in result.out
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "C.PNG").read_bytes()
    assert ElementTree.parse(tmp_path / "c.svg").getroot().tag.endswith("svg")
    text = (tmp_path / "c.svg").read_text("utf-8")
    assert all(label in text for label in ("LAMBADA PPL", *LABELS))
    [curve] = scaling_curves(law_records(0.12))
    assert curve.fit is not None
    assert f"exponent {curve.fit.exponent:.3f} (" in text


def test_equal_records_make_equal_bytes_whatever_the_user_has_set(tmp_path: Path) -> None:
    """In another process, at another time, with another hash seed and other settings."""
    pytest.importorskip("matplotlib")
    folder = runs(tmp_path, law_records(0.12))
    settings = tmp_path / "matplotlibrc"
    settings.write_text("lines.linewidth: 9\nsvg.hashsalt: mine\nfigure.facecolor: red\n")
    environment = {**os.environ, "MATPLOTLIBRC": str(settings), "PYTHONHASHSEED": "7"}
    for name in ("c.png", "c.svg"):
        assert harness("curve", folder, "-o", tmp_path / name).code == 0
    code = (
        "import sys; from pathlib import Path; from harness.report.plot import draw; "
        "from harness.analysis.runs import load\n"
        "from harness.analysis.scaling import scaling_curves\n"
        "records = [run.record for run in load([Path(sys.argv[1])], 'no')]\n"
        "for name in sys.argv[2:]: draw(scaling_curves(records), Path(name))"
    )
    others = [tmp_path / "other.png", tmp_path / "other.svg"]
    words = [sys.executable, "-c", code, str(folder), *map(str, others)]
    subprocess.run(words, env=environment, check=True)
    assert others[0].read_bytes() == (tmp_path / "c.png").read_bytes()
    assert others[1].read_bytes() == (tmp_path / "c.svg").read_bytes()
    assert b"<dc:date>" not in others[1].read_bytes()
    assert b"Software" not in others[0].read_bytes()


@pytest.mark.parametrize(
    "name",
    ["$x_1", "a$b$c", "<b>&amp;", "--><script>", "模型", "\x01\x1b[31m\n", "\ud800", "x" * 999],
)
def test_any_name_stays_text(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    score = Score(name, 1.0, "points", True, None, None, None, {})
    out = tmp_path / "c.svg"
    draw(scaling_curves([scored(score, task=name, protocol=name)]), out)
    root = ElementTree.parse(out).getroot()
    assert not [x for x in root.iter() if isinstance(x.tag, str) and x.tag.endswith("script")]


def lines(panel: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in panel.get_lines()}


def test_the_lines_lie_where_the_numbers_say() -> None:
    pytest.importorskip("matplotlib")
    found = scaling_curves(law_records(0.12))
    panel = figure(found).axes[0]
    [curve] = found
    assert curve.fit is not None
    drawn = lines(panel)
    sizes, losses = np.log(np.array(drawn[FIT].get_xydata())).T
    assert np.allclose(np.diff(losses) / np.diff(sizes), -curve.fit.exponent)
    assert np.allclose(losses, math.log(curve.fit.coefficient) - curve.fit.exponent * sizes)
    sizes, losses = np.log(np.array(drawn[LABELS[3]].get_xydata())).T
    assert np.allclose(np.diff(losses) / np.diff(sizes), -KAPLAN_EXPONENT)
    assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
    theirs = np.array(drawn[LABELS[2]].get_xydata())
    assert np.allclose(theirs[:, 1], np.log([35.13, 15.60, 10.87, 8.63]))


def test_everything_that_is_drawn_is_in_sight() -> None:
    pytest.importorskip("matplotlib")
    panel = figure(scaling_curves(law_records(0.12))).axes[0]
    low, high = panel.get_ylim()
    [curve] = scaling_curves(law_records(0.12))
    bounds = [math.log(v) for place in curve.points for v in (place.low, place.high) if v]
    assert low < min(bounds)
    assert max(bounds) < high
    assert panel.get_xlim()[0] < SIZES[0]
    assert SIZES[-1] < panel.get_xlim()[1]


def test_perplexities_stand_on_the_right() -> None:
    pytest.importorskip("matplotlib")
    left, right = figure(scaling_curves(law_records(0.12))).axes
    assert left.get_ylabel() == "nats per word"
    assert right.get_ylabel() == "perplexity"
    assert left.get_ylim() == right.get_ylim()
    places = right.get_yticks()
    labels = [label.get_text() for label in right.get_yticklabels()]
    assert len(labels) >= 3
    assert labels == [short(round(math.exp(place), 6)) for place in places]


def test_a_broken_model_is_drawn_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(scaling_curves([*law_records(0.12), sized_record(10**11, 1e307)]), tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)


def test_an_interval_is_drawn_from_end_to_end() -> None:
    pytest.importorskip("matplotlib")
    found = scaling_curves(law_records(0.12))
    [container] = figure(found).axes[0].containers
    bars = container.lines[2][0].get_segments()
    for bar, place in zip(bars, found[0].points, strict=True):
        assert np.allclose(bar[:, 0], place.parameters)
        assert np.allclose(bar[:, 1], [math.log(place.low or 0), math.log(place.high or 0)])


def test_accuracies_are_drawn_as_they_are_and_fitted_as_errors() -> None:
    pytest.importorskip("matplotlib")
    wrong = [80.0, 60.0, 46.0, 35.0]
    found = scaling_curves(
        [
            sized_record(
                size,
                scores=(Score("acc", 100 - x, "%", True, None, None, None, {}, "LAMBADA ACC"),),
            )
            for size, x in zip(SIZES, wrong, strict=True)
        ]
    )
    [panel] = figure(found).axes
    [curve] = found
    assert curve.fit is not None
    assert panel.get_yscale() == "linear"
    assert LABELS[3] not in lines(panel), "Kaplan's exponent is one of a loss"
    sizes, scores = np.array(lines(panel)[FIT].get_xydata()).T
    assert np.allclose(100 - scores, curve.fit.coefficient * sizes**-curve.fit.exponent)


def test_a_perfect_model_is_a_point_without_a_fit() -> None:
    """A perplexity of 1 is a loss of 0, which has no place on a logarithmic axis."""
    pytest.importorskip("matplotlib")
    found = scaling_curves([*law_records(0.12), sized_record(10**11, 1.0)])
    [curve] = found
    assert (curve.fit, curve.reason) == (None, "a loss of 0 has no logarithm")
    [panel] = figure(found).axes
    assert panel.get_yscale() == "linear"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (124_439_808, "124M"),
        (1_557_611_200, "1.56B"),
        (7e12, "7T"),
        (1500, "1.5k"),
        (20, "20"),
        (1e200, "1e+200"),
    ],
)
def test_sizes_in_few_letters(size: float, text: str) -> None:
    assert short(size) == text


@pytest.mark.parametrize(
    ("low", "high", "places"),
    [
        (0.9, 1.5, [1.0, 1.2, 1.4]),
        (7.0, 45.0, [10.0, 20.0, 30.0, 40.0]),
        (20.0, 400.0, [20.0, 50.0, 100.0, 200.0]),
        (1e7, 1e11, [1e7, 1e8, 1e9, 1e10, 1e11]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, places: list[float]) -> None:
    pytest.importorskip("matplotlib")
    assert ticks(low, high) == pytest.approx(places)


def test_losses_that_do_not_move_have_an_exponent_of_zero_without_a_sign(tmp_path: Path) -> None:
    folder = runs(tmp_path, [sized_record(size, 30.0) for size in SIZES])
    assert "  0.000  0.000 to 0.000  " in harness("curve", folder).out
