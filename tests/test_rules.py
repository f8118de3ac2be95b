"""Rules of a baseline: how they are written, what they mean in a score's unit, and tiers."""

import hashlib
import tomllib
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from console import harness, made_record, refused
from test_check import ACC, LAST, NATS, PPL, baseline, check, edited, held, lambada, made, right

from harness.analysis import baseline as baselines
from harness.analysis.check import Verdict, exit_code
from harness.analysis.rules.rule import TIERS, Amount, Policy, Rule, parse_rule, parse_score
from harness.analysis.rules.tiers import DEFAULT_TIERS, Failing, Status, Tiers
from harness.analysis.runs import load
from harness.core import Score
from harness.errors import RecordError, UsageError
from harness.records import outcomes, schema
from harness.records.outcomes import NO_OUTCOMES
from harness.report import ci

__all__ = ["held"]  # a fixture


def score(value: float, unit: str = "%", *, higher: bool = True) -> Score:
    return Score("score", value, unit, higher, None, None, None, {})


def scores_in(path: Path) -> dict[str, Any]:
    entries = tomllib.loads(path.read_text("utf-8"))["score"]
    return {entry["metric"]: entry for entry in entries}


# --- numbers and their units --------------------------------------------------------------

PERPLEXITY, BITS = score(44.0, "per word", higher=False), score(1.2, "bits per byte", higher=False)


@pytest.mark.parametrize(
    ("text", "of", "amount"),
    [
        ("proved:0.5", score(60.0), 0.5),
        ("proved: 0.5 points", score(60.0), 0.5),
        ("proved:1 point", score(60.0, "points"), 1),
        ("proved:2%", score(60.0), 1.2),
        ("proved:2 %", PERPLEXITY, 0.88),
        ("proved:1e-2bits", BITS, 0.01),
        ("proved:.01 bits per byte", BITS, 0.01),
        ("proved:2 per word", PERPLEXITY, 2),
        ("paired:2%", score(60.0), 1.2),
        ("absolute:3", PERPLEXITY, 3),
        ("relative:0.02", PERPLEXITY, 0.02),
        ("relative:2%", PERPLEXITY, 0.02),
        ("paired", PERPLEXITY, 0),
        ("proved:0.3", score(0.1, "nats"), 0.3),  # may become negative
        ("proved:50%", score(-0.4, "nats"), 0.2),
    ],
)
def test_an_amount_is_in_the_unit_of_the_score(text: str, of: Score, amount: float) -> None:
    rule = parse_rule(text).of("acc", of)
    assert rule.kind == text.partition(":")[0]
    assert rule.amount == pytest.approx(amount)
    assert rule.margin == (pytest.approx(amount) if rule.kind == "proved" else None)


