"""Results of NeMo Evaluator: its answers give its own numbers, and odd files are refused.

The files are made here in the form in which NeMo Evaluator 0.4.0 writes them.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from console import harness

from harness.analysis import runs
from harness.analysis.compare import compare
from harness.errors import RecordError
from harness.records.outcomes import Outcomes
from harness.records.record import Record

Value = dict[str, Any]
Edit = Callable[[Value], object]

PROMPTS = ("the sky is", "grass is", "snow is", "coal is", "blood is", "the sun is")
ANSWERS = ("blue", "green", "white", "black", "red", "yellow")


def lines_of(rewards: Sequence[Sequence[float]]) -> list[Value]:
    """One line per answer; `rewards` has one row per problem, with a reward per repeat."""
    return [
        {
            "problem_idx": i,
            "repeat": repeat,
            "reward": reward,
            "scorer_rewards": {},
            "prompt": PROMPTS[i],
            "model_response": f"I say {reward}",
            "extracted_answer": "say",
            "expected_answer": ANSWERS[i],
            "scoring_details": {"method": "includes", "scorer:exact": {"correct": reward == 1}},
            "metadata": {"category": "odd" if i % 2 else "even"},
            "tokens": 3,
            "latency_ms": 0.5,
        }
        for i, row in enumerate(rewards)
        for repeat, reward in enumerate(row)
    ]


def results_of(lines: Sequence[Value], scores: Value, **config: Any) -> Value:
    problems = len({line["problem_idx"] for line in lines})
    return {
        "run_id": "eval-20261125T224955Z-colours",
        "config_hash": "sha256:d3a8",
        "sdk_version": "0.4.0",
        "timestamp": "2026-11-25T22:49:55.989666+00:00",
        "config": {
            "benchmark": "colours",
            "model": "base",
            "base_url": "http://localhost:8000/v1",
            "repeats": len(lines) // problems,
            "max_problems": None,
            "scorers": None,
            "_sandbox_config": "SandboxConfig(port=8123)",
            "shuffle_seed": None,
            "shuffle": {"seed": None, "applied": False, "ds_full_size": problems},
            **config,
        },
        "benchmark": {
            "name": "colours",
            "samples": problems,
            "repeats": len(lines) // problems,
            "scores": {
                **scores,
                "summary": {"mean": 0.5, "n": len(lines)},
                "runtime": {"total_steps": len(lines), "elapsed_seconds": 2.5},
                "failures": {"total_failures": 0},
            },
        },
        "n_results": len(lines),
    }


def score(value: float, **more: float) -> Value:
    return {"value": round(value, 4), "bootstrap_ci_lower": 0.3, "bootstrap_ci_upper": 0.9, **more}


def written(folder: Path, lines: Sequence[Value], results: Value) -> Path:
    """A run's folder, with the other files that NeMo Evaluator writes; returns the results."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "results.jsonl").write_text(text, "utf-8")
    for name in ("runtime_stats.json", "failure_analysis.json"):
        (folder / name).write_text("{}", "utf-8")
    (folder / "trajectories.jsonl").write_text("", "utf-8")
    path = folder / f"{results['run_id']}.json"
    path.write_text(json.dumps(results, indent=2), "utf-8")
    return path


BINARY = [[1.0], [0.0], [1.0], [1.0], [0.0], [1.0]]
WORSE = [[1.0], [0.0], [0.0], [0.0], [1.0], [1.0]]


def plain(folder: Path, rewards: Sequence[Sequence[float]] = BINARY, **config: Any) -> Path:
    """A run of one repeat whose rewards are 0 or 1."""
    lines = lines_of(rewards)
    value = sum(line["reward"] for line in lines) / len(lines)
    return written(folder, lines, results_of(lines, {"pass@1": score(value)}, **config))


def read(path: Path) -> tuple[Record, Outcomes]:
    [run] = runs.load([path])
    return run.record, run.outcomes


def reading_fails(path: Path) -> str:
    with pytest.raises(RecordError) as caught:
        runs.load([path])
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_record_says_what_the_files_say(tmp_path: Path) -> None:
    record, outcomes = read(plain(tmp_path))
    assert (record.task, record.origin) == ("colours", "nemo-evaluator")
    assert (record.examples, record.rows, record.limit, record.requests) == (6, 6, None, 6)
    assert (record.model["name"], record.seconds) == ("base", 2.5)
    assert re.fullmatch(
        r"colours\|origin:nemo-evaluator\|v:0\|p:nemo-evaluator\|o:repeats=1,version=unknown\|"
        r"data:colours@\w{8}\|n:6\|prompt:none\|tok:unknown\|ctx:unknown\|dtype:unknown\|"
        r"nemo_evaluator:0.4.0",
        str(record.signature),
    )
    [found] = record.scores
    assert (found.metric, found.unit, found.higher_is_better) == ("pass@1", "%", True)
    assert found.value == pytest.approx(400 / 6, rel=1e-12), "the digits that were rounded away"
    assert (found.low, found.high) == pytest.approx((30, 90))
    assert found.totals == {"right": 4.0, "items": 6.0}
    assert outcomes.ids == ("0", "1", "2", "3", "4", "5")
    assert outcomes.shown[1] == ("grass is", "green", "I say 0.0")
    assert runs.measures(record)[0].metric.proportion


