"""The gate: baselines, verdicts, exit codes, and the reports that machines read."""

import hashlib
import json
import math
import os
import re
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from console import harness, made_record, refused
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.analysis.baseline import read as read_baseline
from harness.analysis.check import Verdict
from harness.analysis.rules.rule import Rule
from harness.analysis.rules.tiers import Status
from harness.core import Score
from harness.errors import RecordError
from harness.files.escape import printable
from harness.metrics import Metric
from harness.plugins.registry import load_task
from harness.records.folder import write
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown, pack
from harness.report import ci
from harness.task import Task

Rows = Sequence[tuple[float, ...]]
N = 400
ACC, PPL, LAST = "acc-word-stopfilter", "ppl", "acc-last-token"
NATS = [(float(1 + i % 3), 1.0) for i in range(N)]


@pytest.fixture(autouse=True)
def no_github(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


# --- runs made by hand --------------------------------------------------------------------


def right(*, lost: int = 0, won: int = 0) -> Rows:
    """240 of 400 are right, 60 %; the given numbers of right and of wrong ones flip."""
    return [(float(lost <= i < 240 or i >= N - won), 1.0) for i in range(N)]


def score(metric: str, rows: Rows) -> Score:
    """The value added up by Python: exp of a mean, or a share in percent."""
    first, units = (math.fsum(column) for column in list(zip(*rows, strict=True))[-2:])
    if metric == PPL:
        return Score(metric, math.exp(first / units), "per word", False, None, None, None, {})
    return Score(metric, 100 * first / units, "%", True, None, None, None, {})


def made(
    folder: Path,
    outcomes: Mapping[str, Rows],
    *,
    task: str = "lambada",
    ids: Sequence[int] = range(N),
    **changes: Any,
) -> Path:
    """A folder with a record of these outcomes, one per example."""
    numbers = tuple(range(len(ids)))
    values = {
        name: MetricOutcomes(numbers, tuple(tuple(map(float, rows[i])) for i in ids))
        for name, rows in outcomes.items()
    }
    items = Outcomes(tuple(map(str, ids)), tuple(Shown("", "", "") for _ in ids), values)
    fields = {
        "options": dict(load_task(task).protocol().options),
        "examples": len(ids),
        "scores": tuple(score(name, outcome.values) for name, outcome in values.items()),
        **changes,
    }
    write(made_record(task=task, outcomes=items, **fields), folder)
    return folder


def lambada(folder: Path, *, lost: int = 0, won: int = 0, nats: float = 0.0, **how: Any) -> Path:
    """A run of LAMBADA with flipped answers and `nats` more per word."""
    rows = {PPL: [(n + nats, 1.0) for n, _ in NATS], ACC: right(lost=lost, won=won)}
    return made(folder, rows, **how)


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """The runs that others are checked against."""
    return lambada(tmp_path / "held")


def baseline(held: Path, *words: object) -> Path:
    path = held.parent / "main.toml"
    result = harness("baseline", held, "--out", path, *words)
    assert result.code == 0, result.err
    return path


class Checked(NamedTuple):
    """What `harness check --json` says: exit code and the verdict of each score."""

    code: int
    verdicts: dict[str, Any]

    def status(self, metric: str) -> str:
        return str(self.verdicts[metric]["status"])


def check(run: Path, held: Path, *words: object) -> Checked:
    result = harness("check", run, "--baseline", held, "--json", *words)
    value = json.loads(result.out)
    assert result.out.count("\n") == 1
    assert value["exit"] == result.code
    return Checked(result.code, {verdict["metric"]: verdict for verdict in value["verdicts"]})


def worse_p(lost: int, won: int) -> float:
    """One-sided McNemar."""
    return float(stats.binomtest(lost, lost + won, alternative="greater").pvalue)


# --- the baseline's file ------------------------------------------------------------------


def test_a_baseline_is_toml_with_values_and_rules(held: Path) -> None:
    path = baseline(held, "--alpha", 0.01)
    value = tomllib.loads(path.read_text("utf-8"))
    assert (value["schema"], value["alpha"], value["runs"]) == (2, 0.01, "main.runs.json.gz")
    [about] = value["run"]
    assert (about["task"], about["protocol"], about["examples"]) == ("lambada", "paper", N)
    assert about["signature"].startswith("lambada|v:2|p:paper|")
    assert [s["metric"] for s in value["score"]] == [PPL, ACC]
    assert [s["rule"] for s in value["score"]] == ["paired", "paired"]
    assert [s["delta"] for s in value["score"]] == [0, 0]
    assert value["score"][0]["value"] == pytest.approx(math.exp(math.fsum(n for n, _ in NATS) / N))
    assert value["score"][1]["value"] == 60


def test_a_baseline_explains_every_rule(held: Path) -> None:
    comments = [x for x in baseline(held).read_text("utf-8").split("\n") if x.startswith("#")]
    for kind in ("paired", "absolute", "relative", "report"):
        assert any(f'rule = "{kind}"' in line for line in comments)


def test_the_newest_of_two_runs_counts(tmp_path: Path) -> None:
    for day, lost in ((1, 0), (3, 40), (2, 80)):
        created = f"2026-01-0{day}T00:00:00+00:00"
        model = {**made_record().model, "digest": f"{day}" * 64}
        lambada(tmp_path / "held", lost=lost, created=created, model=model)
    value = tomllib.loads(baseline(tmp_path / "held").read_text("utf-8"))
    assert value["score"][1]["value"] == 50
    assert value["run"][0]["created"].startswith("2026-01-03")


@pytest.mark.parametrize(
    ("rule", "kind", "number"),
    [("paired:0.5", "paired", {"delta": 0.5}), ("absolute:1.5", "absolute", {"tolerance": 1.5}),
     ("relative:0.02", "relative", {"tolerance": 0.02}), ("report", "report", {})],
)  # fmt: skip
def test_one_rule_for_every_score(
    held: Path, rule: str, kind: str, number: dict[str, float]
) -> None:
    value = tomllib.loads(baseline(held, "--rule", rule).read_text("utf-8"))
    for entry in value["score"]:
        assert entry["rule"] == kind
        assert {k: entry[k] for k in ("delta", "tolerance") if k in entry} == number


def questions(folder: Path) -> Path:
    """A run of NQ; `em-top-1%` is over some of the examples, which each run chooses."""
    rows: dict[str, Rows] = {"em": right(), "em-top-1%": [(0.5, *row) for row in right()]}
    return made(folder, rows, task="nq")


@pytest.mark.parametrize(
    ("words", "rules"),
    [
        ([], ["paired", "report"]),
        (["--rule", "paired:1"], ["paired", "report"]),
        (["--rule", "absolute:1"], ["absolute", "absolute"]),
    ],
)
def test_scores_of_a_part_are_not_tested_in_pairs(
    tmp_path: Path, words: list[str], rules: list[str]
) -> None:
    path = baseline(questions(tmp_path / "held"), *words)
    scores = tomllib.loads(path.read_text("utf-8"))["score"]
    assert [(s["metric"], s["rule"]) for s in scores] == [
        ("em", rules[0]), ("em-top-1%", rules[1])
    ]  # fmt: skip
    assert check(tmp_path / "held", path).code == 0


@pytest.mark.parametrize(
    "rule", ["exact", "paired:x", "absolute:-1", "relative:nan", "absolute:inf", ":1", ""]
)
def test_a_rule_that_is_none_is_refused(held: Path, rule: str) -> None:
    if not rule:
        assert "no record in" in refused("baseline", held.parent / "gone", "--rule", rule)
        return
    out = held.parent / "main.toml"
    line = refused("baseline", held, "--out", out, "--rule", rule)
    assert f"rule {rule!r}: expected " in line
    assert not out.exists()


@pytest.mark.parametrize("alpha", ["0", "1", "1.5", "-0.1", "x", "nan"])
def test_a_level_out_of_range_is_refused(held: Path, alpha: str) -> None:
    out = held.parent / "main.toml"
    assert "--alpha" in refused("baseline", held, "--out", out, "--alpha", alpha)
    assert not out.exists()


def test_a_baseline_that_cannot_be_written(held: Path) -> None:
    (held.parent / "file").write_text("mine")
    line = refused("baseline", held, "--out", held.parent / "file" / "main.toml")
    assert "cannot write" in line
    assert (held.parent / "file").read_text() == "mine"


# --- exit codes ---------------------------------------------------------------------------


def test_the_same_run_passes(held: Path) -> None:
    result = harness("check", held, "--baseline", baseline(held))
    assert result.code == 0
    assert "2 no regression seen" in result.out
    assert "regression" not in result.out.replace("no regression", "")


def test_a_run_that_is_worse_fails_and_is_named(held: Path, tmp_path: Path) -> None:
    run = lambada(tmp_path / "run", lost=40, won=4)
    result = harness("check", run, "--baseline", baseline(held))
    assert result.code == 1
    [line] = [x for x in result.out.split("\n") if x.startswith("regression")]
    assert line.split()[:6] == ["regression", "lambada", ACC, "60.00", "51.00", "-9.00"]
    assert "1 no regression seen, 1 regression" in result.out


def test_the_p_of_a_regression_is_mcnemars_after_holm(held: Path, tmp_path: Path) -> None:
    found = check(lambada(tmp_path / "run", lost=40, won=4), baseline(held))
    assert found.code == 1
    assert (found.status(ACC), found.status(PPL)) == ("regression", "no regression seen")
    line = found.verdicts[ACC]["score"]
    assert (line["difference"]["lost"], line["difference"]["won"], line["examples"]) == (40, 4, N)
    assert line["difference"]["value"] == pytest.approx(-9)
    assert line["difference"]["p_worse"] == pytest.approx(worse_p(40, 4))
    assert found.verdicts[ACC]["p"] == pytest.approx(2 * worse_p(40, 4)), "two paired rules"
    assert found.verdicts[PPL]["p"] == 1


def test_a_perplexity_gets_worse_upwards(held: Path, tmp_path: Path) -> None:
    path = baseline(held)
    up = check(lambada(tmp_path / "up", nats=0.1), path)
    down = check(lambada(tmp_path / "down", nats=-0.1), path)
    assert (up.code, up.status(PPL)) == (1, "regression")
    assert (down.code, down.status(PPL)) == (0, "improved")
    before = math.exp(math.fsum(n for n, _ in NATS) / N)
    found = up.verdicts[PPL]["score"]["difference"]
    assert (found["a"], found["b"]) == pytest.approx((before, before * math.exp(0.1)))


def test_an_improvement_is_said_and_never_fails(held: Path, tmp_path: Path) -> None:
    path = baseline(held)
    run = lambada(tmp_path / "run", won=40)
    result = harness("check", run, "--baseline", path)
    assert result.code == 0
    assert re.search(rf"(?m)^improved +lambada +{ACC} .*\+10\.00 ", result.out)
    assert "better by 10" in " ".join(result.out.split())
    assert "1 improved" in result.out


PROMPT = made_record().prompt
DATA = made_record().data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 3}, "version: 2 / 3"),
        ({"options": {**load_task("lambada").protocol().options, "quotes": "off"},
          "protocol": "paper+quotes=off"}, "options: quotes=on / quotes=off"),
        ({"data": {**DATA, "sha256": "ee" * 32}}, "data: x.jsonl@c3c3c3c3 / x.jsonl@eeeeeeee"),
        ({"prompt": {"name": "lambada.txt", "sha256": "ff" * 32}}, "prompt: d4d4d4d4 / ffffffff"),
    ],
)  # fmt: skip
def test_another_measurement_is_not_comparable(
    held: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    found = check(lambada(tmp_path / "run", **change), baseline(held))
    assert found.code == 2
    for metric in (PPL, ACC):
        assert found.status(metric) == "not comparable"
        assert words in found.verdicts[metric]["reason"]


def test_a_baseline_of_a_version_that_is_not_installed(tmp_path: Path) -> None:
    held = lambada(tmp_path / "held")
    path = baseline(held)
    newer = lambada(tmp_path / "newer", version=3)
    line = refused("baseline", newer, "--out", tmp_path / "newer.toml")
    assert "lambada version 3, installed is version 2" in line
    assert check(newer, path).code == 2


def test_a_missing_run_is_not_comparable(held: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "run", {"acc": right()}, task="cbt-cn")
    found = check(other, baseline(held))
    assert found.code == 2
    assert set(found.verdicts) == {PPL, ACC}, "runs that the baseline does not have are ignored"
    assert found.verdicts[ACC]["reason"] == "there is no run of lambada, paper to check"


def test_a_missing_score_is_not_comparable(held: Path, tmp_path: Path) -> None:
    found = check(made(tmp_path / "run", {PPL: NATS}), baseline(held))
    assert found.code == 2
    assert (found.status(PPL), found.status(ACC)) == ("no regression seen", "not comparable")
    assert found.verdicts[ACC]["reason"] == "the run has no such score"


@pytest.mark.parametrize(
    ("common", "words"), [(1, "too few"), (0, "no example of lambada in common")]
)
def test_too_few_pairs_are_not_comparable(
    held: Path, tmp_path: Path, common: int, words: str
) -> None:
    rows: dict[str, Rows] = {PPL: NATS * 2, ACC: [*right(lost=240), *right()]}
    run = made(tmp_path / "run", rows, ids=range(N - common, 2 * N - common))
    found = check(run, baseline(held))
    assert found.code == 2
    assert found.status(ACC) == "not comparable"
    assert words in found.verdicts[ACC]["reason"]


@pytest.mark.parametrize("rule", ["paired", "proved:2", "pooled"])
def test_one_example_decides_nothing_at_any_level(tmp_path: Path, rule: str) -> None:
    held = lambada(tmp_path / "held")
    run = made(tmp_path / "run", {PPL: NATS * 2, ACC: [*right()] * 2}, ids=range(N - 1, 2 * N - 1))
    found = check(run, baseline(held, "--rule", rule, "--alpha", 0.7))
    assert found.code == 2
    assert "regression" not in {found.status(ACC), found.status(PPL)}


def test_a_score_of_a_part_is_not_called_too_small(tmp_path: Path) -> None:
    """If somebody edits its rule, the verdict says why there is no test."""
    held = questions(tmp_path / "held")
    path = edited(baseline(held), 'rule = "report"', 'rule = "paired"\ndelta = 0')
    found = check(held, path)
    assert found.status("em") == "no regression seen"
    assert found.status("em-top-1%") == "not comparable"
    assert "too few" not in found.verdicts["em-top-1%"]["reason"], "there are 400 examples"


def test_a_regression_wins_over_what_is_not_comparable(tmp_path: Path) -> None:
    held = lambada(tmp_path / "held")
    made(held, {"acc": right()}, task="cbt-cn")
    found = check(lambada(tmp_path / "run", lost=40), baseline(held))
    assert found.code == 1
    assert (found.status("acc"), found.status(ACC)) == ("not comparable", "regression")


def test_a_part_of_the_items_is_compared_on_what_is_common(held: Path, tmp_path: Path) -> None:
    """The first 100 examples: right in the baseline, of which 30 are lost."""
    run = lambada(tmp_path / "run", lost=30, ids=range(100), limit=100)
    found = check(run, baseline(held))
    assert found.code == 1
    line = found.verdicts[ACC]["score"]
    assert (line["examples"], line["difference"]["pairs"]) == (100, 100)
    assert (line["difference"]["a"], line["difference"]["b"]) == (100, 70)
    assert "rows: 400 / 100~seed0" in found.verdicts[ACC]["note"]


def test_runs_of_several_checkpoints_are_said(held: Path, tmp_path: Path) -> None:
    lambada(tmp_path / "run")
    model = {**made_record().model, "digest": "7" * 64, "name": "other"}
    lambada(tmp_path / "run", model=model)
    path = baseline(held)
    result = harness("check", tmp_path / "run", "--baseline", path)
    assert result.code == 0
    assert "note: the runs are of 2 checkpoints: " in result.err
    assert "checkpoints" not in harness("check", held, "--baseline", path).err


def test_other_circumstances_are_marked_and_checked(held: Path, tmp_path: Path) -> None:
    model = {**made_record().model, "dtype": "bfloat16"}
    result = harness("check", lambada(tmp_path / "run", model=model), "--baseline", baseline(held))
    assert result.code == 0
    note = "note: lambada: the signatures differ in dtype: float32 / bfloat16"
    assert result.out.count(note) == 1


def test_a_reason_is_shown_as_it_is(tmp_path: Path) -> None:
    """A folder's name in brackets is not read as a style, and one in colons not as an emoji."""
    path = baseline(lambada(tmp_path / "held", ids=range(5, N)))
    run = lambada(tmp_path / "[bold]:key:", ids=range(5))
    [record] = run.rglob("*.json")
    result = harness("check", run, "--baseline", path)
    assert result.code == 2
    reason = f"the baseline main.toml and {record} have no example of lambada in common"
    assert "".join(reason.split()) in "".join(result.out.split())


# --- rules at their edges -----------------------------------------------------------------

EDGES = [
    ("absolute:2.5", 10, "within tolerance"),  # 2.5 points
    ("absolute:2.5", 11, "regression"),
    ("absolute:0", 0, "within tolerance"),
    ("absolute:0", 1, "regression"),
    ("relative:0.25", 60, "within tolerance"),  # a quarter of 60 % are 15 points
    ("relative:0.25", 61, "regression"),
    ("relative:0", 1, "regression"),
    ("report", 240, "reported"),
    ("paired:0", 5, "no regression seen"),  # p = 1/32, times two
    ("paired:0", 6, "regression"),  # p = 1/64, times two
    ("paired:10", 40, "no regression seen"),  # 10 points, surely worse, and allowed
    ("paired:10", 41, "regression"),
    ("paired:1", 5, "no regression seen"),  # worse by more than 1 point, but not surely
]


@pytest.mark.parametrize(("rule", "lost", "status"), EDGES)
def test_a_rule_fails_beyond_its_edge_alone(
    held: Path, tmp_path: Path, rule: str, lost: int, status: str
) -> None:
    found = check(lambada(tmp_path / "run", lost=lost), baseline(held, "--rule", rule))
    assert found.status(ACC) == status
    assert found.code == (1 if status == "regression" else 0)


@pytest.mark.parametrize(("nats", "status"), [(5e-6, "no regression seen"), (5e-5, "regression")])
def test_a_bias_in_the_last_digits_is_no_regression(
    tmp_path: Path, held: Path, nats: float, status: str
) -> None:
    """Every word is worse by as much: the test is sure of it, and only its size tells."""
    worse = lambada(tmp_path / "worse", nats=nats)
    found = check(worse, baseline(held))
    assert found.verdicts[PPL]["p"] < 0.01
    assert found.status(PPL) == status


@pytest.mark.parametrize(
    ("rule", "won", "status"),
    [
        ("absolute:2.5", 10, "within tolerance"),
        ("absolute:2.5", 11, "improved"),
        ("relative:0.25", 60, "within tolerance"),
        ("relative:0.25", 61, "improved"),
        ("report", 160, "reported"),
        ("paired:0", 5, "no regression seen"),  # two-sided p = 2/32
        ("paired:0", 6, "improved"),
        ("paired:10", 40, "no regression seen"),
        ("paired:10", 41, "improved"),
    ],
)
def test_better_than_the_edge_is_an_improvement(
    held: Path, tmp_path: Path, rule: str, won: int, status: str
) -> None:
    found = check(lambada(tmp_path / "run", won=won), baseline(held, "--rule", rule))
    assert (found.code, found.status(ACC)) == (0, status)


@pytest.mark.parametrize(("share", "code"), [(0.11, 0), (0.10, 1)])
def test_a_relative_rule_of_a_perplexity(
    held: Path, tmp_path: Path, share: float, code: int
) -> None:
    """0.1 nats more a word are 10.5 % more perplexity."""
    path = baseline(held, "--rule", f"relative:{share}")
    assert check(lambada(tmp_path / "run", nats=0.1), path).code == code


# --- rules edited by hand -----------------------------------------------------------------


def edited(path: Path, old: str, new: str) -> Path:
    """The baseline with the last place of some words changed."""
    before, found, after = path.read_text("utf-8").rpartition(old)
    assert found, f"{old!r} is not in the baseline"
    path.write_text(before + new + after, "utf-8")
    return path


def with_rule(path: Path, metric: str, value: float, rule: str, task: str = "lambada") -> Path:
    """The baseline with one more rule."""
    entry = f'task = "{task}"\nprotocol = "paper"\nmetric = "{metric}"\nvalue = {value!r}\n{rule}\n'
    path.write_text(f"{path.read_text('utf-8')}\n[[score]]\n{entry}", "utf-8")
    return path


def test_an_edited_rule_is_obeyed(held: Path, tmp_path: Path) -> None:
    run = lambada(tmp_path / "run", lost=40)
    path = baseline(held)
    assert check(run, path).code == 1
    edited(path, 'rule = "paired"\ndelta = 0.0', 'rule = "absolute"\ntolerance = 10.0')
    assert check(run, path).code == 0
    edited(path, "tolerance = 10.0", "tolerance = 9.5")
    assert check(run, path).code == 1
    edited(path, 'rule = "absolute"\ntolerance = 9.5', 'rule = "report"')
    assert check(run, path).code == 0
    edited(path, 'rule = "report"', 'rule = "paired"\ndelta = 10')
    assert check(run, path).code == 0


def test_an_edited_level_is_obeyed(held: Path, tmp_path: Path) -> None:
    run = lambada(tmp_path / "run", lost=5)
    path = baseline(held)
    assert check(run, path).code == 0, "p is 2/32"
    assert check(run, edited(path, "alpha = 0.05", "alpha = 0.07")).code == 1


def test_a_rule_can_be_taken_out_and_added(tmp_path: Path) -> None:
    rows = {PPL: NATS, ACC: right(), LAST: right()}
    held = made(tmp_path / "held", rows)
    path = baseline(held)
    edited(path, f'metric = "{ACC}"', f'metric = "{LAST}"')
    run = made(tmp_path / "run", {**rows, ACC: right(lost=200)})
    assert set(check(run, path).verdicts) == {PPL, LAST}
    assert check(run, path).code == 0
    assert check(run, with_rule(path, ACC, 60.0, 'rule = "absolute"\ntolerance = 1')).code == 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("value = 60.0", "value = 59.0", "is 59.0 there and 60.0 in the runs; values cannot be"),
        (f'metric = "{ACC}"', 'metric = "acc"', "no score lambada paper acc (available: ppl"),
        (f'metric = "{ACC}"', "metric = 5", "main.toml"),
        ('task = "lambada"', 'task = "lamda"', "no score lamda paper acc-word-stopfilter"),
        ('protocol = "paper"', 'protocol = "lm-eval"', "no score lambada lm-eval"),
        ('rule = "paired"', 'rule = "strict"', "expected one of proved, paired, absolute,"),
        ('rule = "paired"', 'rule = "absolute"', "tolerance"),
        ('rule = "paired"', "", "rule"),
        ("delta = 0.0", "delta = -1", "a number that is not negative"),
        ("delta = 0.0", "delta = nan", "a number that is not negative"),
        ("delta = 0.0", "delta = inf", "a number that is not negative"),
        ("delta = 0.0", 'delta = "little"', "a number that is not negative"),
        ("schema = 2", "schema = 3", "expected a file of kind 'baseline' and schema 2 or 1"),
        ('kind = "baseline"', 'kind = "jitter"', "got kind 'jitter' and schema 2"),
        ("alpha = 0.05", "alpha = 0.0", "alpha 0.0; expected a level between 0 and 1"),
        ("alpha = 0.05", "alpha = 1", "a level between 0 and 1"),
        ("alpha = 0.05", "alpha = -0.05", "a level between 0 and 1"),
        ("alpha = 0.05", "alpha = nan", "a level between 0 and 1"),
        ("alpha = 0.05", 'alpha = "low"', "is not a valid baseline file"),
        ("alpha = 0.05", "", "is not a valid baseline file"),
        ("alpha = 0.05", "alpha: 0.05", "is not a valid baseline file"),
        ("sha256 = ", "sha1 = ", "is not a valid baseline file"),
        ("main.runs.json.gz", "gone.runs.json.gz", "gone.runs.json.gz': No such file"),
        ("main.runs.json.gz", "", "is not a valid baseline file"),
    ],
)  # fmt: skip
def test_a_baseline_edited_wrongly_is_refused(held: Path, old: str, new: str, words: str) -> None:
    path = edited(baseline(held), old, new)
    line = refused("check", held, "--baseline", path)
    assert words in line


