"""Files of schema 1, as version 0.1.0 wrote them, are still read.

`tests/schema1/` was written by `harness lambada`, `winograd` and `cnn-dm` with `--sample` on a
model of random weights, and by `harness baseline` and `harness jitter`. None of it may be edited.
"""

import gzip
import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console import harness

from harness.analysis import baseline, noise_floor
from harness.analysis.runs import load
from harness.errors import RecordError
from harness.records.folder import outcomes_path, read, read_outcomes, write

FOLDER = Path(__file__).parent / "schema1"
RECORDS = sorted(path for path in FOLDER.glob("*-*.json"))
NAMES = {"lambada": "fb3afd94d2", "winograd": "00dc8a680f", "cnn-dm": "97ad3a97c1"}
"""Task -> end of the file's name that the last version with schema 1 gives the record."""


def plain(value: object) -> object:
    """A value after a round trip through JSON."""
    return json.loads(json.dumps(value))


def in_schema_2(old: dict[str, Any]) -> dict[str, Any]:
    """A record's JSON with today's names, worked out here."""
    new = {key: value for key, value in old.items() if key not in ("schema", "items_sha256")}
    new["data"] = {("source" if k == "road" else k): v for k, v in old["data"].items()}
    new.setdefault("rows", old["examples"])
    new["tokens"] = {**old["tokens"], "checked": 0, "tied": 0}  # not counted then
    new["warnings"] = []
    return {**new, "kind": "record", "schema": 2, "outcomes_sha256": old["items_sha256"]}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name.split("-")[0])
def test_records_and_their_outcomes_are_read(path: Path) -> None:
    old = json.loads(path.read_text("utf-8"))
    assert (old["schema"], "kind" in old) == (1, False)
    record = read(path)
    assert plain(record.to_json()) == in_schema_2(old)
    packed = json.loads(gzip.decompress(outcomes_path(path, record).read_bytes()))
    outcomes = read_outcomes(path, record)
    assert list(outcomes.ids) == packed["ids"]
    assert plain(outcomes.shown) == packed["shown"]
    assert set(outcomes.metrics) == set(packed["outcomes"])
    for name, metric in outcomes.metrics.items():
        assert list(metric.examples) == packed["outcomes"][name]["of"]
        assert plain(metric.values) == packed["outcomes"][name]["values"]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name.split("-")[0])
def test_what_is_read_is_written_in_schema_2_and_read_again(path: Path, tmp_path: Path) -> None:
    [run] = load([path])
    new = write(replace(run.record, outcomes=run.outcomes), tmp_path)
    value = json.loads(new.read_text("utf-8"))
    assert (value["kind"], value["schema"]) == ("record", 2)
    [again] = load([new])
    assert again.outcomes == run.outcomes
    assert replace(again.record, outcomes_sha256=None) == replace(run.record, outcomes_sha256=None)
    assert new.stem.rpartition("-")[2] == NAMES[run.record.task], "schema 1 gave the same name"


def test_there_is_one_record_of_each_kind() -> None:
    assert {read(path).task for path in RECORDS} == {"lambada", "winograd", "cnn-dm"}


def test_a_baseline_is_read_with_its_runs_and_rules() -> None:
    text = tomllib.loads((FOLDER / "main.toml").read_text("utf-8"))
    packed = json.loads(gzip.decompress((FOLDER / "main.runs.json.gz").read_bytes()))
    main = baseline.read(FOLDER / "main.toml")
    assert main.alpha == text["alpha"]
    assert main.rules == {
        (s["task"], s["protocol"], s["metric"]): baseline.Rule(s["rule"], s.get("delta", 0.0))
        for s in text["score"]
    }
    records = [plain(run.record.to_json()) for run in main.runs]
    assert records == [in_schema_2(run["record"]) for run in packed["runs"]]
    for run, old in zip(main.runs, packed["runs"], strict=True):
        assert list(run.outcomes.ids) == old["items"]["ids"]
        for name, metric in run.outcomes.metrics.items():
            assert plain(metric.values) == old["items"]["outcomes"][name]["values"]


def test_the_runs_pass_against_their_own_baseline() -> None:
    result = harness("check", FOLDER, "--baseline", FOLDER / "main.toml")
    assert result.code in (0, 2), result.err
    assert "regression" not in result.out


def test_jitter_is_read_and_kept() -> None:
    old = json.loads((FOLDER / "jitter.json").read_text("utf-8"))["movements"]
    expected = {(line["task"], line["metric"]): line["largest"] for line in old}
    assert noise_floor.read(FOLDER / "jitter.json") == expected


def test_new_noise_is_added_to_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "jitter.json"
    path.write_bytes((FOLDER / "jitter.json").read_bytes())
    noise = noise_floor.Noise("ptb", "paper", "ppl", "per word", 30.0, 0.5, {})
    before = noise_floor.read(path)
    noise_floor.write(path, [noise], {})
    value = json.loads(path.read_text("utf-8"))
    assert (value["kind"], value["schema"]) == ("jitter", 2)
    assert noise_floor.read(path) == {**before, ("ptb", "ppl"): 0.5}


@pytest.mark.parametrize(
    ("read_as", "file", "words"),
    [
        (read, "jitter.json", "expected a file of kind 'record' .* got kind 'jitter'"),
        (
            noise_floor.read,
            RECORDS[0].name,
            "expected a file of kind 'jitter' .* got kind 'record'",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(
    read_as: Callable[[Path], object], file: str, words: str
) -> None:
    with pytest.raises(RecordError, match=words):
        read_as(FOLDER / file)


def test_a_folder_with_files_of_all_kinds_is_read_as_records(tmp_path: Path) -> None:
    assert {run.record.task for run in load([FOLDER])} == {"lambada", "winograd", "cnn-dm"}
    out = tmp_path / "board.csv"
    result = harness("leaderboard", "--records", FOLDER, "--out", out)
    assert result.code == 0, result.err
    assert out.is_file()