def test_a_folder_a_result_file_and_its_samples_are_the_same(tmp_path: Path) -> None:
    path = plain(tmp_path / "colours")
    expected = read(path)
    assert read(tmp_path) == read(path.with_name("results.jsonl")) == expected


REPEATS = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


def test_repeats_of_a_problem_are_one_outcome(tmp_path: Path) -> None:
    lines = lines_of(REPEATS)
    scores = {
        "pass@1": score(0.5, ci_lower=0.4, ci_upper=0.6),
        "pass@3": score(0.75),
        "scorer:exact": score(0.5),
    }
    record, outcomes = read(written(tmp_path, lines[::-1], results_of(lines, scores)))
    values = {name: list(metric.values) for name, metric in outcomes.metrics.items()}
    assert [v for v, _ in values["pass@1"]] == pytest.approx([1 / 3, 2 / 3, 0, 1])
    assert values["pass@3"] == [(1, 1), (1, 1), (0, 1), (1, 1)]
    assert values["scorer:exact"] == [(1, 3), (2, 3), (0, 3), (3, 3)]
    assert [list(s.totals) for s in record.scores] == [
        ["sum", "items"], ["right", "items"], ["sum", "items"],
    ]  # fmt: skip
    assert (record.scores[0].low, record.scores[0].high) == pytest.approx((40, 60))
    assert record.options["repeats"] == 3


def test_pass_at_k_is_the_unbiased_estimate(tmp_path: Path) -> None:
    lines = lines_of(REPEATS)  # 1 - C(wrong, 2) / C(3, 2): 2/3, 1, 0 and 1
    path = written(tmp_path, lines, results_of(lines, {"pass@2": score(8 / 12)}))
    values = read(path)[1].metrics["pass@2"].values
    assert [v for v, _ in values] == pytest.approx([2 / 3, 1, 0, 1])


def test_rewards_of_any_scale_are_plain_means(tmp_path: Path) -> None:
    lines = lines_of([[0.25, 0.75], [3.0, 4.0], [0.0, 1.0]])
    path = written(tmp_path, lines, results_of(lines, {"mean_reward": score(4.5 / 3)}))
    record, outcomes = read(path)
    assert list(outcomes.metrics["mean_reward"].values) == [(0.5, 1), (3.5, 1), (0.5, 1)]
    assert (record.scores[0].unit, record.scores[0].totals) == ("", {"sum": 4.5, "items": 3.0})


def test_other_scores_are_not_compared(tmp_path: Path) -> None:
    lines = lines_of(BINARY)
    scores = {"pass@1": score(4 / 6), "ifeval": {"value": 0.25, "stats": {}}}
    record, _ = read(written(tmp_path, lines, results_of(lines, scores)))
    assert {s.metric: s.value for s in record.scores} == {
        "pass@1": pytest.approx(400 / 6), "ifeval": 0.25,
    }  # fmt: skip
    assert [m.name for m in runs.measures(record)] == ["pass@1"]


def test_answers_that_failed_are_a_warning(tmp_path: Path) -> None:
    lines = lines_of(BINARY)
    lines[1]["scoring_details"] = {"error": "timed out", "error_category": "infra_error"}
    lines[4]["scoring_details"] = {"judge": {"error": "no judge_client configured"}}
    record, _ = read(written(tmp_path, lines, results_of(lines, {"pass@1": score(4 / 6)})))
    assert record.warnings == (
        "answers that failed and count as wrong: 1 of 6 (infra_error: 1)",
        "answers that were not judged: 1 of 6",
    )


def test_a_subset_says_how_it_was_drawn(tmp_path: Path) -> None:
    path = plain(tmp_path, shuffle_seed=7, shuffle={"seed": 7, "ds_full_size": 100})
    assert read(path)[0].signature.rows == "6/100~seed7"


def test_two_runs_are_compared(tmp_path: Path) -> None:
    a, b = plain(tmp_path / "a"), plain(tmp_path / "b", WORSE, model="cand")
    [line] = compare(runs.load([a]), runs.load([b.parent])).scores
    assert line.task == "colours (nemo-evaluator)"
    assert line.difference.value == pytest.approx(-100 / 6)
    assert (line.difference.test, line.difference.lost, line.difference.won) == ("mcnemar", 2, 1)


