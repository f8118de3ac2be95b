"""The rule `proved`: fine, a regression or undecided, by limits of the loss."""

import re
from pathlib import Path

import numpy as np
import pytest
from console import harness
from test_check import (
    ACC,
    NATS,
    PPL,
    N,
    baseline,
    check,
    edited,
    held,
    jitter_file,
    lambada,
    made,
    right,
    worse_p,
)

from harness.metrics import ACCURACY, perplexity
from harness.stats.limits import limits

__all__ = ["held"]  # a fixture


def chance_of_no_loss(loss: float, examples: int) -> float:
    """That nothing is lost although `loss` points are lost on average, of examples that agree."""
    return (1 - loss / 100) ** examples


def test_runs_that_agree_are_fine_if_there_are_enough_examples(held: Path) -> None:
    """The limit is the loss under which 400 examples without a loss have probability 0.05."""
    found = check(held, baseline(held, "--rule", "proved:1"))
    assert (found.code, found.status(ACC), found.status(PPL)) == (0, "fine", "fine")
    assert chance_of_no_loss(found.verdicts[ACC]["upper"], N) == pytest.approx(0.05, abs=0.001)
    assert (found.verdicts[ACC]["margin"], found.verdicts[ACC]["items"]) == (1, N)
    [p] = re.findall(r"p ([\d.]+) of a loss of 1$", found.verdicts[ACC]["evidence"])
    assert float(p) == pytest.approx(chance_of_no_loss(1, N), abs=0.0015)


def test_too_few_examples_are_undecided_and_the_number_needed_is_said(
    held: Path, tmp_path: Path
) -> None:
    path = baseline(held, "--rule", "report", "--score", f"lambada:{ACC}=proved:0.5")
    found = check(held, path)
    assert (found.code, found.status(ACC)) == (0, "undecided")
    [more] = re.findall(r"about ([\d,]+) more examples", found.verdicts[ACC]["reason"])
    enough = N + int(more.replace(",", ""))
    assert chance_of_no_loss(0.5, enough) < 0.05, "as many decide"
    longer = made(tmp_path / "longer" / "held", {ACC: [*right()] * 9}, ids=range(enough))
    path = baseline(longer, "--rule", "proved:0.5")
    assert check(longer, path).status(ACC) == "fine"


@pytest.mark.parametrize(
    ("lost", "won", "status"),
    [
        (0, 0, "fine"),
        (2, 6, "fine"),  # better
        (4, 2, "fine"),
        (9, 4, "undecided"),
        (12, 2, "regression"),
        (40, 4, "regression"),
    ],
)
def test_a_verdict_follows_from_the_limits(
    held: Path, tmp_path: Path, lost: int, won: int, status: str
) -> None:
    path = baseline(held, "--rule", "report", "--score", f"lambada:{ACC}=proved:2.5")
    found = check(lambada(tmp_path / "run", lost=lost, won=won), path)
    assert found.status(ACC) == status
    assert found.code == (1 if status == "regression" else 0)
    upper = found.verdicts[ACC]["upper"]
    assert (upper < 2.5) == (status == "fine")
    assert upper > 100 * (lost - won) / N


def test_a_small_loss_that_is_certain_is_fine(held: Path, tmp_path: Path) -> None:
    """Every word is worse by 0.01 nats, so that a loss of 1 % is certain."""
    run = lambada(tmp_path / "run", nats=0.01)
    strict = baseline(held, "--rule", "proved:0.9%")
    assert check(run, strict).status(PPL) == "regression"
    found = check(run, baseline(held, "--rule", "proved:1.1%"))
    assert (found.code, found.status(PPL)) == (0, "fine")
    assert found.verdicts[PPL]["p"] < 0.01, "worse for sure"
    before = found.verdicts[PPL]["score"]["difference"]["a"]
    assert 0.01005 < found.verdicts[PPL]["upper"] / before < 0.011


