"""Runs that were stopped early: on disk, in every command that reads records, and beside others."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import save_tiny
from console import Result, harness, made_record, refused

from harness.analysis.compare import compare
from harness.analysis.leaderboard import rows
from harness.analysis.runs import load
from harness.analysis.scores import scores
from harness.commands.evaluate.session import job_for
from harness.commands.options import DataOptions
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.load import load as load_checkpoint
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.errors import RecordError
from harness.overlap.shares import Overlap, PieceOverlap
from harness.overlap.subset_scores import subset_scores
from harness.plugins.registry import load_task
from harness.records.folder import write
from harness.records.outcomes import from_json, pack, to_json, unpack
from harness.records.record import Record
from harness.runner import Evaluation, evaluate, prepare

SAMPLE = ("lambada", "wikitext2")
STOPPED = {"reason": "every verdict is in", "used": 412, "of": 2000}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The records of a whole run, those of a stopped run of another model, and that model."""
    root = tmp_path_factory.mktemp("stopped")
    models = [save_tiny(root / f"m{seed}", context=256, seed=seed) for seed in (0, 1)]
    for folder, path in zip(("whole", "stopped"), models, strict=True):
        engine = Engine(load_checkpoint(str(path), Settings(device="cpu", context=64)))
        for name in SAMPLE:
            benchmark = load_task(name)
            job = job_for(benchmark, benchmark.protocol(), DataOptions(sample=True))
            evaluation = Evaluation(job, engine)
            count = len(evaluation.parts)
            evaluation.answer(range(count) if folder == "whole" else range(1, count, 2))
            write(evaluation.record({"reason": "every verdict is in"}), root / folder)
    return root / "whole", root / "stopped", models[1]


def runs_of(folder: Path) -> dict[str, Record]:
    return {run.record.task: replace(run.record, outcomes=run.outcomes) for run in load([folder])}


# --- the record -------------------------------------------------------------------------------


def test_the_signature_says_how_much_there_is() -> None:
    record = made_record(limit=2000, stopped=STOPPED)
    assert "|n:412 of 2000~seed0|" in str(record.signature)
    assert "|n:412 of 2000~seed0|" in str(made_record(stopped=STOPPED).signature)
    other = replace(record, stopped={**STOPPED, "seed": 7})
    assert "|n:412 of 2000~seed0~order7|" in str(other.signature)
    names = {r.filename() for r in (record, other, replace(record, stopped=None))}
    assert len(names) == 3


def test_a_record_reads_back_equal(folders: tuple[Path, Path, Path]) -> None:
    record = made_record(stopped=STOPPED)
    value = json.loads(json.dumps(record.to_json()))
    assert Record.from_json(value, "here") == record
    assert "stopped" not in made_record().to_json()
    text = runs_of(folders[1])["wikitext2"]
    assert text.stopped is not None
    assert (text.stopped["used"], text.stopped["of"]) == (9, 18)
    assert text.outcomes is not None
    metric = text.outcomes.metrics["ppl"]
    assert metric.parts is not None
    assert text.examples == len(metric.parts) < text.rows
    packed = pack(to_json(text.outcomes))
    assert from_json(unpack(packed, "here"), "here") == text.outcomes


@pytest.mark.parametrize(
    ("stopped", "found"),
    [
        ({"used": 3}, "KeyError: 'of'"),
        ({"used": 3, "of": 3}, "stopped after 3 of 3 parts"),
        ({"used": 0, "of": 3}, "stopped after 0 of 3 parts"),
        ({"used": True, "of": 3}, "stopped after True of 3 parts"),
        ({"used": 2.0, "of": 3}, "stopped after 2.0 of 3 parts"),
        ([1, 2], "TypeError"),
    ],
)
def test_a_damaged_record_is_refused(stopped: Any, found: str) -> None:
    value = {**made_record(stopped=STOPPED).to_json(), "stopped": stopped}
    with pytest.raises(RecordError, match="here is not a valid record file") as error:
        Record.from_json(value, "here")
    assert found in str(error.value)


@pytest.mark.parametrize("parts", [[0], ["x", 1], [0, True], 7])
def test_damaged_places_of_outcomes_are_refused(parts: Any) -> None:
    metric = {"examples": [0, 0], "values": [[1.0], [2.0]], "parts": parts}
    value = {"kind": "outcomes", "schema": 2, "ids": ["0"], "shown": [["", "", ""]],
             "metrics": {"m": metric}}  # fmt: skip
    with pytest.raises(RecordError, match="here is not a valid outcomes file"):
        from_json(value, "here")


# --- beside a whole run -----------------------------------------------------------------------


