"""Logs of inspect_ai: their samples give their own numbers, and odd ones are refused in one line.

The logs are made here in the form in which inspect_ai 0.3.285 writes them.
"""

import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from console import harness, refused

from harness.analysis import runs
from harness.analysis.compare import compare
from harness.errors import RecordError
from harness.records.outcomes import Outcomes, from_json, to_json
from harness.records.readers import find, inspect_ai, reported
from harness.records.record import Record

Log = dict[str, Any]
Edit = Callable[[Log], object]

QUESTIONS = ("the sky is", "grass is", "snow is", "coal is", "blood is", "the sun is")
ANSWERS = ("blue", "green", "white", "black", "red", "yellow")
ACCURACY = {"name": "inspect_ai/accuracy", "options": {}}
MEAN = {"name": "inspect_ai/mean", "options": {}}
PASSED = {"tool_calls": "loop"}
STDERR = {"name": "inspect_ai/stderr", "options": {}}


def scored(name: str, value: float, *, scorer: str = "", **changes: Any) -> dict[str, Any]:
    """One of a log's results: a scorer with one metric and its standard error."""
    metric = changes.pop("metric", "accuracy")
    metrics = {
        metric: {"name": metric, "value": value, "params": {}},
        "stderr": {"name": "stderr", "value": 0.1, "params": {}},
    }
    return {"name": name, "scorer": scorer or name, "params": {}, "metrics": metrics, **changes}


def log_of(values: Sequence[Sequence[Any]], *results: Mapping[str, Any], **config: Any) -> Log:
    """A finished log of one scorer, `match`; `values` has one row per example, one per epoch."""
    epochs = max(map(len, values))
    samples = [
        {
            "id": f"q{i}",
            "epoch": epoch,
            "input": QUESTIONS[i],
            "target": ANSWERS[i],
            "messages": [{"id": "x", "role": "user", "content": QUESTIONS[i]}],
            "output": {"model": "mockllm/model", "choices": [], "completion": f"I say {value}"},
            "scores": {"match": {"value": value, "answer": "I say", "history": []}},
            "metadata": {},
            "attachments": {},
        }
        for i, row in enumerate(values)
        for epoch, value in enumerate(row, start=1)
    ]
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "created": "2026-11-25T22:44:10+00:00",
            "task": "colours",
            "task_id": "TnZabLoUbgMxK3UvGv4HrE",
            "task_version": 0,
            "task_args": {},
            "task_args_passed": {},
            "dataset": {
                "name": "colours",
                "location": "colours.csv",
                "samples": len(values),
                "sample_ids": [f"q{i}" for i in range(len(values))],
                "shuffled": False,
            },
            "model": "mockllm/model",
            "model_generate_config": {},
            "model_args": {},
            "config": {"epochs": epochs, **config},
            "packages": {"inspect_ai": "0.3.285"},
            "scorers": [{"name": "match", "options": {}, "metrics": [ACCURACY, MEAN, STDERR]}],
        },
        "plan": {
            "name": "plan",
            "steps": [{"solver": "generate", "params": PASSED}],
            "config": {"temperature": 0.5, "max_connections": 7},
        },
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": list(results),
        },
        "stats": {
            "started_at": "2026-11-25T22:44:10+00:00",
            "completed_at": "2026-11-25T22:44:12+00:00",
        },
        "invalidated": False,
        "samples": samples,
    }


RIGHT = log_of([["C"], ["I"], ["C"], ["C"], ["I"], ["C"]], scored("match", 4 / 6))
WORSE = log_of([["C"], ["I"], ["I"], ["I"], ["C"], ["C"]], scored("match", 3 / 6))
WORSE["eval"]["task_id"] = "another run"


def written(path: Path, log: Log, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A log as a file: JSON, or a ZIP file with a member for each sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(log), "utf-8")
        return path
    header = {name: value for name, value in log.items() if name != "samples"}
    start = {name: log[name] for name in ("version", "eval", "plan")}
    members = {"_journal/start.json": start}
    for sample in log["samples"]:
        members[f"samples/{sample['id']}_epoch_{sample['epoch']}.json"] = sample
    if log["status"] != "killed":
        members["header.json"] = header
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in members.items():
            add(archive, name, json.dumps(value).encode(), compression)
    return path