def test_a_baseline_that_is_not_there(held: Path) -> None:
    line = refused("check", held, "--baseline", held.parent / "gone.toml")
    assert "cannot read" in line
    assert "gone.toml': No such file or directory" in line


OTHER_KIND = "odd.toml': expected a file of kind 'baseline' and schema 2 or 1, got "
NOT_VALID = "odd.toml' is not a valid baseline file "


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", f"{OTHER_KIND}something else"),
        (b"\xff\xfe", f"{NOT_VALID}(UnicodeDecodeError: "),
        (b"[1, 2]", f"{NOT_VALID}(TOMLDecodeError: "),
        (b"schema = 1\n", f"{OTHER_KIND}kind 'record' and schema 1"),
        (b"score = 3", f"{OTHER_KIND}something else"),
        (b"schema = 1\nscore = 3", f"{NOT_VALID}(KeyError: 'runs')"),
        (b"alpha = " + b"[" * 100_000, f"{NOT_VALID}(RecursionError: "),
        (b"alpha = " + b"9" * 5000, f"{NOT_VALID}(ValueError: Exceeds the limit (4300 digits)"),
        (
            b"schema = 1\nsha256 = ''\nruns = 'odd.toml'\nalpha = " + b"9" * 400,
            f"{OTHER_KIND}kind 'baseline runs' and schema 1",
        ),
        (
            b"kind = 'baseline'\nschema = 2\nscore = []\nsha256 = ''\nruns = 'odd.toml'\nalpha = "
            + b"9" * 400,
            f"{NOT_VALID}(OverflowError: ",
        ),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_other_files_are_no_baseline(held: Path, content: bytes, expected: str) -> None:
    path = held.parent / "odd.toml"
    path.write_bytes(content)
    line = refused("check", held, "--baseline", path)
    assert expected in line
    assert line.endswith("; write one with harness baseline")


