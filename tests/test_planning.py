"""What a run will cost, and how many rows a budget allows."""

import json
import math
import runpy
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as tf
from conftest import byte_tokenizer
from console import harness, record_files, refused
from hypothesis import given
from hypothesis import strategies as st

from harness.core import Encoding, Generate, Loglikelihood, NextWord, Request, RollingLoglikelihood
from harness.engine.backends import cost, machine
from harness.engine.backends import in_process as local_module
from harness.engine.backends import rates as rates_module
from harness.engine.backends.cost import Estimate
from harness.engine.backends.rates import Rates
from harness.engine.cache.store import Store
from harness.engine.checkpoint import random_model as tiny_module
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.settings import Settings
from harness.engine.engine import Engine
from harness.engine.model.forward import Forward
from harness.jobs.budget import allot

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
    assert found.queries == len({q for e in engine.encode(SCORED, Encoding()) for q in e.spans})
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
    [holding] = Store(tmp_path).entries()
    assert holding.hits == len(some)  # nothing would be found


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
    rows: list[list[int]] = []
    trunk = Forward.trunk

    def watched(self: Forward, ids: torch.Tensor, *words: object, **more: object) -> torch.Tensor:
        rows.extend(ids.tolist())
        return trunk(self, ids, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Forward, "trunk", watched)
    assert planned(engine, SCORED + WRITTEN).computed > 0
    beginnings = {
        tuple(span.inputs[:4])
        for e in engine.encode(SCORED + WRITTEN, Encoding())
        for span in e.spans
    }
    assert beginnings.isdisjoint(tuple(row[:4]) for row in rows), "made-up tokens alone are fed"


def test_rates_are_measured_once_and_kept(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def measured(forward: Forward) -> Rates:
        calls.append(forward)
        return RATES

    monkeypatch.setattr(rates_module, "measure", measured)
    for _ in range(2):
        assert rates_module.rates(Engine(tiny).backend.forward, "this machine") == RATES  # type: ignore[attr-defined]
    assert len(calls) == 1


def test_measured_rates_are_times(tiny: Checkpoint) -> None:
    found = rates_module.measure(Engine(tiny).backend.forward)  # type: ignore[attr-defined]
    assert min(found.token, found.head, found.step) > 0
    assert found.tree >= found.path >= 0


def test_memory_is_at_least_what_the_process_holds(tiny: Checkpoint, known_rates: None) -> None:
    held = machine.resident_bytes()
    assert planned(Engine(tiny), SCORED).peak_bytes > held / 2 > 10_000_000


# --- families -------------------------------------------------------------------------------


def test_every_token_costs_a_full_pass_where_no_cache_is_kept(
    tmp_path: Path, known_rates: None
) -> None:
    tokenizer = byte_tokenizer()
    tf.OpenAIGPTLMHeadModel(
        tf.OpenAIGPTConfig(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2)
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = Engine(load(str(tmp_path), Settings(device="cpu")))
    requests: list[Request] = [Generate((word,), 6) for word in ("who", "what and where")]
    found = planned(engine, requests)
    run(engine, requests)
    assert engine.tokens.computed <= found.computed
    lengths = [len(e.spans[0].inputs) for e in engine.encode(requests, Encoding())]
    assert found.computed == sum(6 * n + sum(range(6)) for n in lengths)
    assert found.seconds > 0.01 * found.computed


@pytest.mark.parametrize("family", ["bloom", "mamba", "falcon alibi"])
def test_models_that_take_no_tree_mask_have_rates(family: str) -> None:
    size = {"hidden_size": 32, "vocab_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2}
    make = {
        "bloom": lambda: tf.BloomForCausalLM(tf.BloomConfig(**size, n_layer=2, n_head=2)),
        "mamba": lambda: tf.MambaForCausalLM(
            tf.MambaConfig(**size, num_hidden_layers=2, state_size=4)
        ),
        "falcon alibi": lambda: tf.FalconForCausalLM(
            tf.FalconConfig(**size, **heads, alibi=True, new_decoder_architecture=False)
        ),
    }
    small = tiny_module.checkpoint(context=64)
    forward = Forward(replace(small, model=make[family]().eval()))
    found = rates_module.measure(forward)
    assert min(found.token, found.head, found.step) > 0
    assert found.tree >= found.path >= 0


def test_logits_at_every_position_are_in_the_memory_that_is_foretold(tiny: Checkpoint) -> None:
    """Tokens x vocabulary x 4 bytes, and once more for a scaled copy."""
    forward = Engine(tiny).backend.forward  # type: ignore[attr-defined]
    one, two = (cost.batch_bytes(forward, n, 64, kept=False) for n in (1000, 2000))
    forward.all_logits = True
    three, four = (cost.batch_bytes(forward, n, 64, kept=False) for n in (1000, 2000))
    assert three - one == 2 * 1000 * forward.vocabulary * 4
    assert four - two == 2 * 2000 * forward.vocabulary * 4


def test_the_widest_feed_forward_layer_counts() -> None:
    """Some configs have a width for each layer, some call it otherwise, some do not say."""
    widest = cost._inner_size
    assert widest(SimpleNamespace(intermediate_size=[48, 96])) == 96
    assert widest(SimpleNamespace(intermediate_size=None, ffn_dim=64)) == 64
    assert widest(SimpleNamespace()) == 0


# --- the file of rates ----------------------------------------------------------------------

SOUND = asdict(RATES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "3",
        "[" * 100_000,
        '{"key": ' * 100_000,
        '{"key": {"token": ' + "9" * 5000 + "}}",
        b"\xff\xfe",
        *(
            json.dumps({"key": {**SOUND, "token": value}})
            for value in ("fast", None, [1], True, -1.0, math.nan, math.inf, 1e300)
        ),
        json.dumps({"key": {**SOUND, "more": 1.0}}),
        json.dumps({"key": list(SOUND)}),
        '{"key": {"token": 1e999, "path": 0, "tree": 0, "head": 0, "step": 0}}',
    ],
    ids=lambda text: repr(text)[:30],
)
def test_a_file_that_holds_no_rates_is_measured_anew(
    text: str | bytes, tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rates_module, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(rates_module, "measure", lambda forward: RATES)
    memory = tmp_path / rates_module.FILE
    memory.write_bytes(text if isinstance(text, bytes) else text.encode())
    forward = Engine(tiny).backend.forward  # type: ignore[attr-defined]
    assert rates_module.rates(forward, "key") == RATES
    assert json.loads(memory.read_text()) == {"key": SOUND}


def test_sound_rates_beside_others_stay(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rates_module, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(rates_module, "measure", lambda forward: RATES)
    whole = {**SOUND, "step": 2}  # a whole number is a number
    memory = tmp_path / rates_module.FILE
    memory.write_text(json.dumps({"other": SOUND, "whole": whole, "broken": {"token": 1}}))
    forward = Engine(tiny).backend.forward  # type: ignore[attr-defined]
    assert rates_module.rates(forward, "whole").step == 2
    rates_module.rates(forward, "key")
    assert json.loads(memory.read_text()) == {"other": SOUND, "whole": whole, "key": SOUND}
    assert [path.name for path in tmp_path.iterdir()] == [rates_module.FILE]


def test_without_the_module_that_counts_memory_the_weights_are_counted(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, known_rates: None
) -> None:
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert machine.resident_bytes() == 0
    weights = sum(p.numel() * 4 for p in tiny.model.parameters())
    assert planned(Engine(tiny), SCORED).peak_bytes > weights
    again = runpy.run_path(machine.__file__)
    assert again["resident_bytes"]() == 0, "it is imported without that module too"


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