def add(archive: zipfile.ZipFile, name: str, content: bytes, compression: int) -> None:
    """Add a member; Python's zipfile cannot write zstandard, so its directory is changed."""
    if compression != ZSTANDARD:
        archive.writestr(name, content, compression)
        return
    half = len(content) // 2  # in two frames, as large ones are written
    frames = [
        pyarrow.compress(part, "zstd", asbytes=True) for part in (content[:half], content[half:])
    ]
    archive.writestr(name, b"".join(frames), zipfile.ZIP_STORED)
    member = archive.NameToInfo[name]
    member.compress_type = ZSTANDARD
    member.file_size, member.CRC = len(content), zlib.crc32(content)


ZSTANDARD = 93
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, ZSTANDARD)


def edited(log: Log, edit: Edit) -> Log:
    log = deepcopy(log)
    edit(log)
    return log


def read(path: Path) -> tuple[Record, Outcomes]:
    [run] = runs.load([path])
    return run.record, run.outcomes


def values_of(outcomes: Outcomes, name: str) -> list[tuple[float, ...]]:
    return list(outcomes.metrics[name].values)


def reading_fails(path: Path) -> str:
    with pytest.raises(RecordError) as caught:
        runs.load([path])
    line = str(caught.value)
    assert "\n" not in line
    return line


# --- what is read -----------------------------------------------------------------------


def test_a_record_says_what_the_log_says(tmp_path: Path) -> None:
    record, outcomes = read(written(tmp_path / "a.eval", RIGHT))
    assert (record.task, record.origin, record.protocol) == ("colours", "inspect_ai", "inspect_ai")
    assert (record.examples, record.rows, record.limit, record.requests) == (6, 6, None, 6)
    assert (record.created, record.seconds) == ("2026-11-25T22:44:10+00:00", 2.0)
    assert re.fullmatch(
        r"colours\|origin:inspect_ai\|v:0\|p:inspect_ai\|o:config=\w{8},epochs=1,solver=generate,"
        r"temperature=0.5\|data:colours@\w{8}\|n:6\|prompt:none\|tok:unknown\|ctx:unknown\|"
        r"dtype:unknown\|inspect_ai:0.3.285",
        str(record.signature),
    )
    [score] = record.scores
    assert (score.metric, score.unit, score.higher_is_better) == ("match/accuracy", "%", True)
    assert score.value == pytest.approx(400 / 6)
    assert score.totals == {"right": 4.0, "items": 6.0}
    assert score.stderr == pytest.approx(10)
    assert score.high == pytest.approx(score.value + 19.59964, rel=1e-6)
    assert outcomes.ids == ("q0", "q1", "q2", "q3", "q4", "q5")
    assert outcomes.shown[1] == ("grass is", "green", "I say I")
    assert values_of(outcomes, "match/accuracy") == [(v, 1.0) for v in (1, 0, 1, 1, 0, 1)]
    [measure] = runs.measures(record)
    assert measure.metric.proportion


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_way_to_write_a_log_gives_the_same(tmp_path: Path, compression: int) -> None:
    zipped = read(written(tmp_path / "a.eval", RIGHT, compression))
    assert zipped == read(written(tmp_path / "a.json", RIGHT))


def test_records_and_outcomes_outlive_a_baseline(tmp_path: Path) -> None:
    record, outcomes = read(written(tmp_path / "a.eval", RIGHT))
    again = Record.from_json(json.loads(json.dumps(record.to_json())), "here")
    assert again == record
    assert runs.measures(again)[0].metric == runs.measures(record)[0].metric
    assert from_json(json.loads(json.dumps(to_json(outcomes))), "here") == outcomes


def test_values_are_numbers_as_inspect_ai_reads_them(tmp_path: Path) -> None:
    values = ["C", "P", "N", True, "yes", "0.25"]
    log = log_of([[v] for v in values], scored("match", (1 + 0.5 + 0 + 1 + 1 + 0.25) / 6))
    record, outcomes = read(written(tmp_path / "a.eval", log))
    assert [v for v, _ in values_of(outcomes, "match/accuracy")] == [1, 0.5, 0, 1, 1, 0.25]
    assert record.scores[0].totals == {"sum": 3.75, "items": 6.0}
    assert not runs.measures(record)[0].metric.proportion


def test_examples_without_a_value_are_left_out(tmp_path: Path) -> None:
    log = log_of([["C"], [math.nan], ["I"]], scored("match", 0.5))
    for name in ("a.json", "a.eval"):
        _, outcomes = read(written(tmp_path / name, log))
        assert outcomes.metrics["match/accuracy"].examples == (0, 2)