def test_a_loss_must_be_above_the_smallest_that_matters(held: Path, tmp_path: Path) -> None:
    path = baseline(held, "--rule", "report", "--score", f"lambada:{ACC}=proved:2.5")
    run = lambada(tmp_path / "run", lost=12, won=2)
    assert check(run, path).status(ACC) == "regression"
    edited(path, "margin = 2.5", "margin = 2.5\nmin_loss = 2.4")
    found = check(run, path)
    assert (found.status(ACC), found.verdicts[ACC]["rule"]["min_loss"]) == ("undecided", 2.4)
    assert found.verdicts[ACC]["p"] > 0.3


def test_p_is_adjusted_over_proved_and_paired_scores(held: Path, tmp_path: Path) -> None:
    path = baseline(held, "--score", f"lambada:{ACC}=proved:1")
    found = check(lambada(tmp_path / "run", lost=8), path)
    assert found.status(ACC) == "regression"
    alone = baseline(held, "--rule", "report", "--score", f"lambada:{ACC}=proved:1")
    single = check(tmp_path / "run", alone).verdicts[ACC]["p"]
    assert found.verdicts[ACC]["p"] == pytest.approx(2 * single)
    assert single == pytest.approx(worse_p(8, 0), rel=1), "as McNemar's test, about"


@pytest.mark.parametrize(
    ("noise", "status"), [(0.1, "regression"), (5.0, "undecided"), (10.0, "fine")]
)
def test_jitter_is_the_least_margin_and_the_least_loss(
    held: Path, tmp_path: Path, noise: float, status: str
) -> None:
    path = baseline(held, "--rule", "report", "--score", f"lambada:{ACC}=proved:1")
    run = lambada(tmp_path / "run", lost=20)  # 5 points
    moved = jitter_file(tmp_path / "jitter.json", noise)
    assert check(run, path, "--jitter", moved).status(ACC) == status


@pytest.mark.parametrize(
    ("lost", "proof", "code"), [(0, False, 0), (0, True, 3), (40, False, 1), (40, True, 1)]
)
def test_exit_codes_where_proof_is_required(
    held: Path, tmp_path: Path, lost: int, proof: bool, code: int
) -> None:
    path = baseline(held, "--rule", "proved:0.5")
    words = ["--require-proof"] if proof else []
    result = harness("check", lambada(tmp_path / "run", lost=lost), "--baseline", path, *words)
    assert result.code == code, result.err
    assert ("undecided" in result.out) == (lost == 0)


def test_a_supporting_score_may_stay_undecided(held: Path) -> None:
    path = baseline(held, "--rule", "proved:0.5", "--tier", "supporting")
    result = harness("check", held, "--baseline", path, "--require-proof")
    assert result.code == 0
    assert "undecided (supporting)" in result.out


def test_one_example_proves_nothing(held: Path, tmp_path: Path) -> None:
    run = made(tmp_path / "run", {PPL: NATS * 2, ACC: [*right()] * 2}, ids=range(N - 1, 2 * N - 1))
    found = check(run, baseline(held, "--rule", "proved:2"))
    assert (found.code, found.status(ACC), found.status(PPL)) == (2, *["not comparable"] * 2)
    assert "too few" in found.verdicts[ACC]["reason"]


def test_a_few_examples_leave_it_undecided(held: Path, tmp_path: Path) -> None:
    """As in a gate; with the number of examples that would decide."""
    run = made(tmp_path / "run", {PPL: NATS * 2, ACC: [*right()] * 2}, ids=range(N - 3, 2 * N - 3))
    found = check(run, baseline(held, "--rule", "proved:2"))
    assert (found.code, found.status(ACC)) == (0, "undecided")
    assert "more examples would decide with 90 % probability" in found.verdicts[ACC]["reason"]


def test_the_reports_are_those_of_the_library(held: Path, tmp_path: Path) -> None:
    """The limit in a report is that of the outcomes themselves, of corpus scores as well."""
    run = lambada(tmp_path / "run", lost=7, won=3, nats=0.02)
    found = check(run, baseline(held, "--rule", "proved:3"))
    nats = np.array(NATS)
    a, b = np.array(right()), np.array(right(lost=7, won=3))
    assert found.verdicts[ACC]["upper"] == limits(ACCURACY, a, b, alpha=0.05).upper
    worse = nats + np.array([0.02, 0])
    assert found.verdicts[PPL]["upper"] == pytest.approx(
        limits(perplexity("word"), nats, worse, alpha=0.05).upper
    )
