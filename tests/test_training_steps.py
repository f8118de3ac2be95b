"""The training step in a checkpoint's name, revisions, and steps that leave their curve."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.step_outliers import DOUBLING, EVEN, SHAPES, rates
from harness.analysis.steps import leaving, outliers
from harness.core import Score
from harness.engine.checkpoint.steps import run_of, split_revision, step_of

STEPS = {
    "checkpoint-500": 500,
    "out/checkpoint-500/": 500,
    "out/checkpoint-500/model.safetensors": 500,
    "checkpoint-2024": 2024,
    "checkpoint_055500": 55500,
    "ckpt_356": 356,
    "model.ckpt-1000000": 1000000,
    "step0": 0,
    "step1000": 1000,
    "step-1000": 1000,
    "run/step-00001000": 1000,
    "checkpoints/0000000500": 500,
    "checkpoints/0000000500/consolidated": 500,
    "iter_2000": 2000,
    "iter_0002000/mp_rank_00": 2000,
    "iter-001000-ckpt.pth": 1000,
    "ckpt_iter_2000.pt": 2000,
    "model_00005000.bin": 5000,
    "model_00000120_bf16.bin": 120,
    "model_00050.pt": 50,
    "d12/model_000150.pt": 150,
    "state_step000100.pt": 100,
    "global_step143000": 143000,
    "globalstep10": 10,
    "step1000-tokens4B": 1000,
    "stage1-step1000-tokens3B": 1000,
    "step1000-unsharded": 1000,
    "epoch=3-step=900.ckpt": 900,
    "ep0-ba4800-rank0.pt": 4800,
    "gpt--val_loss=7.57-step=100-consumed_samples=300.0.nemo": 100,
    "TinyLlama/TinyLlama-1.1B-step-50K-105b": 50_000,
    "google/multiberts-seed_0-step_20k": 20_000,
    "EleutherAI/pythia-14m@step1000": 1000,
    "from-step500/step1000": 1000,
    "from-step500-step1000": 1000,
    "checkpoint-9-step1000": 1000,
}
NO_STEP = (
    "gpt2", "gpt2-xl", "pythia-14m", "EleutherAI/pythia-1.4b-deduped", "facebook/opt-1.3b",
    "llama-3", "d12", "v1.0", "model_124M", "gpt2_124M.bin", "gpt2_124M_bf16.bin", "ckpt.pt",
    "model.pt", "model_2.pt", "model_2024.pt", "model_v2", "model_20240501.pt", "checkpoint-final",
    "checkpoint-350M", "checkpoint-1.5", "checkpoint-20240501", "checkpoint-2024-05-01",
    "checkpoint12.pt", "checkpoint_1_50000.pt", "epoch-3", "epoch_10.pt", "chck_1M", "2024",
    "1732570000", "x0000000500",
    "model-00001-of-00005.safetensors", "checkpoint-1-of-2", "step-2-of-3", "step", "steps",
    "Step-3.5-Flash", "timestep100", "gemma-2b-it-4bit", "main", "refs/pr/3", "", "/",
    "step9999999999999", "step1000x", "iter_5x", "run-step-5/data/ckpt.pt",
)  # fmt: skip


@pytest.mark.parametrize(("name", "step"), STEPS.items())
def test_the_step_in_a_name(name: str, step: int) -> None:
    assert step_of(name) == step


@pytest.mark.parametrize("name", NO_STEP)
def test_a_number_that_is_no_step(name: str) -> None:
    assert step_of(name) is None
    assert run_of(name) == name


@pytest.mark.parametrize(
    ("names", "run"),
    [
        (("out/checkpoint-500", "out/checkpoint-1000"), "out/checkpoint-*"),
        (("a/step1000-tokens4B", "a/step2000-tokens8B"), "a/step*-tokens*"),
        (("epoch=3-step=900.ckpt", "epoch=10-step=3000.ckpt"), "epoch=*-step=*.ckpt"),
        (("ep0-ba48-rank0.pt", "ep1-ba96-rank0.pt"), "ep*-ba*-rank0.pt"),
        (("x-1.1B-step-50K-105b", "x-1.1B-step-100K-210b"), "x-1.1B-step-*-*"),
        (("step-5/lit_model.pth", "step-10/lit_model.pth"), "step-*/lit_model.pth"),
        (("a/0000000500", "a/0000001000"), "a/*"),
        (("me/a-14m@step1", "me/a-14m@step512"), "me/a-14m@step*"),
        (("stage1-step1000-seed1", "stage1-step2000-seed1"), "stage1-step*-seed1"),
    ],
)
def test_the_checkpoints_of_one_run_share_a_name(names: tuple[str, ...], run: str) -> None:
    assert {run_of(name) for name in names} == {run}


def test_other_runs_have_other_names() -> None:
    names = ("a/step1", "b/step1", "me/a@step1", "me/b@step1", "stage2-step1", "step1-seed2")
    assert len({run_of(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gpt2", ("gpt2", None)),
        ("me/model@step1000", ("me/model", "step1000")),
        ("me/model@refs/pr/3", ("me/model", "refs/pr/3")),
        ("me/model@step*", ("me/model", "step*")),
        ("me/model@", ("me/model@", None)),
        ("@step1", ("@step1", None)),
        ("./out@step1", ("./out@step1", None)),
        ("a/b/c@step1", ("a/b/c@step1", None)),
        ("/data/run@home/step1", ("/data/run@home/step1", None)),
        ("me/model@\0", ("me/model", "\0")),
    ],
)
def test_the_revision_in_a_name(name: str, parts: tuple[str, str | None]) -> None:
    assert split_revision(name) == parts


def test_a_folder_with_an_at_sign_has_no_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run@home").mkdir()
    monkeypatch.chdir(tmp_path)
    assert split_revision("run@home") == ("run@home", None)


# --- steps that leave their neighbours' curve ---------------------------------------------------

PYTHIA = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 143_001, 1000)]


def perplexity(value: float, error: float = 0.01) -> Score:
    """A perplexity whose logarithm has that standard error."""
    low, high = value * math.exp(-1.96 * error), value * math.exp(1.96 * error)
    return Score("ppl", value, "per word", False, None, low, high, {})


def learning(step: int) -> float:
    """Perplexity of a run that begins at 50,000 and falls to about 20."""
    return math.exp(3 + 7.8 * (1 + step / 60) ** -0.8)


def test_a_wrong_checkpoint_among_many_is_marked() -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, len(PYTHIA))
    values = {s: learning(s) * math.exp(n) for s, n in zip(PYTHIA, noise, strict=True)}
    assert outliers([(s, perplexity(v)) for s, v in values.items()]) == set()
    values[32_000] *= 1.2
    points = [(s, perplexity(v)) for s, v in values.items()]
    assert outliers(points) == {32_000}
    assert outliers(points[::-1]) == {32_000}
    values[33_000] *= 1.4  # a wrong neighbour does not hide it
    assert outliers([(s, perplexity(v)) for s, v in values.items()]) == {32_000, 33_000}


def test_an_interval_that_covers_the_jump_is_no_mark() -> None:
    values = [30.0, 29, 28, 35, 27, 26, 25]
    assert outliers([(s, perplexity(v)) for s, v in enumerate(values)]) == {3}
    assert outliers([(s, perplexity(v, 0.1)) for s, v in enumerate(values)]) == set()


def test_the_ends_and_short_curves_are_not_marked() -> None:
    values = [90.0, 30, 29, 28, 27, 26, 90]
    assert outliers([(s, perplexity(v)) for s, v in enumerate(values)]) == set()
    assert outliers([(s, perplexity(v)) for s, v in enumerate([30.0, 29, 90, 28, 27])]) == set()
    assert outliers([]) == set()


def test_scores_without_intervals_are_compared_with_each_other() -> None:
    scores = [10.0, 10.2, 10.1, 14.0, 10.3, 10.2, 10.4]
    points = [(s, Score("rouge", v, "", True, None, None, None, {})) for s, v in enumerate(scores)]
    assert outliers(points) == {3}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_smooth_curves_and_lasting_jumps_are_rarely_marked(shape: str, noise: float) -> None:
    for steps in (EVEN, DOUBLING):
        hit, other = rates(steps, SHAPES[shape](steps), noise, 0, 200)
        assert hit + other <= (0.05 if noise else 0)


def test_a_large_jump_is_nearly_always_marked() -> None:
    hit, other = rates(EVEN, SHAPES["flat"](EVEN), 1.0, 12, 200)
    assert hit > 0.95
    assert other < 0.05


@given(st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=30), st.booleans())
def test_a_curve_that_only_falls_or_only_rises_is_never_marked(
    values: list[float], falls: bool
) -> None:
    ordered = np.array(sorted(values, reverse=falls))
    assert not any(leaving(np.arange(float(len(ordered))), ordered, np.zeros(len(ordered))))


def test_marks_do_not_depend_on_the_direction() -> None:
    values = np.array([5.0, 4, 3.5, 9, 3, 2.8, 2.7])
    errors = np.full(7, 0.1)
    assert leaving(np.arange(7.0), values, errors) == [False] * 3 + [True] + [False] * 3
    assert leaving(np.arange(7.0), -values, errors) == [False] * 3 + [True] + [False] * 3