EPOCHS = [["C", "I", "I"], ["C", "C", "I"], ["I", "I", "I"], ["C", "C", "C"]]


@pytest.mark.parametrize(
    ("reducer", "expected"),
    [
        (None, [1 / 3, 2 / 3, 0, 1]),
        ("mean", [1 / 3, 2 / 3, 0, 1]),
        ("median", [0, 1, 0, 1]),
        ("mode", [0, 1, 0, 1]),
        ("max", [1, 1, 0, 1]),
        ("at_least_2", [0, 1, 0, 1]),
        ("pass_at_2", [2 / 3, 1, 0, 1]),  # 1 - C(wrong, 2) / C(3, 2)
        ("pass_k_2", [0, 1 / 3, 0, 1]),  # C(right, 2) / C(3, 2)
    ],
)
def test_epochs_are_reduced(tmp_path: Path, reducer: str | None, expected: list[float]) -> None:
    changes = {"reducer": reducer} if reducer else {}
    log = log_of(EPOCHS, scored("match", sum(expected) / 4, **changes))
    record, outcomes = read(written(tmp_path / "a.eval", log))
    name = "match/accuracy" + (f",{reducer}" if reducer not in (None, "mean") else "")
    assert [v for v, _ in values_of(outcomes, name)] == pytest.approx(expected)
    assert (record.examples, record.requests, record.options["epochs"]) == (4, 12, 3)


def test_without_a_reducer_epochs_are_summed(tmp_path: Path) -> None:
    log = log_of([*EPOCHS, ["C"]], scored("match", 7 / 13), epochs_reducer=[])
    _, outcomes = read(written(tmp_path / "a.eval", log))
    pairs = [(1.0, 3.0), (2.0, 3.0), (0.0, 3.0), (3.0, 3.0), (1.0, 1.0)]
    assert values_of(outcomes, "match/accuracy") == pairs


def test_a_reducer_of_ones_own_is_not_compared(tmp_path: Path) -> None:
    log = log_of(EPOCHS, scored("match", 0.4), scored("match", 0.3, reducer="harmonic"))
    log["results"]["scores"][0]["metrics"]["accuracy"]["value"] = 0.5
    record, _ = read(written(tmp_path / "a.eval", log))
    assert [s.metric for s in record.scores] == ["match/accuracy", "match/accuracy,harmonic"]
    assert [m.name for m in runs.measures(record)] == ["match/accuracy"]


def several_scorers() -> Log:
    log = log_of(
        [["C"], ["I"], ["C"]],
        scored("match", 2 / 3),
        scored("f1", 0.5, metric="mean"),
        scored("length", 4.0, metric="mean", scorer="both"),
        scored("ok", 1 / 3, scorer="both"),
    )
    others = [(0.25, 3, "C"), (0.25, 4, "I"), (1.0, 5, "I")]
    for sample, (f1, length, ok) in zip(log["samples"], others, strict=True):
        sample["scores"]["f1"] = {"value": f1}
        sample["scores"]["both"] = {"value": {"length": length, "ok": ok}}
    log["eval"]["scorers"] += [
        {"name": "f1", "options": {}, "metrics": [MEAN, STDERR]},
        {"name": "both", "options": {}, "metrics": {"length": [MEAN], "ok": [ACCURACY]}},
    ]
    return log


def test_several_scorers_have_a_score_each(tmp_path: Path) -> None:
    record, outcomes = read(written(tmp_path / "a.eval", several_scorers()))
    found = {s.metric: (s.unit, round(s.value, 3)) for s in record.scores}
    assert found == {
        "match/accuracy": ("%", 66.667),
        "f1/mean": ("%", 50.0),
        "both/length/mean": ("", 4.0),
        "both/ok/accuracy": ("%", 33.333),
    }
    assert values_of(outcomes, "both/length/mean") == [(3.0, 1.0), (4.0, 1.0), (5.0, 1.0)]
    kinds = {m.name: m.metric.proportion for m in runs.measures(record)}
    assert kinds == {
        "match/accuracy": True, "f1/mean": False, "both/length/mean": False,
        "both/ok/accuracy": True,
    }  # fmt: skip


