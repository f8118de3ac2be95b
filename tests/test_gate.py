"""`harness gate`: slices, the schedule, when it stops, and the verdicts that it stops with."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from console import made_record
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.baseline import Baseline
from harness.analysis.check import POOL, Verdict
from harness.analysis.rules.rule import Rule
from harness.analysis.runs import Run
from harness.core import Score
from harness.errors import NumericsError
from harness.gate import benchmark as benchmarks
from harness.gate import order
from harness.gate.benchmark import Benchmark, known_parts
from harness.gate.evidence import in_a_cell
from harness.gate.loop import Gate, Stopping
from harness.gate.plan import Planned
from harness.gate.schedule import Schedule
from harness.gate.scores import Levels, gated
from harness.gate.state import Cost
from harness.metrics import ACCURACY, Metric, perplexity
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown
from harness.runner import Part
from harness.runner.parts import Stretch
from harness.stats.sequential import Martingale
from harness.task import Measure

N = 1000
PPL = perplexity("word")
LEVELS = Levels(0.05, 0.1)
Rows = Sequence[tuple[float, ...] | None]
"""One outcome for each example; None where the measure does not apply."""


# --- a gate without a model -----------------------------------------------------------------


def outcomes(rows: Rows, metric: str) -> Outcomes:
    """The outcomes of as many examples."""
    ids = tuple(map(str, range(len(rows))))
    return kept(Outcomes(ids, (Shown("", "", ""),) * len(ids), {}), rows, metric)


def kept(whole: Outcomes, rows: Rows, metric: str) -> Outcomes:
    """The same examples with these outcomes."""
    known = [(number, row) for number, row in enumerate(rows) if row is not None]
    found = MetricOutcomes(tuple(n for n, _ in known), tuple(row for _, row in known))
    return replace(whole, metrics={metric: found})


@dataclass
class Answers:
    """An evaluation whose outcomes are known; raises at the part `bad`."""

    rows: Rows
    metric: str
    bad: int | None = None
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.parts = [Part((Stretch(i, str(i), range(1), False),)) for i in range(len(self.rows))]

    def answer(self, parts: Sequence[int]) -> None:
        assert not {*parts} & {*self.asked}, "a part is answered twice"
        if self.bad in parts:
            raise NumericsError("a log-probability is nan, expected a finite number")
        self.asked += parts

    def outcomes(self) -> Outcomes:
        asked = sorted(self.asked)
        ids = tuple(map(str, asked))
        return kept(
            Outcomes(ids, (Shown("", "", ""),) * len(ids), {}),
            [self.rows[i] for i in asked], self.metric,
        )  # fmt: skip


def made(
    task: str, metric: Metric, before: Rows, after: Rows, rule: Rule, *,
    seconds: float = 1.0, levels: Levels = LEVELS, bad: int | None = None,
) -> Benchmark:  # fmt: skip
    """A benchmark with one score, called `score`, on which both runs' outcomes are known."""
    table = np.array([row or (0.0, 0.0) for row in before], np.float64)
    value = float(metric.compute(table.sum(axis=0)))
    score = Score("score", value, metric.unit, metric.higher_is_better, None, None, None, {})
    record = made_record(task=task, scores=(score,), examples=len(before))
    run = Run(record, outcomes(before, "score"), "the baseline")
    measure = Measure("score", metric, lambda *words: [], ("x", "n"), "")
    planned = Planned(run, None, None, {"score": measure}, {"score": rule})  # type: ignore[arg-type]
    return Benchmark(
        planned, Answers(after, "score", bad),  # type: ignore[arg-type]
        order.shuffled(range(len(before)), 0, task), Cost(seconds, 1), 1,
        [gated((task, "paper", "score"), rule, metric, value, table, levels)], {}, {"score"},
    )  # fmt: skip


def right(seed: int = 0, n: int = N) -> list[tuple[float, float]]:
    rng = random.Random(seed)
    return [(float(rng.random() < 0.6), 1.0) for _ in range(n)]


def flipped(rows: Rows, lost: float, won: float, seed: int = 1) -> list[tuple[float, float]]:
    """The same with these shares of all answers lost and won."""
    rng = random.Random(seed)
    share = sum(r for r, _ in rows) / len(rows)
    chances = (won / (1 - share), lost / share)
    return [(1 - r if rng.random() < chances[int(r)] else r, 1.0) for r, _ in rows]