def rules_or_refusal(path: Path) -> Mapping[Any, Rule] | str:
    try:
        return read_baseline(path).rules
    except RecordError as error:
        return str(error)


def test_a_baseline_cut_at_any_byte_is_refused_or_keeps_whole_rules(held: Path) -> None:
    path = baseline(held)
    whole = read_baseline(path).rules
    for length in reversed(range(path.stat().st_size)):
        os.truncate(path, length)
        found = rules_or_refusal(path)
        assert "\n" not in found if isinstance(found, str) else found.items() <= whole.items()


@pytest.mark.parametrize("runs", [None, 3, [3], [{}], [{"record": {}, "outcomes": {}}]], ids=str)
def test_odd_runs_under_their_own_checksum_are_refused(held: Path, runs: object) -> None:
    path = baseline(held)
    packed = pack({"kind": "baseline runs", "schema": 2, "runs": runs})
    (held.parent / "main.runs.json.gz").write_bytes(packed)
    lines = path.read_text("utf-8").split("\n")
    digest = hashlib.sha256(packed).hexdigest()
    changed = [f'sha256 = "{digest}"' if s.startswith("sha256 = ") else s for s in lines]
    path.write_text("\n".join(changed), "utf-8")
    assert "main.toml" in refused("check", held, "--baseline", path)