def test_perplexity_per_token_is_of_all_tokens(tmp_path: Path) -> None:
    nats = [(3.0, 2), (1.0, 4)]
    value = math.exp(4 / 6)
    log = log_of([[1.5], [0.25]], scored("match", value, metric="perplexity_per_token"))
    log["eval"]["scorers"][0]["metrics"] = [{"name": "inspect_ai/perplexity_per_token"}]
    for sample, (sum_, tokens) in zip(log["samples"], nats, strict=True):
        sample["scores"]["match"]["metadata"] = {"sum_log_probs": -sum_, "num_tokens": tokens}
    record, outcomes = read(written(tmp_path / "a.eval", log))
    [score] = record.scores
    assert (score.unit, score.higher_is_better) == ("per token", False)
    assert score.totals == {"nats": 4.0, "tokens": 6.0}
    [measure] = runs.measures(record)
    sums = np.array(values_of(outcomes, score.metric)).sum(axis=0)
    assert float(measure.metric.compute(sums)) == pytest.approx(value)


@pytest.mark.parametrize(
    "metrics",
    [
        [{"name": "accuracy", "options": {}}],  # of the task's own file
        [{"name": "inspect_ai/accuracy", "options": {"to_float": "<function f at 0x7f>"}}],
    ],
)
def test_metrics_of_ones_own_are_not_compared(tmp_path: Path, metrics: list[Any]) -> None:
    log = edited(RIGHT, lambda log: log["eval"]["scorers"][0].update(metrics=metrics))
    log["results"]["scores"][0]["metrics"]["accuracy"]["value"] = 0.9
    record, outcomes = read(written(tmp_path / "a.eval", log))
    assert [score.value for score in record.scores] == [90.0]
    assert runs.measures(record) == ()
    assert not outcomes.metrics


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    log = edited(RIGHT, lambda log: log["results"]["scores"].append(scored("odd", math.nan)))
    record, _ = read(written(tmp_path / "a.json", log))
    assert [score.metric for score in record.scores] == ["match/accuracy"]
    assert record.notes == {"left out": "odd/accuracy (nan)"}


def test_messages_and_attachments_are_shown(tmp_path: Path) -> None:
    def talk(log: Log) -> None:
        sample = log["samples"][0]
        sample["input"] = [
            {"id": "random", "role": "system", "content": "be brief"},
            {"id": "random too", "role": "user", "content": "attachment://0a1b"},
        ]
        sample.update(attachments={"0a1b": "which colour?"}, target=["blue", "azure"])

    record, outcomes = read(written(tmp_path / "a.eval", edited(RIGHT, talk)))
    assert outcomes.shown[0] == ("which colour?", "blue | azure", "I say C")
    other = edited(RIGHT, talk)
    other["samples"][0]["input"][0]["id"] = "another"
    assert read(written(tmp_path / "b.eval", other))[0].data == record.data


def test_errors_and_limits_are_warnings(tmp_path: Path) -> None:
    def broken(log: Log) -> None:
        log["samples"][1].update(scores={}, error={"message": "ValueError('boom')"})
        log["samples"][2].update(limit={"type": "token", "limit": 5})
        log["results"].update(completed_samples=5)
        log["results"]["scores"][0]["metrics"]["accuracy"]["value"] = 4 / 5

    path = written(tmp_path / "a.eval", edited(RIGHT, broken))
    record, outcomes = read(path)
    assert record.warnings == (
        "samples that ended in an error: 1 of 6; compute them again with `inspect eval-retry`",
        "samples stopped by a limit: 1 of 6 (token: 1)",
    )
    assert record.signature.rows == "5/6"
    assert outcomes.metrics["match/accuracy"].examples == (0, 2, 3, 4, 5)
    [line] = compare(runs.load([path]), runs.load([written(tmp_path / "b.eval", WORSE)])).scores
    assert line.examples == 5


def test_a_subset_says_how_it_was_drawn(tmp_path: Path) -> None:
    def part(log: Log) -> None:
        log["eval"]["dataset"]["samples"] = 100
        log["eval"]["config"]["sample_shuffle"] = 7

    record, _ = read(written(tmp_path / "a.eval", edited(RIGHT, part)))
    assert record.signature.rows == "6/100~seed7"


def test_a_log_that_was_drained_says_so(tmp_path: Path) -> None:
    log = edited(RIGHT, lambda log: log["results"].update(total_samples=9, logged_samples=6))
    record, _ = read(written(tmp_path / "a.eval", log))
    assert record.warnings == ("the run was stopped after 6 of 9 samples",)


# --- several files ----------------------------------------------------------------------