def gate(*parts: Benchmark, **how: Any) -> Gate:
    levels = how.pop("levels", LEVELS)
    rules = {score.key: score.rule for b in parts for score in b.scores}
    runs = tuple(b.planned.run for b in parts)
    return Gate(parts, Baseline(runs, rules, levels.alpha, levels.beta), levels, **how)


def run(found: Gate) -> dict[str, Verdict]:
    """The verdicts of a gate after its last slice, by benchmark."""
    for _ in found.run():
        pass
    return {verdict.task: verdict for verdict in found.verdicts.close({})}


PROVED = Rule("proved", 5.0)


def test_a_gate_stops_when_every_verdict_is_in() -> None:
    answers = right()
    same = made("lambada", ACCURACY, answers, answers, PROVED)
    worse = made("cbt-cn", ACCURACY, answers, flipped(answers, 0.25, 0.02), PROVED)
    found = gate(same, worse)
    verdicts = run(found)
    assert verdicts["lambada"].status == "fine"
    assert verdicts["cbt-cn"].status == "regression"
    assert found.stopped is not None
    assert found.stopped.reason == "every verdict is in"
    assert found.stopped.used == same.done + worse.done < found.stopped.of == 2 * N
    for verdict, benchmark in ((verdicts["lambada"], same), (verdicts["cbt-cn"], worse)):
        assert (verdict.items, verdict.of) == (benchmark.done, N)
        assert "e-value" in verdict.evidence
        assert verdict.margin == 5.0


def test_values_and_loss_are_those_of_the_items_that_were_used() -> None:
    answers = right()
    worse = made("cbt-cn", ACCURACY, answers, flipped(answers, 0.25, 0.02), PROVED)
    verdict = run(gate(worse))["cbt-cn"]
    used = worse.order[: worse.done]
    before, after = (
        100 * sum(rows[i][0] for i in used) / len(used)
        for rows in (answers, worse.evaluation.rows)  # type: ignore[attr-defined]
    )
    assert verdict.score is not None
    d = verdict.score.difference
    assert (d.a, d.b) == (pytest.approx(before), pytest.approx(after))
    assert d.low is None, "an interval would not hold"
    assert verdict.reason == f"worse by {before - after:.4g}"


def test_a_score_without_a_margin_runs_to_the_end() -> None:
    answers = right()
    found = gate(made("lambada", ACCURACY, answers, answers, Rule("paired")))
    assert run(found)["lambada"].status == "no regression seen"
    assert found.stopped is not None
    assert (found.stopped.reason, found.stopped.used) == ("all items are used", N)


def test_a_small_loss_within_delta_is_no_regression() -> None:
    answers = right()
    after = flipped(answers, 0.06, 0.0)
    assert (
        run(gate(made("a", ACCURACY, answers, after, Rule("paired"))))["a"].status == "regression"
    )
    verdict = run(gate(made("a", ACCURACY, answers, after, Rule("paired", 20.0))))["a"]
    assert verdict.status == "no regression seen"


def test_what_is_open_with_all_items_used_says_how_many_more_would_decide() -> None:
    answers = right(n=60)
    after = flipped(answers, 0.1, 0.1)
    verdict = run(gate(made("a", ACCURACY, answers, after, Rule("proved", 3.0))))["a"]
    assert verdict.status == "undecided"
    assert "all items are used" in verdict.reason
    assert "would decide" in verdict.reason


def test_fail_fast_stops_at_the_first_verdict_that_fails() -> None:
    answers = right()
    worse = flipped(answers, 0.3, 0.0)
    close = flipped(answers, 0.05, 0.04)
    parts = [
        made("lambada", ACCURACY, answers, worse, PROVED),
        made("cbt-cn", ACCURACY, answers, close, Rule("proved", 2.0)),
    ]
    found = gate(*parts, stopping=Stopping(fail_fast=True))
    verdicts = run(found)
    assert found.stopped is not None
    assert found.stopped.reason == "lambada score: regression"
    assert verdicts["cbt-cn"].status == "undecided"


def test_fail_fast_goes_on_where_a_regression_is_advisory() -> None:
    answers = right()
    worse, advisory = flipped(answers, 0.3, 0.0), Rule("proved", 5.0, tier="advisory")
    parts = [
        made("lambada", ACCURACY, answers, worse, advisory),
        made("cbt-cn", ACCURACY, answers, answers, PROVED),
    ]
    found = gate(*parts, stopping=Stopping(fail_fast=True))
    verdicts = run(found)
    assert (verdicts["lambada"].status, verdicts["cbt-cn"].status) == ("regression", "fine")


