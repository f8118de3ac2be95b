"""Files of schema 1, as version 0.1.0 wrote them, are still read.

`tests/schema1/` was written by `harness lambada`, `winograd` and `cnn-dm` with `--sample` on a
model of random weights, and by `harness baseline` and `harness jitter`. None of it may be edited.
"""

import json
from pathlib import Path

import pytest
from console import harness

from harness.analysis import baseline, noise_floor
from harness.analysis.runs import load
from harness.records.folder import read, read_outcomes

FOLDER = Path(__file__).parent / "schema1"
RECORDS = sorted(path for path in FOLDER.glob("*-*.json"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name.split("-")[0])
def test_records_and_their_items_are_read(path: Path) -> None:
    written = json.loads(path.read_text("utf-8"))
    assert written["schema"] == 1
    record = read(path)
    assert record.task == written["task"]
    assert [s.value for s in record.scores] == [s["value"] for s in written["scores"]]
    assert record.tokens.computed == written["tokens"]["computed"]
    assert record.model["digest"] == written["model"]["digest"]
    assert str(record.signature) == written["signature"]
    items = read_outcomes(path, record)
    assert len(items.ids) >= written["examples"]


def test_there_is_one_record_of_each_kind() -> None:
    assert {read(path).task for path in RECORDS} == {"lambada", "winograd", "cnn-dm"}


def test_a_baseline_is_read_with_its_runs_and_rules() -> None:
    held = baseline.read(FOLDER / "main.toml")
    assert {run.record.task for run in held.runs} == {"lambada", "winograd", "cnn-dm"}
    assert ("lambada", "paper", "ppl") in held.rules


def test_jitter_is_read() -> None:
    found = noise_floor.read(FOLDER / "jitter.json")
    assert found
    assert {task for task, _ in found} == {"lambada"}


def test_a_folder_with_files_of_all_kinds_is_read_as_records(tmp_path: Path) -> None:
    assert {run.record.task for run in load([FOLDER])} == {"lambada", "winograd", "cnn-dm"}
    out = tmp_path / "board.csv"
    result = harness("leaderboard", "--records", FOLDER, "--out", out)
    assert result.code == 0, result.err
    assert out.is_file()