def test_two_logs_are_compared(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a.eval", RIGHT), written(tmp_path / "b.json", WORSE)
    [line] = compare(runs.load([a]), runs.load([b])).scores
    assert (line.task, line.metric) == ("colours (inspect_ai)", "match/accuracy")
    assert line.difference.value == pytest.approx(-100 / 6)
    assert (line.difference.test, line.difference.lost, line.difference.won) == ("mcnemar", 2, 1)
    assert [flip.id for flip in line.flips] == ["q2", "q3", "q4"]


def test_right_or_wrong_is_what_both_runs_say(tmp_path: Path) -> None:
    partly = log_of([["C"], ["P"], ["C"], ["C"], ["I"], ["P"]], scored("match", 4 / 6))
    a, b = written(tmp_path / "a.eval", RIGHT), written(tmp_path / "b.eval", partly)
    for one, two in ((a, b), (b, a)):
        [line] = compare(runs.load([one]), runs.load([two])).scores
        assert (line.difference.test, line.difference.lost) == ("sign-flip", None)


def test_the_commands_read_logs(tmp_path: Path) -> None:
    a, b = written(tmp_path / "a" / "1.eval", RIGHT), written(tmp_path / "b" / "1.eval", WORSE)
    assert "match/accuracy" in harness("compare", a, b.parent).out
    assert harness("power", a, b).code == 0
    toml = tmp_path / "main.toml"
    assert harness("baseline", a.parent, "--out", toml).code == 0
    assert harness("check", b, "--baseline", toml).code == 0
    board = tmp_path / "board.csv"
    assert harness("leaderboard", "--records", tmp_path, "--out", board).code == 0
    assert "colours match/accuracy" in board.read_text("utf-8").partition("\n")[0]


def test_tasks_with_other_arguments_are_other_runs(tmp_path: Path) -> None:
    for subject in ("law", "art"):
        log = edited(RIGHT, lambda log, to=subject: log["eval"].update(
            task_id=to, task_args={"subject": to, "n": 3}, task_args_passed={"subject": to}
        ))  # fmt: skip
        written(tmp_path / f"{subject}.eval", log)
    (tmp_path / "logs.json").write_text("{}", "utf-8")
    (tmp_path / "eval-set.json").write_text("{}", "utf-8")
    protocols = [run.record.protocol for run in runs.load([tmp_path])]
    assert protocols == ["inspect_ai+subject=art", "inspect_ai+subject=law"]


def test_a_finished_attempt_replaces_the_others(tmp_path: Path) -> None:
    for name, status, hour in (("1", "cancelled", 1), ("2", "success", 2), ("3", "error", 3)):
        log = edited(RIGHT, lambda log, to=hour: log["eval"].update(created=f"2026-01-01T0{to}"))
        written(tmp_path / f"{name}.eval", {**log, "status": status})
    [run] = runs.load([tmp_path])
    assert run.file.endswith("2.eval")


def test_two_copies_of_a_run_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "1.eval", RIGHT)
    written(tmp_path / "1-scored.eval", RIGHT)
    line = reading_fails(tmp_path)
    assert "1-scored.eval' and '" in line
    assert "1.eval' hold the same run of inspect_ai; give one of them" in line


def test_without_samples_there_are_scores(tmp_path: Path) -> None:
    path = written(tmp_path / "a.eval", {**RIGHT, "samples": []})
    assert "run inspect_ai without --no-log-samples" in reading_fails(path)
    for need in ("no", "optional"):
        [run] = runs.load([path], need)  # type: ignore[arg-type]
        assert not run.has_outcomes
        assert runs.measures(run.record) == ()


# --- what is not the same ---------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda log: log["eval"].update(task_version="2-A"),
        lambda log: log["eval"].update(task_args={"subject": "law"}),
        lambda log: log["plan"]["steps"].insert(0, {"solver": "chain_of_thought", "params": {}}),
        lambda log: log["plan"]["config"].update(temperature=1.0),
        lambda log: log["plan"]["config"].update(system_message="be brief " * 9),
        lambda log: log["eval"]["config"].update(message_limit=3),
        lambda log: log["eval"]["scorers"][0].update(options={"model": "judge"}),
        lambda log: log["eval"].update(model_roles={"grader": {"model": "judge"}}),
        lambda log: log["samples"][3].update(target="grey"),
        lambda log: log["samples"][3].update(input="ash is"),
    ],
)
def test_other_questions_are_not_compared(tmp_path: Path, edit: Edit) -> None:
    a, b = written(tmp_path / "a.eval", RIGHT), written(tmp_path / "b.eval", edited(RIGHT, edit))
    [reason] = compare(runs.load([a]), runs.load([b])).not_compared
    assert reason.startswith("colours (inspect_ai): they measure different things")