def test_a_budget_stops_between_slices() -> None:
    answers = right()
    ticks = iter(range(1000))
    found = gate(
        made("a", ACCURACY, answers, flipped(answers, 0.05, 0.05), Rule("proved", 1.0)),
        stopping=Stopping(budget=3), clock=lambda: float(next(ticks)),
    )  # fmt: skip
    verdict = run(found)["a"]
    assert len(found.slices) == 2
    assert found.stopped is not None
    assert found.stopped.reason == "the budget of 3 s is spent"
    assert verdict.status == "undecided"
    assert verdict.reason == "stopped before the evidence decides"
    assert verdict.items == 2 * N // 50


def test_one_benchmark_that_fails_does_not_stop_the_others() -> None:
    answers = right()
    found = gate(
        made("lambada", ACCURACY, answers, answers, PROVED, bad=0),
        made("cbt-cn", ACCURACY, answers, answers, PROVED),
    )
    verdicts = run(found)
    assert verdicts["lambada"].status == "not comparable"
    assert "is nan, expected a finite number" in verdicts["lambada"].reason
    assert verdicts["cbt-cn"].status == "fine"


def test_an_interrupted_slice_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(parts: Sequence[int]) -> None:
        raise KeyboardInterrupt

    part = made("a", ACCURACY, right(), right(), PROVED)
    found = gate(part)
    steps = found.run()
    next(steps)
    monkeypatch.setattr(part.evaluation, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    assert [s.parts for s in found.slices] == [part.done]


def test_the_p_that_decides_is_shown() -> None:
    """Without a flip, 0.98 ** 120 < 0.1 shows it at the end, where the e-value is too small."""
    answers = right(n=120)
    found = gate(made("a", ACCURACY, answers, answers, Rule("proved", 1.95)))
    verdict = run(found)["a"]
    [score] = found.benchmarks[0].scores
    assert isinstance(score.test, Martingale)
    assert verdict.status == "fine"
    assert score.test.e_within < 10
    assert score.test.p_within < 0.1
    shown = f"{score.test.p_within:.2g}"
    assert verdict.evidence.endswith(f" against a loss of the margin (p {shown})")
    assert in_a_cell(verdict.p, score) == f"worse p 1, fine p {shown}"


def test_rounding_is_no_regression() -> None:
    rng = random.Random(0)
    before = [(rng.gammavariate(2, 1.5), 1.0) for _ in range(100)]
    after = [(nats + 1e-6, 1.0) for nats, _ in before]  # always in one direction
    assert run(gate(made("a", PPL, before, after, Rule("paired"))))["a"].status != "regression"
    after = [(nats + 1e-2, 1.0) for nats, _ in before]
    assert run(gate(made("a", PPL, before, after, Rule("paired"))))["a"].status == "regression"


@pytest.mark.parametrize("looks", [None, 4])
def test_easy_text_does_not_make_a_loss_of_the_margin_fine(looks: int | None) -> None:
    """The whole loses 2 % of its perplexity, the margin; the easy first quarter less of it."""
    rng = np.random.default_rng(0)
    nats = np.repeat([2.5, 4.0], [25, 75])
    before = np.stack([100 * nats, np.full(100, 100.0)], axis=1)
    after = before.copy()
    after[:, 0] += 100 * rng.normal(math.log(1.02), 0.003, 100)
    value = math.exp(nats.mean())
    rule, levels = Rule("proved", 0.02 * value), Levels(0.05, 0.1, looks)
    score = gated(("ptb", "paper", "ppl"), rule, PPL, value, before, levels)
    for part in np.split(np.arange(25), 5):
        score.add(before[part], after[part])
    assert score.test is not None
    assert score.loss < 0.5 * rule.amount
    assert score.test.p_within > 0.1


def test_holm_over_all_scores() -> None:
    answers = right()
    many = [made(f"same{k}", ACCURACY, answers, answers, Rule("paired")) for k in range(9)]
    worse = made("worse", ACCURACY, answers, flipped(answers, 0.25, 0.02), Rule("paired"))
    alone = made("worse", ACCURACY, answers, flipped(answers, 0.25, 0.02), Rule("paired"))
    verdict, single = run(gate(worse, *many))["worse"], run(gate(alone))["worse"]
    assert verdict.status == single.status == "regression"
    assert verdict.items is not None
    assert single.items is not None
    assert verdict.items > single.items, "ten scores need more evidence than one"


def test_a_loss_everywhere_is_found_together() -> None:
    parts = []
    for k in range(12):
        answers = right(seed=k, n=300)
        after = flipped(answers, 0.05, 0.02, seed=50 + k)
        parts.append(made(f"task{k}", ACCURACY, answers, after, Rule("pooled")))
    found = gate(*parts)
    verdicts = run(found)
    assert verdicts[POOL[0]].status == "regression"
    assert {v.status for name, v in verdicts.items() if name != POOL[0]} == {"reported"}
    assert found.stopped is not None
    assert found.stopped.reason == "every verdict is in"


def test_the_pooled_loss_is_the_mean_over_the_scores_in_standard_errors() -> None:
    parts, expected = [], 0.0
    for k in range(3):
        answers = right(seed=k, n=200)
        after = flipped(answers, 0.05, 0.03, seed=50 + k)
        parts.append(made(f"task{k}", ACCURACY, answers, after, Rule("pooled")))
        lost = 100 * sum(a[0] - b[0] for a, b in zip(answers, after, strict=True))  # points
        expected += lost / (parts[k].scores[0].guess * 200**0.5) / 3
    found = gate(*parts)
    verdict = run(found)[POOL[0]]
    assert found.pool is not None
    assert found.pool.loss == pytest.approx(expected)
    assert verdict.reason.endswith(" standard errors on average over 3 scores")
    assert (verdict.items, verdict.of, verdict.status) == (600, 600, "no regression seen")


def test_a_pooled_decision_that_cannot_be_made_is_not_comparable() -> None:
    few = right(n=4)
    verdict = run(gate(made("a", ACCURACY, few, few, Rule("pooled"))))[POOL[0]]
    assert (verdict.status, verdict.reason) == (
        "not comparable", "4 examples are too few for a paired test"
    )  # fmt: skip
    chosen = replace(ACCURACY, select=lambda table: table)
    part = made("a", chosen, right(), right(), Rule("pooled", tier="supporting"))
    found = gate(part)
    verdict = run(found)[POOL[0]]
    assert (verdict.status, verdict.rule.tier) == ("not comparable", "supporting")
    assert "no score of the pooled decision can be tested" in verdict.reason
    assert not found.slices, "nothing is left to decide"


def test_a_pooled_decision_is_open_where_its_scores_are_stopped() -> None:
    answers = right()
    rule = Rule("proved", 1.0, tier="critical", pooled=True)
    ticks = iter(range(1000))
    found = gate(
        made("a", ACCURACY, answers, flipped(answers, 0.05, 0.05), rule),
        stopping=Stopping(budget=3), clock=lambda: float(next(ticks)),
    )  # fmt: skip
    assert run(found)[POOL[0]].status == "undecided"


def test_a_measure_may_apply_to_none_of_the_first_items() -> None:
    first = order.shuffled(range(N), 0, "coqa")[: N // 10]
    answers: list[tuple[float, ...] | None] = [*right()]
    after: list[tuple[float, ...] | None] = [*flipped(right(), 0.3, 0.02)]
    for i in first:
        answers[i] = after[i] = None
    part = made("coqa", ACCURACY, answers, after, PROVED)
    found = gate(part)
    stopped = found.run()
    next(stopped)
    [verdict] = found.verdicts.all()
    assert (verdict.status, verdict.score) == ("undecided", None)
    for _ in stopped:
        pass
    assert [verdict.status for verdict in found.verdicts.all()] == ["regression"]
    assert part.done > N // 10


def test_a_regression_stays_one_if_the_model_fails_later() -> None:
    answers = right()
    part = made("a", ACCURACY, answers, flipped(answers, 0.3, 0.02), PROVED)
    found = gate(part)
    assert run(found)["a"].status == "regression"
    found.verdicts.fail(part, "a log-probability is nan")
    assert [verdict.status for verdict in found.verdicts.all()] == ["regression"]


def test_looks_are_at_equal_numbers_of_items() -> None:
    answers, levels = right(), Levels(0.05, 0.1, 4)
    after = flipped(answers, 0.05, 0.05)
    part = made("a", ACCURACY, answers, after, Rule("proved", 1.5), levels=levels)
    found = gate(part, levels=levels)
    verdict = run(found)["a"]
    assert {done.parts for done in found.slices} == {N // 4}
    assert verdict.evidence.startswith("p ")
    assert " of a loss of the margin" in verdict.evidence


# --- order and schedule ---------------------------------------------------------------------


@given(st.integers(1, 500), st.integers(0, 5))
def test_the_order_is_one_of_all_parts(count: int, seed: int) -> None:
    found = order.shuffled(range(count), seed, "lambada", "paper")
    assert sorted(found) == list(range(count))
    assert found == order.shuffled(range(count), seed, "lambada", "paper")


def test_the_order_depends_on_seed_and_benchmark() -> None:
    orders = {
        order.shuffled(range(50), seed, name)
        for seed in (0, 1) for name in ("lambada", "ptb")
    }  # fmt: skip
    assert len(orders) == 4


@given(st.integers(1, 200), st.integers(1, 20))
def test_looks_end_with_the_last_part(parts: int, looks: int) -> None:
    done, sizes = 0, []
    while done < parts:
        sizes.append(order.look(parts, done, looks))
        done += sizes[-1]
    assert done == parts
    assert len(sizes) == min(looks, parts)
    assert max(sizes) - min(sizes) <= 1


def test_a_slice_is_a_fiftieth_of_the_run_or_fills_the_batches() -> None:
    assert order.slice_size(parts=1000, seconds=10.0, total_seconds=20.0) == 40
    assert order.slice_size(parts=1000, seconds=10.0, total_seconds=2000.0) == 1000
    assert order.batch_size(parts=1000, tokens=100_000, batch_tokens=2000) == 20
    assert order.batch_size(parts=10, tokens=100, batch_tokens=2000) == 10


def test_time_is_in_proportion_to_information() -> None:
    schedule: Schedule[str] = Schedule()
    information = {"a": 3.0, "b": 1.0}
    spent = {"a": 0.0, "b": 0.0}
    for step in range(400):
        name = schedule.next(information)
        assert step or name == "a", "the most informative is first"
        seconds = {"a": 1.0, "b": 0.5}[name]
        schedule.spent(name, seconds, information[name])
        spent[name] += seconds
    assert spent["a"] / spent["b"] == pytest.approx(3.0, rel=0.02)


def test_the_benchmark_that_decides_sooner_is_asked_first() -> None:
    answers = right()
    after = flipped(answers, 0.05, 0.05)
    slow = made("slow", ACCURACY, answers, after, Rule("proved", 2.0), seconds=100.0)
    quick = made("quick", ACCURACY, answers, after, Rule("proved", 10.0), seconds=1.0)
    found = gate(slow, quick)
    names = [done.benchmark for done in found.run()]
    assert names[0] == "quick paper"


def test_parts_that_the_baseline_lacks_are_left_out() -> None:
    whole = Answers(right(n=5), "score")
    held = replace(outcomes(right(n=3), "score"), ids=("0", "2", "4"))
    assert known_parts(whole.parts, held, ["score"]) == [0, 2, 4]


@pytest.mark.parametrize(("rule", "refused"), [("paired", True), ("absolute", False)])
def test_too_few_items_for_a_test_are_refused(
    rule: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = right(n=4)
    planned = made("a", ACCURACY, answers, answers, Rule(rule)).planned
    monkeypatch.setattr(
        benchmarks, "Evaluation", lambda job, engine, prepared: Answers(answers, "score")
    )
    identity = SimpleNamespace(tokenizer=planned.run.record.model["tokenizer"])
    backend = SimpleNamespace(options=SimpleNamespace(budget=64))
    engine: Any = SimpleNamespace(identity=identity, backend=backend)
    found = benchmarks.begin(planned, engine, LEVELS, cost=Cost(1.0, 1), seed=0)
    too_few = {"score": "4 examples are too few for a paired test"}
    assert found.refused == (too_few if refused else {})
    assert bool(found.open) is not refused


def test_scores_without_pairs_are_refused_where_a_rule_needs_them() -> None:
    chosen = replace(ACCURACY, select=lambda table: table)
    for rule, expected in (("proved", ["score"]), ("pooled", ["score"]), ("absolute", [])):
        planned = made("a", chosen, right(), right(), Rule(rule, 1.0)).planned
        tokenizer = planned.run.record.model["tokenizer"]
        assert list(benchmarks.refused_scores(planned, tokenizer)) == expected


@pytest.mark.parametrize(("unit", "refused"), [("word", False), ("token", True)])
def test_only_scores_per_token_need_the_tokenizer_of_the_baseline(unit: str, refused: bool) -> None:
    rows = [(1.0, 1.0)] * 5
    planned = made("a", perplexity(unit), rows, rows, Rule("paired")).planned
    own = planned.run.record.model["tokenizer"]
    assert not benchmarks.refused_scores(planned, own)
    found = benchmarks.refused_scores(planned, "another")
    assert list(found) == ["score"] * refused
    assert all("it counts tokens" in why for why in found.values())
