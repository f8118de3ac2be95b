"""Records: round trip, signature, atomic writes, provenance."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console import made_record
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.runs import load
from harness.core import Score, Tokens
from harness.errors import RecordError, UsageError
from harness.files.output import check_writable, write_text
from harness.records.folder import read, write
from harness.records.provenance import environment
from harness.records.record import Record, slug

WORDS = st.text(max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(
    name=WORDS,
    protocol=WORDS,
    options=st.dictionaries(WORDS, st.one_of(st.integers(), WORDS), max_size=4),
    value=NUMBERS,
    low=st.none() | NUMBERS,
    tokens=st.builds(Tokens, *[st.integers(0, 10**12)] * 4),
)
def test_a_record_reads_back_equal(
    name: str,
    protocol: str,
    options: dict[str, str | int],
    value: float,
    low: float | None,
    tokens: Tokens,
) -> None:
    score = Score(name, value, "per word", False, low, low, low, {name: value}, None)
    record = made_record(
        protocol=protocol,
        options=options,
        tokens=tokens,
        scores=(score,),
        model={**made_record().model, "name": name},
    )
    text = json.dumps(record.to_json(), ensure_ascii=False)
    assert Record.from_json(json.loads(text), "here") == record


def test_write_and_read(tmp_path: Path) -> None:
    record = made_record()
    path = write(record, tmp_path)
    assert read(path) == record
    assert path.parent.name == "gpt2-a1a1a1a1"
    assert path.name.startswith("lambada-paper-")
    assert json.loads(path.read_text("utf-8"))["signature"] == str(record.signature)
    assert write(record, tmp_path) == path, "the same run replaces its record"


def test_signature_is_one_line_with_everything_that_moves_a_score() -> None:
    assert str(made_record().signature) == (
        "lambada|v:2|p:paper|o:quotes=on,stride=1024|data:x.jsonl@c3c3c3c3|n:20|prompt:d4d4d4d4|"
        "tok:b2b2b2b2|ctx:1024|dtype:float32|harness:0.1.0|torch:2.13.0"
    )


MODEL = made_record().model
DATA = made_record().data


@pytest.mark.parametrize(
    "change",
    [
        {"task": "other"},
        {"version": 3},
        {"protocol": "lm-eval"},
        {"options": {"quotes": "off", "stride": 1024}},
        {"options": {"quotes": "on", "stride": 32}},
        {"data": {**DATA, "sha256": "ee" * 32}},
        {"data": {**DATA, "name": "y.jsonl"}},
        {"prompt": None},
        {"prompt": {"name": "lambada.txt", "sha256": "ff" * 32}},
        {"limit": 20},
        {"examples": 19},
        {"limit": 20, "seed": 1},
        {"model": {**MODEL, "tokenizer": "99" * 32}},
        {"model": {**MODEL, "context": 512}},
        {"model": {**MODEL, "dtype": "bfloat16"}},
        {"environment": {"versions": {"harness": "0.1.0", "torch": "2.14.0"}}},
    ],
    ids=str,
)
def test_signature_and_file_name_change_with_a_field(change: dict[str, Any]) -> None:
    before, after = made_record(), made_record(**change)
    assert after.signature != before.signature
    assert after.filename() != before.filename()


def test_signature_tells_seeds_of_a_subset_apart() -> None:
    one, two = made_record(limit=20, seed=1), made_record(limit=20, seed=2)
    assert one.signature != two.signature


def test_other_weights_have_another_file() -> None:
    other = made_record(model={**MODEL, "digest": "77" * 32})
    assert other.signature == made_record().signature, "weights are not part of the protocol"
    assert other.filename() != made_record().filename()


@pytest.mark.parametrize(
    "change",
    [
        {"model": {**MODEL, "device": "cuda:0"}},
        {"engine": {"numerics": "engine:2|device:cpu|products:plain"}},
        {"engine": {"numerics": "engine:2|device:cpu|products:plain|compiled:True"}},
        {"engine": {"numerics": "engine:2|device:cuda|products:plain"}},
    ],
    ids=str,
)
def test_runs_that_differ_by_rounding_have_files_of_their_own(
    change: dict[str, Any], tmp_path: Path
) -> None:
    """They measure the same thing, so that the signature is the same."""
    one, two = made_record(), made_record(**change)
    assert one.signature == two.signature
    assert one.numerics != two.numerics
    assert write(one, tmp_path) != write(two, tmp_path)
    assert one.filename() == made_record(seconds=5.0).filename(), "a repeated run replaces it"


def test_a_record_of_another_program_has_numerics_too() -> None:
    assert made_record(engine={}).numerics == "device:cpu"
    assert made_record(engine={}, model={}).numerics == "device:None"


def test_a_record_under_any_name_is_read(tmp_path: Path) -> None:
    path = write(made_record(), tmp_path)
    old = path.rename(path.with_name("lambada-paper-0123456789.json"))
    assert read(old) == made_record()


def test_a_record_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = write(made_record(), tmp_path)
    path.write_text(path.read_text("utf-8").replace('"examples": 20', '"examples": 21'), "utf-8")
    with pytest.raises(RecordError, match=r"lambada-paper-\w+\.json was changed: its signature"):
        read(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a JSON file"),
        (b'{"task": "lam', "is not a JSON file"),
        (b"\xff\xfe\x00", "is not a JSON file"),
        (b"[" * 100_000, "is not a JSON file: nested too deeply"),
        (b'{"schema": ' * 100_000, "is not a JSON file: nested too deeply"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "is not a JSON file: an integer has 5,000 digits"),
        (b'{"schema": 1, "task": "\\ud800"}', "is not a JSON file: a string holds half of"),
        (
            b'{"schema": 1, "movements": []}',
            "of kind 'record' and schema 2 or 1, got kind 'jitter'",
        ),
        (b'{"schema": 1, "ids": [], "outcomes": {}}', "got kind 'outcomes' and schema 1"),
        (b'{"schema": 1, "runs": []}', "got kind 'baseline runs' and schema 1"),
        (b"[1, 2]", "expected a file of kind 'record' and schema 2 or 1, got something else"),
        (b"{}", "expected a file of kind 'record' and schema 2 or 1, got something else"),
        (b'{"schema": 2}', "got kind None and schema 2"),
        (b'{"kind": "record", "schema": 3}', "got kind 'record' and schema 3"),
        (b'{"kind": "jitter", "schema": 2}', "got kind 'jitter' and schema 2"),
        (b'{"schema": 1, "task": "x"}', "is not a valid record file"),
        (b'{"schema": 1, "tokens": {"eaten": 1}}', "is not a valid record file"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"odd\.json") as caught:
        read(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_ours_that_are_not_records_are_passed_over_in_folders(tmp_path: Path) -> None:
    path = write(made_record(), tmp_path)
    (tmp_path / "jitter.json").write_text('{"schema": 1, "movements": []}')
    (tmp_path / "runs.json").write_text('{"schema": 1, "runs": []}')
    (path.parent / "items.json").write_text('{"schema": 1, "ids": [], "outcomes": {}}')
    (tmp_path / "new.json").write_text('{"kind": "jitter", "schema": 2, "scores": []}')
    assert [run.file for run in load([tmp_path], "no")] == [str(path)]
    for name in ("jitter.json", "new.json"):
        with pytest.raises(RecordError, match="1, got kind 'jitter'"):
            load([tmp_path / name], "no")
    path.unlink()
    with pytest.raises(UsageError, match="no record in"):
        load([tmp_path], "no")
    (tmp_path / "theirs.json").write_text("[" * 100_000)
    with pytest.raises(RecordError, match=r"theirs\.json' is not a JSON file: nested too deeply"):
        load([tmp_path], "no")


def test_an_unknown_field_is_refused() -> None:
    value = {**made_record().to_json(), "colour": "red"}
    with pytest.raises(RecordError, match=r"somewhere is not a valid record file .*colour"):
        Record.from_json(value, "somewhere")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot read .*gone.json.*No such file"):
        read(tmp_path / "gone.json")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "record.json"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RecordError, match=r"cannot write .*record\.json.*No space left on device"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path], "no temporary file is left"


def test_check_writable_names_the_option(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"output folder .*file.*give --out a folder"):
        check_writable(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "safe"),
    [("gpt2", "gpt2"), ("a/b c", "a_b_c"), ("..", "_"), ("", "_"), ("é=+", "_"), (".x.", "x")],
)
def test_slug(text: str, safe: str) -> None:
    assert slug(text) == safe


def test_names_of_any_length_fit_a_file_system(tmp_path: Path) -> None:
    long = made_record(protocol="paper+" + "x=y+" * 100, model={**MODEL, "name": "m" * 300})
    assert read(write(long, tmp_path)) == long


@pytest.mark.parametrize("half", [0xDCFF, 0xD83D])
def test_a_data_file_whose_name_is_not_text_has_a_record_that_is_read(
    half: int, tmp_path: Path
) -> None:
    record = made_record(data={**DATA, "name": f"x{chr(half)}.jsonl"})
    path = write(record, tmp_path)
    assert read(path) == made_record(data={**DATA, "name": "x?.jsonl"})
    assert write(record, tmp_path) == path


def test_environment_names_versions_commit_and_machine_class() -> None:
    found = environment()
    assert set(found) == {"versions", "git", "python", "system"}
    assert set(found["versions"]) == {
        "harness", "torch", "transformers", "tokenizers", "numpy", "sacrebleu", "rouge-score",
        "sentencex",
    }  # fmt: skip
    assert all(version[0].isdigit() for version in found["versions"].values())
    if found["git"] is not None:  # None where the package is installed without its checkout
        assert len(found["git"]["commit"]) == 40
        assert isinstance(found["git"]["dirty"], bool)


def test_scores_of_a_record_are_compared_by_value() -> None:
    record = made_record()
    changed = replace(record, scores=(replace(record.scores[0], value=35.6), record.scores[1]))
    assert changed != record
    assert changed.signature == record.signature