@pytest.mark.parametrize(
    "edit",
    [
        lambda log: log["eval"].update(model="openai/other", model_base_url="http://here"),
        lambda log: log["plan"]["config"].update(max_connections=70, seed=5, timeout=3),
        lambda log: log["eval"]["packages"].update(inspect_ai="0.3.300"),
        lambda log: log["samples"].reverse(),
        # as other versions write the same
        lambda log: log["eval"].pop("scorers"),
        lambda log: log["plan"]["steps"][0].update(params={"cache": False}, params_passed=PASSED),
    ],
)
def test_other_circumstances_are_compared(tmp_path: Path, edit: Edit) -> None:
    a, b = written(tmp_path / "a.eval", RIGHT), written(tmp_path / "b.eval", edited(RIGHT, edit))
    assert not compare(runs.load([a]), runs.load([b])).not_compared


def test_other_models_have_other_digests(tmp_path: Path) -> None:
    edits: list[Edit] = [
        lambda log: None,
        lambda log: log["eval"].update(model="openai/other"),
        lambda log: log["eval"].update(model_base_url="http://here"),
        lambda log: log["eval"].update(model_args={"model_path": "/step2"}),
    ]
    paths = [written(tmp_path / f"{n}.eval", edited(RIGHT, edit)) for n, edit in enumerate(edits)]
    assert len({read(path)[0].model["digest"] for path in paths}) == 4


# --- odd files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda log: log.update(status="started"), "is still going on, or was killed"),
        (lambda log: log.update(status="killed"), "is still going on, or was killed"),
        (lambda log: log.update(status="cancelled"), "its run was cancelled; finish it with"),
        (lambda log: log.update(status="error"), "its run ended in an error"),
        (lambda log: log.update(invalidated=True), "samples that were declared invalid"),
        (lambda log: log["results"].update(scores=[]), "score it with `inspect score`"),
        (lambda log: log.update(results=None), "score it with `inspect score`"),
        (lambda log: log.update(version=1), "in version 1; expected version 2"),
        (lambda log: log["samples"].pop(), "has 5 of its 6 samples"),
        (
            lambda log: log["samples"][0]["scores"]["match"].update(value="I"),
            "does not give the reported score: its match/accuracy is 50 and not 66.6667",
        ),
        (lambda log: log["samples"][0].pop("target"), "KeyError: 'target'"),
        (lambda log: log["eval"].pop("dataset"), "is not a valid inspect_ai log file (KeyError"),
    ],
)
@pytest.mark.parametrize("suffix", [".eval", ".json"])
def test_odd_logs_are_refused(tmp_path: Path, suffix: str, edit: Edit, words: str) -> None:
    path = written(tmp_path / f"a{suffix}", edited(RIGHT, edit))
    if suffix == ".json" and json.loads(path.read_text())["status"] == "killed":
        words = "its run did not finish"
    line = reading_fails(path)
    assert words in line
    assert path.name in line


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_damaged_files_are_refused(tmp_path: Path, compression: int) -> None:
    """Whatever byte is changed: an error in one line, or the same scores."""
    path = written(tmp_path / "a.eval", RIGHT, compression)
    whole, expected = path.read_bytes(), read(path)[0].scores
    refusals: list[str] = []
    for place in range(0, len(whole), 97):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        path.write_bytes(changed)
        try:
            assert read(path)[0].scores == expected
        except RecordError as error:
            refusals.append(str(error))
    assert len(refusals) > len(whole) / 97 / 2
    assert not any("\n" in line for line in refusals)
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert "is damaged or not a log of inspect_ai" in reading_fails(path)


def test_the_command_says_it_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.eval"
    path.write_bytes(b"PK\x03\x04")
    assert "a.eval' is damaged or not a log of inspect_ai" in refused("compare", path, path)


def test_logs_are_recognised(tmp_path: Path) -> None:
    assert find.find(written(tmp_path / "a.json", RIGHT))[0].reader is inspect_ai
    assert not inspect_ai.recognises({"eval": {}, "plan": {}})
    assert not inspect_ai.recognises([])
    assert reported.number(True) is None