@pytest.mark.parametrize("damage", ["missing", "of another baseline", "cut", "empty"])
def test_the_runs_beside_a_baseline_belong_to_it(held: Path, damage: str) -> None:
    path = baseline(held)
    beside = held.parent / "main.runs.json.gz"
    data = beside.read_bytes()
    if damage == "missing":
        beside.unlink()
    elif damage == "of another baseline":
        other = baseline(lambada(held.parent / "other" / "runs", lost=1))
        beside.write_bytes(other.with_name("main.runs.json.gz").read_bytes())
    else:
        beside.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    line = refused("check", held, "--baseline", path)
    missing = "main.runs.json.gz': No such file"
    assert (missing if damage == "missing" else "are not its own: the checksum differs") in line


def test_a_run_that_is_damaged_is_refused(held: Path, tmp_path: Path) -> None:
    path = baseline(held)
    [record] = held.rglob("*.json")
    record.write_bytes(record.read_bytes()[:-10])
    assert "is not a JSON file" in refused("check", held, "--baseline", path)
    assert "no record in" in refused("check", tmp_path / "gone", "--baseline", path)


# --- several paired rules -----------------------------------------------------------------


def test_two_small_p_do_not_fail_together(tmp_path: Path) -> None:
    """p is 0.03 for each score: one of them alone fails at 0.05, both together do not."""
    assert 0.03 < worse_p(9, 2) < 0.035
    rows = {PPL: NATS, ACC: right(), LAST: right()}
    worse = {PPL: NATS, ACC: right(lost=9, won=2), LAST: right(lost=9, won=2)}
    held, run = made(tmp_path / "held", rows), made(tmp_path / "run", worse)
    path = edited(baseline(held, "--rule", "report"), 'rule = "report"',
                  'rule = "paired"\ndelta = 0')  # fmt: skip
    alone = check(run, path)
    assert (alone.code, alone.status(ACC)) == (1, "regression")
    assert alone.verdicts[ACC]["p"] == pytest.approx(worse_p(9, 2))
    both = check(run, with_rule(path, LAST, 60.0, 'rule = "paired"\ndelta = 0'))
    assert both.code == 0
    assert [both.verdicts[m]["p"] for m in (ACC, LAST)] == pytest.approx([2 * worse_p(9, 2)] * 2)


