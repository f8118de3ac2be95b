"""What a run will cost, and how many rows a budget allows."""

import json
from pathlib import Path

import pytest
from console import harness, record_files, refused
from hypothesis import given
from hypothesis import strategies as st

from harness.commands.planning import allot
from harness.core import Encoding, Generate, Loglikelihood, NextWord, Request, RollingLoglikelihood
from harness.engine import estimate as estimate_module
from harness.engine import local as local_module
from harness.engine import reader as reader_module
from harness.engine.checkpoint import Checkpoint
from harness.engine.engine import Engine
from harness.engine.estimate import Estimate, Rates
from harness.engine.forward import Forward
from harness.engine.store import Store

SCORED: list[Request] = [
    *(Loglikelihood(f"The {noun} sat on", f" the {place}") for noun in ("cat", "dog", "ant", "man")
      for place in ("sand", "mat", "hat")),
    *(RollingLoglikelihood((f"{word} and the sand.\n" * 30,)) for word in ("The", "An", "Sand")),
]  # fmt: skip
WRITTEN: list[Request] = [
    Generate((f"Q: {word}?\nA:",), 6, stop=("\n",)) for word in ("who", "what", "where")
]
RATES = Rates(token=0.01, path=0.0, tree=0.0, head=0.0, step=0.01)