@pytest.mark.parametrize(
    ("text", "of", "expected"),
    [
        ("proved:0.5 bits", score(60.0), "is in 'bits'; expected 'points' or '%'"),
        ("proved:0.5 points", BITS, "is in 'points'; expected 'bits per byte' or '%'"),
        ("absolute:1 nats", PERPLEXITY, "is in 'nats'; expected 'per word' or '%'"),
        ("relative:1 points", score(60.0), "expected a share, such as 0.05 or 5%"),
        ("proved:60", score(60.0), "margin 60 is not smaller than the baseline's value 60 (%)"),
        ("proved:5%", score(0.0), "0, of which no share can be lost; give the score a rule of its"),
        ("proved:100%", PERPLEXITY, "margin 44 is not smaller than the baseline's value 44"),
        ("proved:2", BITS, "margin 2 is not smaller than the baseline's value 1.2 (bits per byte)"),
    ],
)
def test_an_amount_in_another_unit_is_refused(text: str, of: Score, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rule(text).of("acc", of)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("proved", "expected a margin after a colon"),
        ("proved:0", "expected a number above zero"),
        ("proved:0%", "expected a number above zero"),
        ("proved:-1", "expected a number above zero"),
        ("proved:nan", "expected a number above zero"),
        ("proved:inf", "expected a number above zero"),
        ("proved:half", "expected a number above zero"),
        ("proved:1.2.3", "expected a number above zero"),
        ("paired:-2%", "expected a number that is not negative"),
        ("pooled:1", "pooled takes no number; leave it out"),
        ("report:0", "report takes no number; leave it out"),
        ("Proved:1", "expected one of proved, paired, absolute, relative, pooled, report"),
        ("proven:1", "expected one of proved, paired, absolute, relative, pooled, report"),
        ("", "expected one of proved, paired, absolute, relative, pooled, report"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(text: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rule(text)
    assert str(caught.value).startswith(f"rule {text!r}: {expected}")


def test_a_smallest_loss_lies_below_the_margin() -> None:
    rule = parse_rule("proved:2").of("acc", score(60.0), Amount(1, "points"))
    assert (rule.amount, rule.min_loss) == (2, 1)
    with pytest.raises(UsageError, match="min_loss 3 is greater than the margin 2"):
        parse_rule("proved:2").of("acc", score(60.0), Amount(3))
    with pytest.raises(UsageError, match="rule 'paired' takes no min_loss"):
        parse_rule("paired:2").of("acc", score(60.0), Amount(1))


# --- which score gets which rule ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "rule"),
    [
        ("cbt-cn:nats", ("cbt-cn", "nats"), None),
        ("lambada:ppl=proved:2%", ("lambada", "ppl"), parse_rule("proved:2%")),
        ("lambada:ppl=report", ("lambada", "ppl"), parse_rule("report")),
        ("hub:set:acc", ("hub:set", "acc"), None),
        ("hub:set?n=5:acc=paired:1", ("hub:set?n=5", "acc"), parse_rule("paired:1")),
    ],
)
def test_a_score_is_named_with_its_task(text: str, name: tuple[str, str], rule: Any) -> None:
    assert parse_score(text) == (name, rule)


@pytest.mark.parametrize("text", ["nats", "cbt-cn:", ":nats", "", "lambada:ppl=", "=paired"])
def test_a_score_without_a_task_or_a_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected TASK:METRIC or TASK:METRIC=RULE"):
        parse_score(text)


def test_scores_are_added_and_get_rules_of_their_own(tmp_path: Path) -> None:
    runs = made(tmp_path / "held", {PPL: NATS, ACC: right(), LAST: right()})
    path = baseline(
        runs, "--rule", "proved:1", "--score", f"lambada:{LAST}",
        "--score", f"lambada:{PPL}=report", "--tier", "supporting", "--pooled", "--beta", 0.2,
    )  # fmt: skip
    scores = scores_in(path)
    assert list(scores) == [PPL, ACC, LAST]
    assert [scores[m]["rule"] for m in (PPL, ACC, LAST)] == ["report", "proved", "proved"]
    assert [scores[m].get("margin") for m in (PPL, ACC, LAST)] == [None, 1, 1]
    assert all(entry["tier"] == "supporting" and entry["pooled"] for entry in scores.values())
    read = baselines.read(path)
    assert (read.alpha, read.beta, read.tiers) == (0.05, 0.2, DEFAULT_TIERS)
    expected = Rule("proved", 1, tier="supporting", pooled=True)
    assert read.rules["lambada", "paper", LAST] == expected


def test_a_margin_in_percent_is_written_in_the_scores_unit(held: Path) -> None:
    scores = scores_in(baseline(held, "--rule", "proved:2%"))
    assert scores[ACC]["margin"] == pytest.approx(1.2)
    assert scores[PPL]["margin"] == float(f"{0.02 * scores[PPL]['value']:.4g}"), "to be read"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--score", "ptb:ppl"], "score ptb:ppl: there is no run of ptb (runs: lambada)"),
        (["--score", "lambada:acc"], f"the run has no such score (scores: {PPL}, {ACC})"),
        (["--score", "lambada"], "expected TASK:METRIC"),
        (["--score", "lambada:ppl", "--score", "lambada:ppl=report"], "lambada:ppl is given twice"),
        (["--score", "lambada:ppl=proved:2 bits"], "is in 'bits'; expected 'per word'"),
        (["--rule", "proved:99"], "margin 99 is not smaller than the baseline's value"),
        (["--tier", "minor"], "'minor' is not one of 'critical', 'supporting', 'advisory'"),
        (["--beta", "1"], "--beta"),
    ],
)
def test_options_that_fit_no_score_are_refused(held: Path, words: list[str], expected: str) -> None:
    out = held.parent / "main.toml"
    assert expected in refused("baseline", held, "--out", out, *words)
    assert not out.exists()


def test_a_score_of_a_part_cannot_be_proved(tmp_path: Path) -> None:
    rows = {"em": right(), "em-top-1%": [(0.5, *row) for row in right()]}
    runs = made(tmp_path / "held", rows, task="nq")
    path = baseline(runs, "--rule", "proved:1", "--pooled")
    assert [entry["rule"] for entry in scores_in(path).values()] == ["proved", "report"]
    assert "pooled" not in scores_in(path)["em-top-1%"]
    words = ["--out", path, "--score", "nq:em-top-1%=proved:1"]
    assert "needs a paired test, and there is none" in refused("baseline", runs, *words)