def test_holm_counts_paired_rules_of_all_benchmarks(tmp_path: Path) -> None:
    losses = {"lambada": 8, "cbt-cn": 6}
    held = lambada(tmp_path / "held")
    made(held, {"acc": right()}, task="cbt-cn")
    run = lambada(tmp_path / "run", lost=losses["lambada"])
    made(run, {"acc": right(lost=losses["cbt-cn"])}, task="cbt-cn")
    found = check(run, baseline(held))
    small, middle = worse_p(8, 0), worse_p(6, 0)  # and 1 of the perplexity
    assert found.verdicts[ACC]["p"] == pytest.approx(3 * small)
    assert found.verdicts["acc"]["p"] == pytest.approx(2 * middle)
    assert found.verdicts[PPL]["p"] == 1
    assert found.code == 1


# --- what scores move by on their own -----------------------------------------------------


def jitter_file(path: Path, largest: float, metric: str = ACC, task: str = "lambada") -> Path:
    line = {"task": task, "protocol": "paper", "metric": metric, "unit": "%", "value": 60.0,
            "largest": largest, "formats": {}}  # fmt: skip
    path.write_text(json.dumps({"schema": 1, "movements": [line]}), "utf-8")
    return path


@pytest.mark.parametrize("rule", ["paired:0", "absolute:0", "absolute:4", "relative:0.05"])
def test_jitter_is_the_least_tolerance(held: Path, tmp_path: Path, rule: str) -> None:
    path = baseline(held, "--rule", rule)
    run = lambada(tmp_path / "run", lost=20)  # 5 points
    assert check(run, path).code == 1
    for largest, code in ((5.0, 0), (4.75, 1)):
        noise = jitter_file(tmp_path / "jitter.json", largest)
        assert check(run, path, "--jitter", noise).code == code