@pytest.fixture
def known_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred tokens a second, whatever this machine does."""
    monkeypatch.setattr(local_module, "rates", lambda forward, key: RATES)


def planned(engine: Engine, requests: list[Request]) -> Estimate:
    return engine.estimate(requests, engine.encode(requests, Encoding()))


def run(engine: Engine, requests: list[Request]) -> None:
    for _ in engine.answer(requests, engine.encode(requests, Encoding())):
        pass


# --- estimates ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_tokens_of_scored_requests_are_foretold_exactly(
    share: bool, tiny: Checkpoint, known_rates: None
) -> None:
    engine = Engine(tiny, budget=128, share=share)
    found = planned(engine, SCORED)
    run(engine, SCORED)
    assert (found.asked, found.computed) == (engine.tokens.asked, engine.tokens.computed)
    assert found.questions == len({q for e in engine.encode(SCORED, Encoding()) for q in e.spans})
    assert not found.at_most


def test_texts_cost_at_most_what_is_foretold(tiny: Checkpoint, known_rates: None) -> None:
    engine = Engine(tiny, budget=128)
    found = planned(engine, WRITTEN)
    run(engine, WRITTEN)
    assert found.at_most
    assert engine.tokens.computed <= found.computed
    assert engine.tokens.asked <= found.asked


def test_what_is_on_disk_costs_nothing(tiny: Checkpoint, tmp_path: Path, known_rates: None) -> None:
    some = SCORED[:5]
    run(Engine(tiny, budget=128, store=Store(tmp_path)), some)
    engine = Engine(tiny, budget=128, store=Store(tmp_path))
    alone = Engine(tiny, budget=128)
    run(alone, some)
    assert planned(engine, SCORED).stored == alone.tokens.asked
    run(engine, SCORED)
    assert planned(engine, SCORED).computed == 0
    assert planned(engine, SCORED).seconds == 0
    [holding] = Store(tmp_path).holdings()
    assert holding.hits == len(some)  # looking is no use


def test_seconds_are_tokens_times_their_rate(tiny: Checkpoint, known_rates: None) -> None:
    engine = Engine(tiny, budget=1 << 20, share=False)
    requests: list[Request] = [RollingLoglikelihood(("sand",))]
    found = planned(engine, requests)
    assert found.seconds == pytest.approx(0.01 * found.computed)
    searched = planned(engine, [NextWord("the sand", frozenset())])
    assert searched.computed > found.computed


def test_no_token_of_the_data_is_fed(
    tiny: Checkpoint, known_rates: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tiny, share=False)

    def fed(*words: object, **more: object) -> None:
        raise AssertionError("a plan feeds nothing")

    monkeypatch.setattr(reader_module, "score", fed)
    monkeypatch.setattr(Forward, "trunk", fed)
    assert planned(engine, SCORED + WRITTEN).computed > 0


def test_rates_are_measured_once_and_kept(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def measured(forward: Forward) -> Rates:
        calls.append(forward)
        return RATES

    monkeypatch.setattr(estimate_module, "measure", measured)
    for _ in range(2):
        assert estimate_module.rates(Engine(tiny).solver.forward, "this machine") == RATES  # type: ignore[attr-defined]
    assert len(calls) == 1


def test_measured_rates_are_times(tiny: Checkpoint) -> None:
    found = estimate_module.measure(Engine(tiny).solver.forward)  # type: ignore[attr-defined]
    assert min(found.token, found.head, found.step) > 0
    assert found.tree >= found.path >= 0


def test_memory_is_at_least_what_the_process_holds(tiny: Checkpoint, known_rates: None) -> None:
    held = estimate_module.resident_bytes()
    assert planned(Engine(tiny), SCORED).peak_bytes > held / 2 > 10_000_000


# --- budgets --------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12), st.floats(0.001, 1e6))
def test_shares_keep_to_the_budget_and_waste_nothing(costs: list[float], budget: float) -> None:
    shares = allot(costs, budget)
    assert all(0 <= share <= cost for share, cost in zip(shares, costs, strict=True))
    assert sum(shares) == pytest.approx(min(budget, sum(costs)))
    cut = [share for share, cost in zip(shares, costs, strict=True) if share < cost * (1 - 1e-9)]
    for share in shares if cut else []:
        assert share <= min(cut) * (1 + 1e-6)  # who does not get all gets no less than others


def records(out: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in record_files(out)]


def test_a_budget_chooses_rows_by_the_seed(
    tiny_folder: Path, tmp_path: Path, known_rates: None
) -> None:
    run_ = ("lambada", "--model", tiny_folder, "--sample", "--no-cache", "--context", 64, "--out")
    whole = harness(*run_, tmp_path / "whole", "--plan")
    assert whole.code == 0, whole.err
    result = harness(*run_, tmp_path / "some", "--budget", "4s")
    assert result.code == 0, result.err
    [record] = records(tmp_path / "some")
    assert 2 <= record["examples"] < 12  # type: ignore[operator]
    assert record["limit"] == record["examples"]
    assert "of the budget" in result.err
    again = harness(*run_, tmp_path / "again", "--limit", record["limit"])
    assert again.code == 0
    assert records(tmp_path / "again")[0]["scores"] == record["scores"]


def test_a_budget_that_is_enough_changes_nothing(
    tiny_folder: Path, tmp_path: Path, known_rates: None
) -> None:
    run_ = ("lambada", "--model", tiny_folder, "--sample", "--no-cache", "--out", tmp_path)
    assert harness(*run_, "--budget", "100h").code == 0
    assert records(tmp_path)[0]["limit"] is None


# --- the command ----------------------------------------------------------------------------


def test_plan_prints_a_line_a_benchmark_and_writes_no_record(
    tiny_folder: Path, tmp_path: Path, known_rates: None
) -> None:
    out = tmp_path / "records"
    result = harness("table3", "--model", tiny_folder, "--sample", "--plan", "--out", out)
    assert result.code == 0, result.err
    names = [line.split()[0] for line in result.out.splitlines()[2:-1]]
    assert names[:2] == ["lambada", "cbt-cn"]
    assert len(names) >= 9
    assert record_files(out) == []


@pytest.mark.parametrize("budget", ["soon", "0m", "5", "-1m", "1y"])
def test_a_budget_that_is_no_time_is_refused(budget: str, tiny_folder: Path) -> None:
    run_ = ("lambada", "--model", tiny_folder, "--sample")
    assert "such as 10m" in refused(*run_, "--budget", budget)


def test_a_plan_has_no_scores_to_print(tiny_folder: Path) -> None:
    run_ = ("lambada", "--model", tiny_folder, "--sample", "--plan")
    assert "--plan computes no scores" in refused(*run_, "--json")
