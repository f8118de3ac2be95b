"""Losses of units: exact for means, close for the rest, and swaps change nothing but signs."""

import math

import numpy as np
import pytest
from test_paired import KINDS, runs

from harness.errors import NumericsError
from harness.metrics import ACCURACY, MEAN, bits, perplexity
from harness.stats.losses import losses, losses_so_far
from harness.stats.paired import Table, values

MEANS = ("accuracy", "mean over runs")


def change(kind: str, a: Table, b: Table) -> float:
    """By how much b is worse, from the scores themselves."""
    metric = KINDS[kind][0]
    first, second = (float(values(metric, run.sum(axis=0))) for run in (a, b))
    return first - second if metric.higher_is_better else second - first


def test_right_or_wrong_is_100_points_for_each_flip() -> None:
    a = np.array([[1.0, 1], [1, 1], [0, 1], [0, 1]])
    b = np.array([[0.0, 1], [1, 1], [1, 1], [0, 1]])
    found = losses(ACCURACY, a, b)
    assert found.values == pytest.approx([100, 0, -100, 0], abs=1e-12)
    assert found.weights.tolist() == [1, 1, 1, 1]


def test_bits_of_lines_by_hand() -> None:
    """Two lines of 10 and 30 bytes: (nats of b - nats of a) / ln 2 / 20 bytes, the mean length."""
    a = np.array([[7.0, 10], [20.0, 30]])
    b = np.array([[8.0, 10], [19.5, 30]])
    found = losses(bits("byte"), a, b)
    assert found.values == pytest.approx([1 / math.log(2) / 20, -0.5 / math.log(2) / 20])
    assert found.weights == pytest.approx([0.5, 1.5])


def test_perplexity_by_hand() -> None:
    """The derivative of exp(nats / words) is the perplexity in the middle, for each word."""
    a = np.array([[9.0, 3], [12.0, 4], [16.0, 5]])
    b = a + np.array([[0.02, 0], [-0.03, 0], [0.05, 0]])
    middle = math.exp((37 + 0.02) / 12)
    expected = [3 * middle * nats / 12 for nats in (0.02, -0.03, 0.05)]
    assert losses(perplexity("word"), a, b).values == pytest.approx(expected, rel=1e-5)


def test_a_loss_of_the_whole_is_smaller_on_easy_units() -> None:
    """Here 2 nats a word, in the whole 3: the same change costs 1/e of the perplexity."""
    a = np.array([[4.0, 2], [8.0, 4]])
    b = a + np.array([[0.02, 0], [0.03, 0]])
    whole = np.array([120.0, 40])
    found = losses_so_far(perplexity("word"), a, b, whole)
    assert found.values.tolist() == losses(perplexity("word"), a, b).values.tolist()
    assert found.weights == pytest.approx([2 / 3 / math.e, 4 / 3 / math.e], rel=1e-5)


@pytest.mark.parametrize("kind", MEANS)
def test_a_loss_of_a_mean_is_the_same_on_all_units(kind: str) -> None:
    metric, a, b = runs(kind, 60)
    found = losses_so_far(metric, a[:20], b[:20], a.sum(axis=0))
    assert found.weights == pytest.approx(losses(metric, a[:20], b[:20]).weights, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_their_mean_is_the_loss_of_the_score(kind: str) -> None:
    metric, a, b = runs(kind, 60)
    b[8:] = a[8:]  # few units change
    loss = change(kind, a, b)
    assert loss != 0
    tolerance = 1e-9 if kind in MEANS else 0.02
    assert losses(metric, a, b).values.mean() == pytest.approx(loss, rel=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_swap_changes_the_sign_and_nothing_else(kind: str) -> None:
    metric, a, b = runs(kind, 25)
    swapped = np.random.default_rng(0).random(25) < 0.5
    first = np.where(swapped[:, None], b, a)
    second = np.where(swapped[:, None], a, b)
    one, two = losses(metric, a, b), losses(metric, first, second)
    scale = np.abs(one.values).max()
    expected = np.where(swapped, -one.values, one.values)
    np.testing.assert_allclose(two.values, expected, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(two.weights, one.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_units_does_not_matter(kind: str) -> None:
    metric, a, b = runs(kind, 25)
    order = np.random.default_rng(1).permutation(25)
    one, two = losses(metric, a, b), losses(metric, a[order], b[order])
    scale = np.abs(one.values).max()
    np.testing.assert_allclose(two.values, one.values[order], rtol=1e-9, atol=1e-9 * scale)


def test_a_common_shift_follows_the_weights() -> None:
    """0.01 nats more for every word: each block's loss is its share of the words."""
    words = np.random.default_rng(2).integers(5, 40, 50).astype(float)
    a = np.stack([3 * words, words], axis=1)
    found = losses(perplexity("word"), a, a + [[0.01, 0]] * words[:, None])
    np.testing.assert_allclose(found.values, found.values.mean() * found.weights, rtol=1e-9)


def test_equal_runs_lose_nothing() -> None:
    for kind in KINDS:
        metric, a, _ = runs(kind, 10)
        assert losses(metric, a, a).values.tolist() == [0.0] * 10


def test_one_match_of_four_words_in_one_run_only() -> None:
    """BLEU's counts near zero, where a step must not go below it."""
    metric, a, b = runs("bleu", 4)
    a[:, [3, 13]] = 0
    b[:, [3, 13]] = 0
    b[0, 3] = 1
    found = losses(metric, a, b)
    assert np.isfinite(found.values).all()
    c = a.copy()
    c[0, 3] = 1  # nothing else changes: a gain of that sentence alone
    gain = losses(metric, a, c).values
    assert gain[0] < 0
    assert gain[1:].tolist() == [0, 0, 0]


def test_values_of_both_signs_around_zero() -> None:
    a = np.array([[1.5, 1], [-1.5, 1]])
    b = np.array([[1.0, 1], [-1.0, 1]])
    assert losses(MEAN, a, b).values == pytest.approx([50, -50])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    a = np.array([[1.0, 1], [2.0, 1]])
    with pytest.raises(NumericsError, match="not a finite number"):
        losses(perplexity("word"), a, np.array([[bad, 1], [2.0, 1]]))


def test_no_units_are_refused() -> None:
    with pytest.raises(NumericsError, match="at least one"):
        losses(ACCURACY, np.empty((0, 2)), np.empty((0, 2)))
