"""The self-test of a gate: it accepts its own checkpoint, and refuses it with noise."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from conftest import save_tiny
from console import Result, harness, made_record, refused

from harness.analysis.rules.rule import Rule
from harness.commands.compare import self_test as command
from harness.commands.model_options import ModelOptions
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.settings import BFLOAT16_PRODUCTS
from harness.errors import CheckpointError, UsageError
from harness.gate.scores import GatedScore
from harness.gate.self_test import BATCHES, Candidate, candidates, catch, parse_noise
from harness.metrics import Metric
from harness.metrics.corpus import ACCURACY, perplexity

ROWS = 60
WORDS = ("the", "sand", "said", "that", "a", "small", "hand", "had", "seen", "the", "sea", "and")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, and a baseline of it."""
    root = tmp_path_factory.mktemp("self-test")
    save_tiny(root / "tiny", context=64)
    rng = np.random.default_rng(0)
    (root / "data").mkdir()
    lines = [json.dumps({"text": " ".join(rng.choice(WORDS, 9))}) for _ in range(ROWS)]
    (root / "data" / "lambada_test.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(root / "cache"))
        model = ("--model", root / "tiny", "--device", "cpu")
        data = ("--data-dir", root / "data", "--protocol", "lm-eval")
        done = harness("lambada", *model, *data, "--no-cache", "--out", root / "records")
        assert done.code == 0, done.err
        rule = ("--rule", "proved:20%", "--score", "lambada:acc-word-greedy=report")
        done = harness("baseline", root / "records", "--out", root / "main.toml", *rule)
        assert done.code == 0, done.err
    return root


@pytest.fixture(autouse=True)
def cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(place / "cache"))  # measures the machine once


def gate(place: Path, *words: object) -> Result:
    data = ("--data-dir", place / "data", "--device", "cpu")
    return harness("gate", "--baseline", place / "main.toml", *data, "--self-test", *words)


def test_same_weights_are_accepted_and_noise_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = gate(place, "--batch-tokens", 300, "--noise", "90%", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["exit"] == 0
    by_name = {one["candidate"]: one for one in found["candidates"]}
    assert list(by_name) == ["same weights, 300 tokens a batch", "90 % noise"]
    for one in by_name.values():
        [ppl] = [v for v in one["verdicts"] if v["metric"] == "ppl"]
        assert (ppl["items"], ppl["of"]) == (one["used"], one["of"])
        assert one["of"] == ROWS
        if one["noise"] == 0:
            assert (one["exit"], ppl["status"], ppl["would_catch"]) == (0, "fine", None)
    [worse] = [v for v in by_name["90 % noise"]["verdicts"] if v["metric"] == "ppl"]
    assert worse["status"] == "regression"
    assert by_name["90 % noise"]["exit"] == 1
    assert worse["would_catch"]["loss"] > 0
    assert [*tmp_path.rglob("*")] == [], "a self-test writes nothing"


def test_baseline_names_the_model(place: Path) -> None:
    """Without --model; a wrong one is refused before it is gated."""
    other = save_tiny(place / "other", context=64, seed=1)
    line = refused_gate(place, "--model", other)
    assert f"model {str(other)!r} has the digest" in line
    assert f"the baseline's {str(place / 'tiny')!r} has" in line
    assert line.endswith("the self-test runs the baseline's own checkpoint; give its --model")
    line = refused_gate(place, "--dtype", "float16")
    assert f"computes in float16, the baseline's {str(place / 'tiny')!r} in float32" in line
    assert line.endswith("give --dtype float32")


@pytest.mark.parametrize(
    ("own", "now", "remedy"),
    [
        (BFLOAT16_PRODUCTS, "float32", "give --dtype bfloat16"),
        (BFLOAT16_PRODUCTS, "bfloat16", "run it on a CPU that computes as that of the baseline"),
        ("bfloat16", BFLOAT16_PRODUCTS, "run it on a CPU that computes as that of the baseline"),
    ],
)
def test_weights_that_are_computed_otherwise(
    tiny: Checkpoint, own: str, now: str, remedy: str
) -> None:
    record = made_record(model={**made_record().model, "dtype": own})
    with pytest.raises(CheckpointError, match=f"computes in {now}, .*; {remedy}$"):
        command.check_own(record, replace(tiny.identity, dtype=now))


def refused_gate(place: Path, *words: object) -> str:
    data = ("--data-dir", place / "data", "--device", "cpu")
    return refused("gate", "--baseline", place / "main.toml", *data, "--self-test", *words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--noise", "3"), "'3' is not a size of noise; expected percentages"),
        (("--noise", "0%"), "'0%' is not a size"),
        (("--noise", "1%,nan%"), "'nan%' is not a size"),
        (("--noise", "100%"), "'100%' is not a size"),
        (("--noise", "-1%"), "'-1%' is not a size"),
        (("--noise", ""), "'' is not a size"),
        (("--out", "here"), "leave out --out"),
        (("--junit", "junit.xml"), "leave out --junit"),
        (("--cache", "here"), "leave out --cache"),
        (("--model", "a", "--model", "b"), "gate --self-test takes one --model; 2 were given"),
    ],
)
def test_bad_options(place: Path, words: tuple[str, ...], expected: str) -> None:
    assert expected in refused_gate(place, *words)