def test_jitter_never_lowers_a_tolerance(held: Path, tmp_path: Path) -> None:
    noise = jitter_file(tmp_path / "jitter.json", 0.0)
    run = lambada(tmp_path / "run", lost=20)
    assert check(run, baseline(held, "--rule", "absolute:5"), "--jitter", noise).code == 0


def test_jitter_of_other_scores_does_not_count(held: Path, tmp_path: Path) -> None:
    run = lambada(tmp_path / "run", lost=20)
    path = baseline(held)
    for metric, task in ((PPL, "lambada"), (ACC, "nq")):
        noise = jitter_file(tmp_path / "jitter.json", 50.0, metric, task)
        assert check(run, path, "--jitter", noise).code == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "jitter.json' is not a JSON file: Expecting value"),
        ("no", "jitter.json' is not a JSON file: Expecting value"),
        ("[" * 100_000, "jitter.json' is not a JSON file: nested too deeply"),
        ("{}", "jitter.json': expected a file of kind 'jitter' and schema 2 or 1, got something"),
        ('{"schema": 1, "movements": [3]}', "jitter.json' is not a valid jitter file (TypeError: "),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_a_file_that_is_no_jitter_is_refused(held: Path, content: str, expected: str) -> None:
    path = held.parent / "jitter.json"
    path.write_text(content)
    assert expected in refused("check", held, "--baseline", baseline(held), "--jitter", path)


def test_a_missing_jitter_file_is_named(held: Path) -> None:
    gone = held.parent / "gone.json"
    line = refused("check", held, "--baseline", baseline(held), "--jitter", gone)
    assert "gone.json': No such file" in line


# --- JUnit --------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, Path]:
    """A run and a baseline with a rule of each fate: failing, missing, reported and fine."""
    held = made(tmp_path / "held", {PPL: NATS, ACC: right(), LAST: right()})
    made(held, {"acc": right()}, task="cbt-cn")
    run = made(tmp_path / "run", {PPL: NATS, ACC: right(lost=40), LAST: right()})
    path = baseline(held)
    head, ppl, tail = path.read_text("utf-8").partition(f'metric = "{PPL}"')
    reported = tail.replace('rule = "paired"\ndelta = 0.0', 'rule = "report"', 1)
    path.write_text(head + ppl + reported, "utf-8")
    return run, with_rule(path, LAST, 60.0, 'rule = "absolute"\ntolerance = 1')


def test_junit_has_a_case_a_score_and_counts(mixed: tuple[Path, Path], tmp_path: Path) -> None:
    run, path = mixed
    report = tmp_path / "new" / "junit.xml"
    found = check(run, path, "--junit", report)
    assert found.code == 1
    root = ET.fromstring(report.read_bytes())
    assert root.tag == "testsuites"
    [suite] = root
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    cases = {(c.get("classname"), c.get("name")): c for c in suite.iter("testcase")}
    fates = {key: [child.tag for child in case] for key, case in cases.items()}
    assert fates == {
        ("cbt-cn.paper", "acc"): ["error"],
        ("lambada.paper", PPL): ["skipped"],
        ("lambada.paper", ACC): ["failure"],
        ("lambada.paper", LAST): ["system-out"],
    }
    message = cases["lambada.paper", ACC][0].get("message")
    assert message is not None
    assert message.startswith(f"lambada {ACC}: 60.0000 -> 50.0000 %; worse by 10, one-sided p ")