def test_the_commands_read_results(tmp_path: Path) -> None:
    a, b = plain(tmp_path / "a"), plain(tmp_path / "b", WORSE, model="cand")
    assert "pass@1" in harness("compare", a.parent, b.parent).out
    assert harness("power", a, b).code == 0
    toml = tmp_path / "main.toml"
    assert harness("baseline", a.parent, "--out", toml).code == 0
    assert harness("check", b, "--baseline", toml).code == 0
    board = tmp_path / "board.csv"
    words = ("--records", a.parent, "--records", b.parent, "--out", board)
    assert harness("leaderboard", *words).code == 0
    assert "colours pass@1" in board.read_text("utf-8").partition("\n")[0]


@pytest.mark.parametrize(
    ("config", "edit"),
    [
        ({"temperature": 0.5}, lambda line: None),
        ({"system_prompt": "be brief " * 9}, lambda line: None),
        ({}, lambda line: line.update(prompt=line["prompt"].upper())),
        ({}, lambda line: line.update(expected_answer="grey")),
    ],
)
def test_other_questions_are_not_compared(tmp_path: Path, config: Value, edit: Edit) -> None:
    lines = lines_of(BINARY)
    for line in lines:
        edit(line)
    b = written(tmp_path / "b", lines, results_of(lines, {"pass@1": score(4 / 6)}, **config))
    [reason] = compare(runs.load([plain(tmp_path / "a")]), runs.load([b])).not_compared
    assert reason.startswith("colours (nemo-evaluator): they measure different things")


def test_other_circumstances_are_compared(tmp_path: Path) -> None:
    changes = {"base_url": "http://there", "seed": 3, "n_shards": 2, "_sandbox_config": "other"}
    a, b = plain(tmp_path / "a"), plain(tmp_path / "b", **changes)
    assert not compare(runs.load([a]), runs.load([b])).not_compared
    assert read(a)[0].model["digest"] != read(b)[0].model["digest"]


def test_a_later_run_in_a_folder_replaces_the_earlier(tmp_path: Path) -> None:
    first = plain(tmp_path)
    lines = lines_of(WORSE)
    later = results_of(lines, {"pass@1": score(0.5)})
    later.update(run_id="eval-20261126T000000Z-colours", timestamp="2026-11-26T00:00:00+00:00")
    path = written(tmp_path, lines, later)
    assert read(tmp_path) == read(tmp_path / "results.jsonl") == read(path)
    assert "its pass@1 is 50 and not 66.67" in reading_fails(first)


# --- odd files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda lines: lines.pop(), "has 5 of 6 answers"),
        (list.clear, "has 0 of 6 answers"),
        (lambda lines: lines[0].update(reward=0.0), "its pass@1 is 50 and not 66.67"),
        (lambda lines: lines[0].update(reward=math.nan), "problem 0 has the reward nan"),
        (lambda lines: lines[0].update(reward="good"), "could not convert string to float"),
        (lambda lines: lines[0].pop("reward"), "KeyError: 'reward'"),
        (lambda lines: lines[0].pop("problem_idx"), "KeyError: 'problem_idx'"),
        (lambda lines: lines.append(lines[2]), "problem 2 has 2 answers to repeat 0"),
        (lambda lines: lines.__setitem__(1, [1]), "is not a valid NeMo Evaluator samples file"),
    ],
)
def test_odd_samples_are_refused(
    tmp_path: Path, edit: Callable[[list[Any]], object], words: str
) -> None:
    lines = lines_of(BINARY)
    results = results_of(lines, {"pass@1": score(4 / 6)})
    edit(lines)
    line = reading_fails(written(tmp_path, lines, results))
    assert words in line
    assert "results.jsonl" in line


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda results: results["benchmark"].update(scores={}), "has no scores"),
        (lambda results: results["benchmark"].update(scores=[]), "not a valid NeMo Evaluator"),
        (lambda results: results["benchmark"].update(samples="six"), "not a valid NeMo Evaluator"),
        (lambda results: results.update(config=[1]), "not a valid NeMo Evaluator result file"),
    ],
)
def test_odd_results_are_refused(tmp_path: Path, edit: Edit, words: str) -> None:
    lines = lines_of(BINARY)
    results = results_of(lines, {"pass@1": score(4 / 6)})
    edit(results)
    assert words in reading_fails(written(tmp_path, lines, results))


def test_files_that_miss_are_named(tmp_path: Path) -> None:
    path = plain(tmp_path)
    samples = path.with_name("results.jsonl")
    samples.rename(tmp_path / "elsewhere.jsonl")
    assert "there are no samples: results.jsonl is missing" in reading_fails(path)
    assert not runs.load([path], "optional")[0].has_outcomes
    (tmp_path / "elsewhere.jsonl").rename(samples)
    path.unlink()
    assert "there is no eval-*.json next to" in reading_fails(samples)


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    path = plain(tmp_path)
    samples = path.with_name("results.jsonl")
    samples.write_text(samples.read_text("utf-8")[:-20], "utf-8")
    assert "line 6 of results.jsonl is not JSON" in reading_fails(path)