# --- the file -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("margin = 1.0", "margin = -1.0", "expected a number above zero"),
        ("margin = 1.0", "margin = 0", "expected a number above zero"),
        ("margin = 1.0", "margin = nan", "expected a number above zero"),
        ("margin = 1.0", "margin = true", "expected a number above zero"),
        ("margin = 1.0", "margin = [1]", "expected a number above zero"),
        ("margin = 1.0", 'margin = "0.5 bits"', "margin is in 'bits'; expected 'points' or '%'"),
        ("margin = 1.0", "margin = 60", "margin 60 is not smaller than the baseline's value 60"),
        ("margin = 1.0", "", "rule 'proved' has no margin; write one, such as margin = 0.5"),
        ("margin = 1.0", "margin = 1\nmin_los = 0.5", "unknown 'min_los'; a score has task, "),
        ("margin = 1.0", "margin = 1\nmin_loss = 2", "min_loss 2 is greater than the margin 1"),
        ("margin = 1.0", "margin = 1\nmin_loss = -1", "expected a number that is not negative"),
        ("margin = 1.0", 'margin = 1\npooled = "yes"', "pooled is 'yes'; expected true or false"),
        ('tier = "critical"', 'tier = "vital"', "tier 'vital'; expected critical, supporting,"),
        ('tier = "critical"', "tier = 1", "tier 1; expected critical, supporting, advisory"),
        ('supporting = ["regression"]', 'supporting = ["fine"]', "supporting lists 'fine'"),
        ('supporting = ["regression"]', 'vital = ["regression"]', "tiers: tier 'vital'; expected"),
        ('supporting = ["regression"]', "supporting = 3", "supporting lists 3"),
        ("[tiers]", "[[tiers]]", "is not a valid baseline file"),
        ("beta = 0.1", "beta = 1.0", "beta 1.0; expected a level between 0 and 1"),
        ("beta = 0.1", 'beta = "low"', "is not a valid baseline file"),
    ],
)
def test_what_is_edited_wrongly_is_refused(held: Path, old: str, new: str, expected: str) -> None:
    path = edited(baseline(held, "--rule", "proved:1"), old, new)
    line = refused("check", held, "--baseline", path)
    assert expected in line
    assert "main.toml" in line


def test_amounts_in_the_file_may_have_their_unit(held: Path) -> None:
    path = baseline(held, "--rule", "proved:1")
    edited(path, "margin = 1.0", 'margin = "2 points"\nmin_loss = "1%"')
    assert baselines.read(path).rules["lambada", "paper", ACC] == Rule("proved", 2, 0.6)


def test_a_file_without_the_newer_entries_has_their_defaults(held: Path) -> None:
    path = baseline(held)
    lines = path.read_text("utf-8").split("\n")
    old = ("beta = ", "tier = ", "[tiers]", "critical = ", "supporting = ", "advisory = ")
    path.write_text("\n".join(line for line in lines if not line.startswith(old)), "utf-8")
    read = baselines.read(path)
    assert (read.beta, read.tiers) == (0.1, DEFAULT_TIERS)
    assert set(read.rules.values()) == {Rule("paired")}
    assert check(held, path).code == 0


def other_digest() -> dict[str, Any]:
    return {**made_record().model, "digest": "7" * 64, "name": "other"}


def test_two_checkpoints_in_one_baseline_are_refused(held: Path, tmp_path: Path) -> None:
    made(held, {"acc": right()}, task="cbt-cn", model=other_digest())
    out = tmp_path / "two.toml"
    assert "are of 2 checkpoints" in refused("baseline", held, "--out", out)
    with pytest.raises(UsageError, match="are of 2 checkpoints"):
        baselines.write(load([held]), out, Policy())
    assert not out.exists()


def test_two_checkpoints_in_the_runs_of_a_file_are_refused(held: Path, tmp_path: Path) -> None:
    made(held, {"acc": right()}, task="cbt-cn")
    path = baseline(held)
    runs = baselines.read(path).runs
    digest = runs[1].record.model["digest"]
    model = {**runs[1].record.model, "digest": "8" * 64}
    changed = [runs[0], replace(runs[1], record=replace(runs[1].record, model=model))]
    rewrite(path, changed)
    assert digest not in baselines.runs_path(path).read_bytes().decode("latin-1")
    assert "main.toml: the newest runs are of 2 checkpoints" in refused(
        "check", held, "--baseline", path
    )