def test_gate_needs_a_model_and_noise_a_self_test(place: Path) -> None:
    words = ("gate", "--baseline", place / "main.toml")
    assert "gate needs --model, the checkpoint to check, or --self-test" in refused(*words)
    assert "--noise belongs to --self-test" in refused(*words, "--model", "a", "--noise", "1%")


def test_what_was_found_before_an_error_is_shown(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = command._SelfTest.run

    def fails_with_noise(self: Any, candidate: Candidate) -> Any:
        if candidate.noise:
            raise UsageError("no more")
        return run(self, candidate)

    monkeypatch.setattr(command._SelfTest, "run", fails_with_noise)
    done = gate(place, "--batch-tokens", 300)
    assert (done.code, done.err.splitlines()[-1]) == (2, "harness: no more")
    [head, candidate, *_] = done.out.splitlines()
    assert head.split()[:3] == ["candidate", "score", "verdict"]
    assert candidate.startswith("same weights, 300 tokens a batch")


def test_model_of_the_baseline_as_it_was_loaded() -> None:
    stated = {"name": "org/model", "revision": "abc123", "options": {"activation": "gelu"}}
    record = made_record(model={**made_record().model, **stated})
    found = command.own_model(ModelOptions(threads=3), record)
    assert found == ModelOptions(("org/model",), "abc123", threads=3, options=("activation=gelu",))
    assert command.own_model(ModelOptions(("other",)), record) == ModelOptions(("other",))


def test_sizes_of_noise_and_candidates() -> None:
    assert parse_noise("1%, 3 %,1.5%,1%,.5%") == (0.01, 0.03, 0.015, 0.005)
    same, noisy = Candidate(0.0, 512), Candidate(0.01)
    assert candidates([0.01], None, 8192) == [same, noisy]
    assert [c.batch_tokens for c in candidates([], None, 2048)] == [*BATCHES] == [512, 8192]
    assert candidates([0.01], 700, 2048) == [Candidate(0.0, 700), Candidate(0.01, 700)]


def scored(metric: Metric, value: float, a: Any, b: Any, items: int) -> GatedScore:
    """A score with one slice of outcomes."""
    before, after = np.array(a, np.float64), np.array(b, np.float64)
    whole = before.sum(axis=0)
    score = GatedScore(("t", "p", "m"), Rule("proved", 1.0), metric, value, whole, 0.0, items, None)
    score.add(before, after)
    return score


def test_smallest_loss_by_hand() -> None:
    """8 of 100 answers became wrong and 4 right: the spread of an item is 34.28 points."""
    n, lost, won, items = 100, 8, 4, 2000
    a = [[1, 1]] * lost + [[0, 1]] * (n - lost)
    b = [[0, 1]] * lost + [[1, 1]] * won + [[0, 1]] * (n - lost - won)
    mean = 100 * (lost - won) / n
    squares = lost * (100 - mean) ** 2 + won * (100 + mean) ** 2 + (n - lost - won) * mean**2
    z = NormalDist().inv_cdf
    expected = (z(0.975) + z(0.9)) * (squares / (n - 1)) ** 0.5 / items**0.5
    found = catch(scored(ACCURACY, 8.0, a, b, items), 0.025)
    assert found.unit == "points"
    assert found.loss == pytest.approx(expected, rel=1e-9)


def test_smallest_loss_of_a_perplexity_is_a_share_of_it() -> None:
    """Near exp(m), a loss of x nats a word is 100 x percent."""
    rng = np.random.default_rng(1)
    nats = rng.gamma(4, 1, 500)
    more = nats + rng.normal(0, 0.1, 500)
    a, b = (np.stack([column, np.ones(500)], axis=1) for column in (nats, more))
    value = float(np.exp(nats.mean()))
    z = NormalDist().inv_cdf
    expected = 100 * (z(0.95) + z(0.9)) * float((more - nats).std(ddof=1)) / 500**0.5
    found = catch(scored(perplexity("word"), value, a, b, 500), 0.05)
    assert found.unit == "% of the score"
    assert found.loss == pytest.approx(expected, rel=0.02)


def test_no_smallest_loss_without_a_difference() -> None:
    same = [[1, 1], [0, 1], [1, 1]]
    assert catch(scored(ACCURACY, 66.7, same, same, 3), 0.05).loss is None
    assert catch(scored(ACCURACY, 66.7, same[:1], same[1:2], 3), 0.05).loss is None