def verdict(status: Status = "regression", **names: str) -> Verdict:
    texts = {"task": "lambada", "protocol": "paper", "metric": ACC, "reason": "worse", **names}
    return Verdict(status=status, rule=Rule("paired"), **texts)  # type: ignore[arg-type]


STATUSES: tuple[Status, ...] = get_args(Status)
HOSTILE = st.text(st.sampled_from('|\n\r%<&"\x01') | st.characters(), max_size=8)
"""Any code point, halves of pairs included, and often those that mean something."""


@pytest.mark.parametrize("text", ['"it\'s" <b> & ]]> --', "naïve “ü” 犬", "100 % 😀"])
def test_junit_keeps_what_xml_can_hold(text: str) -> None:
    made = verdict(task=text, protocol=text, metric=text, reason=text)
    [case] = ET.fromstring(ci.junit([made])).iter("testcase")
    assert (case.get("classname"), case.get("name")) == (f"{text}.{text}", text)
    assert case[0].get("message") == f"{text} {text}: {text}"


@given(st.sampled_from(STATUSES), HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_junit_of_hostile_names_is_well_formed(
    status: Status, task: str, protocol: str, metric: str, reason: str
) -> None:
    made = verdict(status, task=task, protocol=protocol, metric=metric, reason=reason)
    root = ET.fromstring(ci.junit([made, verdict()]))
    assert len(list(root.iter("testcase"))) == 2


@pytest.mark.parametrize("label", ['paper+"<&>', "paper\x01\x1b[31m", "paper\n"])
def test_junit_of_a_hostile_protocol_through_the_command_line(tmp_path: Path, label: str) -> None:
    held = lambada(tmp_path / "held", protocol=label)
    report = tmp_path / "junit.xml"
    found = check(held, baseline(held), "--junit", report)
    assert found.code == 0
    assert len(list(ET.fromstring(report.read_bytes()).iter("testcase"))) == 2


@pytest.mark.parametrize("place", ["file/junit.xml", "folder"])
def test_a_junit_path_that_cannot_be_written_is_refused_first(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    words = ["--baseline", tmp_path / "gone.toml", "--junit", tmp_path / place]
    line = refused("check", tmp_path / "gone", *words)
    assert f"cannot write --junit {str(tmp_path / place)!r}" in line
    assert "name a file that can be written" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_a_refused_check_leaves_no_junit_file_and_an_older_one_alone(tmp_path: Path) -> None:
    (tmp_path / "old.xml").write_text("<old/>")
    for name in ("old.xml", "new.xml"):
        words = ["--baseline", tmp_path / "gone.toml", "--junit", tmp_path / name]
        assert "gone.toml" in refused("check", tmp_path, *words)
    assert (tmp_path / "old.xml").read_text() == "<old/>"
    assert not (tmp_path / "new.xml").exists()


def test_junit_replaces_an_older_report(held: Path, tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text("<old/>" * 1000)
    check(held, baseline(held), "--junit", report)
    assert len(list(ET.fromstring(report.read_bytes()).iter("testcase"))) == 2


# --- GitHub -------------------------------------------------------------------------------


def test_github_gets_an_annotation_for_what_matters(
    mixed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = mixed
    before = harness("check", run, "--baseline", path)
    assert "::" not in before.out
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = harness("check", run, "--baseline", path)
    assert result.code == 1
    lines = [line for line in result.out.split("\n") if line.startswith("::")]
    assert len(lines) == 2
    head = "title=harness check::"
    assert lines[0] == f"::warning {head}cbt-cn acc: there is no run of cbt-cn, paper to check"
    assert lines[1].startswith(f"::error {head}lambada {ACC}: 60.0000 -> 50.0000 %25; worse by 10")


def test_github_is_told_of_improvements(
    held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = baseline(held)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = harness("check", lambada(tmp_path / "run", won=40), "--baseline", path)
    assert result.code == 0
    [line] = [line for line in result.out.split("\n") if line.startswith("::")]
    assert line.startswith("::notice title=harness check::")


def test_annotations_do_not_disturb_json(
    mixed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = mixed
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = harness("check", run, "--baseline", path, "--json")
    assert set(json.loads(result.out)) == {"exit", "verdicts"}
    assert result.err.count("::error ") == result.err.count("::warning ") == 1


def test_annotations_escape_what_github_reads() -> None:
    [line] = ci.annotations([verdict(metric="a%0Ab", reason="x\r\n::error::y")])
    assert line.endswith("::lambada a%250Ab: x\ufffd%0A::error::y")


@given(HOSTILE, HOSTILE)
def test_an_annotation_is_one_line_and_can_be_read_back(metric: str, reason: str) -> None:
    [line] = ci.annotations([verdict(metric=metric, reason=reason)])
    assert "\n" not in line
    assert "\r" not in line
    message = line.removeprefix("::error title=harness check::")
    for code, character in (("%0A", "\n"), ("%25", "%")):
        message = message.replace(code, character)
    assert message == printable(f"lambada {metric}: {reason}")


def test_the_job_summary_is_appended(
    mixed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = mixed
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    for _ in range(2):
        assert harness("check", run, "--baseline", path).code == 1
    text = summary.read_text("utf-8")
    assert text.startswith("before\n### harness check\n")
    assert text.count("### harness check") == 2
    assert f"| regression | lambada (paper) | {ACC} | 60.0000 | 50.0000 | -10.0000 |" in text
    rows = [line for line in text.split("\n") if line.startswith("|")]
    assert len(rows) == 2 * (2 + 4)
    assert {row.count("|") for row in rows} == {12}


@given(HOSTILE, HOSTILE)
def test_the_job_summary_has_one_row_a_verdict(metric: str, reason: str) -> None:
    text = ci.summary([verdict(metric=metric, reason=reason), verdict()])
    lines = re.split(r"\r\n?|\n", text.removesuffix("\n"))
    rows = [line for line in lines if line.startswith("|")]
    assert rows == lines[2:]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {12}


def test_a_job_summary_that_cannot_be_written_hides_no_verdict(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = baseline(held)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(held))
    result = harness("check", held, "--baseline", path)
    assert result.code == 0
    assert result.err.count("\n") == 1
    assert result.err.startswith("note: cannot write the job summary")


# --- the JSON of a verdict ----------------------------------------------------------------


def test_json_says_everything_about_a_verdict(held: Path, tmp_path: Path) -> None:
    found = check(lambada(tmp_path / "run", lost=40, won=4), baseline(held)).verdicts[ACC]
    assert set(found) == {field.name for field in fields(Verdict)}
    assert found["rule"] == {"kind": "paired", "amount": 0, "min_loss": 0, "tier": "critical",
                             "pooled": False}  # fmt: skip
    assert (found["items"], found["of"]) == (N, N)
    assert found["evidence"] == f"p {found['p']:.2g} after Holm"
    assert (found["margin"], found["upper"]) == (None, None), "for rules that prove"
    assert (found["task"], found["protocol"], found["metric"]) == ("lambada", "paper", ACC)
    assert found["score"]["unit"] == "%"
    assert found["score"]["higher_is_better"] is True
    low, high = found["score"]["difference"]["low"], found["score"]["difference"]["high"]
    assert low < -9 < high < 0


def test_exit_codes_of_records_in_any_order(tmp_path: Path) -> None:
    held = lambada(tmp_path / "held")
    made(held, {"acc": right()}, task="cbt-cn")
    lambada(tmp_path / "one")
    made(tmp_path / "two", {"acc": right(lost=40)}, task="cbt-cn")
    path = baseline(held)
    for order in ((tmp_path / "one", tmp_path / "two"), (tmp_path / "two", tmp_path / "one")):
        result = harness("check", *order, "--baseline", path)
        assert result.code == 1
        assert re.search(r"(?m)^regression +cbt-cn +acc ", result.out)


def test_records_made_here_are_like_those_of_a_run() -> None:
    """The values above are what the benchmark's own measures give."""
    task = load_task("lambada")
    metrics = {m.name: m.metric for m in task.measures(task.protocol().options)}
    for name, rows in ((PPL, NATS), (ACC, right(lost=40))):
        metric, found = metrics[name], score(name, rows)
        assert isinstance(metric, Metric)
        sums = [math.fsum(column) for column in zip(*rows, strict=True)]
        assert found.value == pytest.approx(metric.compute(sums))
        assert (found.unit, found.higher_is_better) == (metric.unit, metric.higher_is_better)


def test_a_score_without_a_value_leaves_the_others_their_verdicts(tmp_path: Path) -> None:
    """The examples that both runs have contain no word, so that their perplexity is 0/0."""
    early, late = list(range(N)), list(range(N // 2, N + N // 2))
    none, some = [(0.0, 0.0)] * (N // 2), NATS[: N // 2]
    answers = [(float(i % 2), 1.0) for i in range(2 * N)]
    shared = [*some, *none, *some]
    held = made(tmp_path / "held", {PPL: shared, ACC: answers}, ids=early)
    run = made(tmp_path / "run", {PPL: shared, ACC: answers}, ids=late)
    found = check(run, baseline(held))
    assert found.code == 2
    assert found.status(PPL) == "not comparable"
    assert "expected finite numbers" in found.verdicts[PPL]["reason"]
    assert found.status(ACC) == "no regression seen"
    result = harness("compare", held, run, "--json")
    assert result.code == 0, result.err
    value = json.loads(result.out)
    assert [line["metric"] for line in value["scores"]] == [ACC]
    [refusal] = value["not_compared"]
    assert f"lambada {PPL}" in refusal
    assert "expected finite numbers" in refusal


def test_an_optional_score_that_no_item_has_is_no_obstacle(
    held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a benchmark that fills no column, whose scores are all main ones."""

    def without_columns(name: str) -> Task:
        task = load_task(name)
        kept = [m for m in task.measures(task.protocol().options) if m.name in (PPL, ACC)]
        measures = [replace(m, column=None) for m in kept]
        never = replace(measures[0], name="never", optional=True)
        return replace(task, measures=lambda options: (*measures, never))

    monkeypatch.setattr("harness.analysis.runs.load_task", without_columns)
    rules = tomllib.loads(baseline(held).read_text("utf-8"))["score"]
    assert [rule["metric"] for rule in rules] == [PPL, ACC]
    result = harness("power", held, "--json")
    assert result.code == 0, result.err
    assert [line["metric"] for line in json.loads(result.out)["power"]] == [PPL, ACC]


EVIL = "a|b\n::error::owned <img src=x onerror=alert(1)> [c](javascript:d) \x1b[2J\u202e"


def test_names_from_a_record_steer_no_page_log_or_terminal(
    held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    path = baseline(held)
    named = {**made_record().model, "name": EVIL, "digest": "77" * 32}
    lambada(tmp_path / "run", lost=100, model=named, protocol=EVIL)
    lambada(tmp_path / "run", model={**named, "digest": "78" * 32})
    result = harness("check", tmp_path / "run", "--baseline", path)
    written = result.out + result.err
    assert "owned" in written
    assert "\x1b" not in written
    assert "\u202e" not in written
    commands = [line for line in written.split("\n") if line.strip().startswith("::")]
    assert all(line.startswith("::error title=harness check::lambada") for line in commands)
    page = re.sub(r"\\.", "", summary.read_text("utf-8"))
    assert "<" not in page
    assert "](" not in page


def test_a_verdict_with_hostile_text_stays_one_annotation_and_one_row() -> None:
    verdict = Verdict(EVIL, EVIL, EVIL, "not comparable", Rule("paired"), EVIL)
    [line] = ci.annotations([verdict])
    assert "\n" not in line
    assert "\x1b" not in line
    *_, row = ci.summary([verdict]).rstrip("\n").split("\n")
    assert re.sub(r"\\.", "", row).count("|") == 12
    assert "<img" not in row
    assert "\x1b" not in row