def test_a_baseline_without_outcomes_is_refused(held: Path) -> None:
    [run] = load([held])
    empty = replace(run, outcomes=NO_OUTCOMES)
    with pytest.raises(UsageError, match="the run of lambada paper has no outcomes"):
        baselines.write([empty], held.parent / "none.toml", Policy())
    path = baseline(held)
    rewrite(path, [empty])
    with pytest.raises(RecordError, match="the run of lambada paper has no outcomes"):
        baselines.read(path)


def rewrite(path: Path, runs: list[Any]) -> None:
    """Put other runs next to a baseline, under their own checksum."""
    values = [
        {"record": r.record.to_json(), "outcomes": outcomes.to_json(r.outcomes)} for r in runs
    ]
    packed = outcomes.pack({**schema.header("baseline runs"), "runs": values})
    baselines.runs_path(path).write_bytes(packed)
    old = tomllib.loads(path.read_text("utf-8"))["sha256"]
    edited(path, old, hashlib.sha256(packed).hexdigest())


# --- tiers and exit codes -----------------------------------------------------------------


def verdict(status: Status, tier: str = "critical") -> Verdict:
    rule = Rule("proved", 1, tier=tier)  # type: ignore[arg-type]
    return Verdict("lambada", "paper", ACC, status, rule, "why")


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("status", get_args(Status))
@pytest.mark.parametrize("proof", [False, True])
def test_the_tier_decides_what_fails(status: Status, tier: str, proof: bool) -> None:
    """The table of docs/ci.md."""
    codes = {
        "critical": {"regression": 1, "not comparable": 2, "undecided": 3 if proof else 0},
        "supporting": {"regression": 1},
        "advisory": {},
    }
    found = exit_code([verdict(status, tier)], DEFAULT_TIERS, require_proof=proof)
    assert found == codes[tier].get(status, 0)


def test_the_worst_verdict_gives_the_exit_code() -> None:
    order: list[Status] = ["fine", "undecided", "not comparable", "regression"]
    for first, second in product(range(4), repeat=2):
        both = [verdict(order[first]), verdict(order[second])]
        worst = max(first, second)
        assert exit_code(both, DEFAULT_TIERS, require_proof=True) == (0, 3, 2, 1)[worst]


@pytest.mark.parametrize("failing", get_args(Failing))
def test_tiers_can_be_changed(failing: Failing) -> None:
    tiers: Tiers = {**DEFAULT_TIERS, "advisory": (failing,), "critical": ()}
    assert exit_code([verdict(failing, "advisory")], tiers, require_proof=True) != 0
    assert exit_code([verdict(failing)], tiers, require_proof=True) == 0


def test_the_tiers_of_the_file_are_obeyed(held: Path, tmp_path: Path) -> None:
    run = lambada(tmp_path / "run", lost=40)
    path = baseline(held, "--tier", "advisory")
    result = harness("check", run, "--baseline", path)
    assert result.code == 0
    assert "regression (advisory)" in result.out
    edited(path, "advisory = []", 'advisory = ["regression"]')
    assert harness("check", run, "--baseline", path).code == 1
    assert check(made(tmp_path / "none", {"acc": right()}, task="cbt-cn"), path).code == 0


def test_reports_say_whether_a_verdict_fails_the_build() -> None:
    statuses: tuple[Status, ...] = ("regression", "not comparable", "undecided", "fine")
    for tier, proof, tags in (
        ("critical", True, ["failure", "error", "failure", "system-out"]),
        ("critical", False, ["failure", "error", "skipped", "system-out"]),
        ("advisory", True, ["skipped", "skipped", "skipped", "system-out"]),
    ):
        build = ci.Build(require_proof=proof, command="harness gate")
        [suite] = ET.fromstring(ci.junit([verdict(s, tier) for s in statuses], build))
        assert [case[0].tag for case in suite] == tags
        assert suite.get("name") == "harness gate"
    lines = ci.annotations([verdict(s, "advisory") for s in statuses])
    assert [line.split()[0] for line in lines] == ["::warning", "::notice", "::notice"]


def test_reports_name_margin_evidence_and_examples() -> None:
    score = replace(
        verdict("fine"), margin=0.5, upper=0.31, items=412, of=2000, evidence="e-value 41"
    )
    xml = ci.junit([score]).decode()
    for line in ("margin: 0.5", "loss at most: 0.31", "evidence: e-value 41",
                 "items: 412 of 2,000", "rule: proved, margin 1, critical"):  # fmt: skip
        assert line in xml
    assert "| 0.5 | e-value 41 | 412 of 2,000 | why |" in ci.summary([score])