def test_what_both_runs_have_is_compared(folders: tuple[Path, Path, Path]) -> None:
    """The same model, whole and stopped: no difference on the common outcomes."""
    whole = runs_of(folders[0])["wikitext2"]
    model = load_checkpoint(whole.model["name"], Settings(device="cpu", context=64))
    benchmark = load_task("wikitext2")
    job = job_for(benchmark, benchmark.protocol(), DataOptions(sample=True))
    evaluation = Evaluation(job, Engine(model))
    evaluation.answer([3, 11, 5])
    write(evaluation.record({"reason": "fine"}), folders[2].parent / "same")
    sides = load([folders[0]]), load([folders[2].parent / "same"])
    comparison = compare([run for run in sides[0] if run.record.task == "wikitext2"], sides[1])
    [score] = comparison.scores
    assert score.examples == sum(len(s.pieces) for n in (3, 5, 11) for s in
                                 evaluation.parts[n].stretches)  # fmt: skip
    assert score.difference.pairs <= 3  # the parts, which may be drawn again
    assert score.difference.value == pytest.approx(0, abs=1e-5 * score.difference.a)
    [note] = comparison.notes
    assert " / 3 of 18~seed0" in note
    assert "was stopped early, after 3 of 18 parts (fine)" in note
    assert "do not hold" in note


def test_whole_and_stopped_runs_have_rows_of_their_own(folders: tuple[Path, Path, Path]) -> None:
    records = [*runs_of(folders[0]).values(), *runs_of(folders[1]).values()]
    same = [replace(r, model=records[0].model) for r in records]
    table = rows(same)
    assert [row["rows"] for row in table] == ["built-in sample", "built-in sample, stopped early"]
    assert [row["WikiText2 PPL"] for row in table] == [
        next(s.value for s in r.scores) for r in records if r.task == "wikitext2"
    ]
    assert "n:9 of 18~seed0" in table[1]["signatures"]
    frame = scores(records)
    assert set(frame[frame["task"] == "wikitext2"]["stopped"]) == {None, "9 of 18"}


# --- commands ---------------------------------------------------------------------------------


def shown(*words: object, code: Sequence[int] = (0,)) -> Result:
    result = harness(*words)
    assert result.code in code, result
    return result


def test_every_command_reads_stopped_runs(
    folders: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped, _ = folders
    monkeypatch.chdir(tmp_path)
    for sides in ((whole, stopped), (stopped, stopped)):
        result = shown("compare", *sides, "--all")
        assert " was stopped early, after 9 of 18 parts (every verdict is in)" in result.out
    assert shown("baseline", whole, "--out", "main.toml").code == 0
    checked = shown("check", stopped, "--baseline", "main.toml", "--junit", "j.xml", code=(0, 1))
    assert "was stopped early, after 9 of 18 parts" in checked.out + checked.err
    verdicts = json.loads(
        shown("check", stopped, "--baseline", "main.toml", "--json", code=(0, 1)).out
    )
    assert all("stopped early" in verdict["note"] for verdict in verdicts["verdicts"])
    assert shown("power", whole, stopped, "--drop", "5").out
    shown("leaderboard", "--records", stopped, "--records", whole, "--out", "board.csv")
    assert "built-in sample, stopped early" in Path("board.md").read_text("utf-8")
    shown("report", whole, stopped, "--out", "page.html", "--no-tokens")
    assert "after 9 of 18 parts" in Path("page.html").read_text("utf-8")


def test_a_stopped_run_is_no_baseline(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    line = refused("baseline", folders[1], "--out", tmp_path / "main.toml")
    assert "the run of lambada paper was stopped early, after 6 of 12 parts" in line
    assert "expected complete runs" in line
    assert not (tmp_path / "main.toml").exists()


def test_an_item_of_a_stopped_run_is_explained(folders: tuple[Path, Path, Path]) -> None:
    [file] = folders[1].rglob("lambada-*.json")
    record = json.loads(file.read_text("utf-8"))
    assert record["stopped"]["used"] == 6
    result = shown("explain", file, "1", "--no-ranks")
    assert "log-probability" in result.out
    assert "no item" in refused("explain", file, "x")


def test_a_complete_run_is_not_stopped(tiny: Checkpoint) -> None:
    benchmark = load_task("lm1b")
    job = job_for(benchmark, benchmark.protocol(), DataOptions(sample=True))
    evaluation = Evaluation(job, Engine(tiny))
    evaluation.answer(reversed(range(len(evaluation.parts))))
    record = evaluation.record({"reason": "every verdict is in"})
    assert record.stopped is None
    assert str(record.signature) == str(evaluate(job, Engine(tiny)).signature)


def test_lines_of_a_stopped_text_keep_their_overlap(folders: tuple[Path, Path, Path]) -> None:
    """Every second line occurs in the corpus; a stopped run has the lines of some parts."""
    stopped = next(run for run in load([folders[1]]) if run.record.task == "wikitext2")
    benchmark = load_task("wikitext2")
    job = job_for(benchmark, benchmark.protocol(), DataOptions(sample=True))
    [example] = prepare(job).examples
    count = len(example.fields["pieces"])
    pieces = tuple(PieceOverlap(example.id, k, 1, k % 2) for k in range(count))
    groups = {s.group: s.outcomes for s in subset_scores(stopped, Overlap(job, 1, 1, pieces))}
    places = stopped.outcomes.metrics["ppl"].parts
    assert places is not None
    odd = sum(place % 2 for place in places)
    assert groups["no overlap"] == len(places) - odd
    assert groups["any overlap"] == groups["over 15 %"] == odd
    assert groups["all"] == len(places) < count