# --- the pooled decision ------------------------------------------------------------------


def two_benchmarks(folder: Path, *, lost: int = 0, won: int = 0) -> Path:
    lambada(folder, lost=lost, won=won, nats=0.0)
    return made(folder, {"acc": right(lost=lost, won=won)}, task="cbt-cn")


def test_one_decision_over_all_scores(tmp_path: Path) -> None:
    path = baseline(two_benchmarks(tmp_path / "held"), "--rule", "pooled")
    assert {entry["rule"] for entry in scores_in(path).values()} == {"pooled"}
    found = check(two_benchmarks(tmp_path / "run", lost=6, won=1), path)
    assert found.code == 1
    assert {found.status(m) for m in (PPL, ACC, "acc")} == {"reported"}
    assert found.status("pooled") == "regression"
    # two benchmarks lose 6 and win 1 of equal weights, by 14 fair coins
    assert found.verdicts["pooled"]["p"] == pytest.approx(106 / 2**14, abs=0.003)
    better = check(two_benchmarks(tmp_path / "better", won=6), path)
    assert (better.code, better.status("pooled")) == (0, "improved")
    same = check(tmp_path / "held", path)
    assert (same.code, same.status("pooled")) == (0, "no regression seen")


def test_the_pooled_decision_is_one_more_test(tmp_path: Path) -> None:
    path = baseline(two_benchmarks(tmp_path / "held"), "--pooled")
    found = check(two_benchmarks(tmp_path / "run", lost=6, won=1), path)
    assert found.status(ACC) == found.status("acc") == "no regression seen"
    assert found.status("pooled") == "regression"
    assert found.verdicts["pooled"]["p"] == pytest.approx(4 * 106 / 2**14, abs=0.01), (
        "of four tests"
    )
    assert found.code == 1


def test_the_pooled_decision_is_in_the_highest_tier_of_its_scores(tmp_path: Path) -> None:
    path = baseline(two_benchmarks(tmp_path / "held"), "--rule", "pooled", "--tier", "advisory")
    run = two_benchmarks(tmp_path / "run", lost=30)
    assert check(run, path).code == 0
    edited(path, 'tier = "advisory"', 'tier = "supporting"')
    found = check(run, path)
    assert (found.code, found.verdicts["pooled"]["rule"]["tier"]) == (1, "supporting")


def test_rounding_is_no_pooled_regression(tmp_path: Path) -> None:
    """Every word is worse in the last digits, which no test overlooks."""
    path = baseline(lambada(tmp_path / "held"), "--rule", "pooled")
    found = check(lambada(tmp_path / "run", nats=1e-7), path)
    assert found.verdicts["pooled"]["p"] < 0.001
    assert (found.code, found.status("pooled")) == (0, "no regression seen")


def test_a_pooled_decision_without_scores_is_not_comparable(tmp_path: Path) -> None:
    path = baseline(lambada(tmp_path / "held"), "--rule", "pooled")
    found = check(made(tmp_path / "run", {"acc": right()}, task="cbt-cn"), path)
    assert (found.code, found.status("pooled")) == (2, "not comparable")


def test_too_few_examples_in_all_scores_together_are_not_comparable(tmp_path: Path) -> None:
    path = baseline(lambada(tmp_path / "held"), "--rule", "pooled")
    run = made(
        tmp_path / "run", {PPL: NATS * 2, ACC: [*right(lost=400)] * 2}, ids=range(396, 796)
    )  # four in common
    found = check(run, path)
    assert (found.code, found.status("pooled")) == (2, "not comparable")
    assert found.verdicts["pooled"]["reason"] == "4 examples are too few for a paired test"


def test_the_pooled_verdict_is_in_every_report(tmp_path: Path, monkeypatch: Any) -> None:
    summary, xml = tmp_path / "summary.md", tmp_path / "junit.xml"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    path = baseline(two_benchmarks(tmp_path / "held"), "--rule", "pooled")
    run = two_benchmarks(tmp_path / "run", lost=30)
    result = harness("check", run, "--baseline", path, "--junit", xml)
    assert result.code == 1
    assert "all benchmarks" in result.out
    assert '<testcase classname="all benchmarks" name="pooled">' in xml.read_text("utf-8")
    assert "| regression | all benchmarks | pooled |" in summary.read_text("utf-8")


# --- proof --------------------------------------------------------------------------------


def test_require_proof_needs_something_to_prove(held: Path) -> None:
    path = baseline(held)
    line = refused("check", held, "--baseline", path, "--require-proof")
    assert "has no rule 'proved', so that nothing can be proved" in line
