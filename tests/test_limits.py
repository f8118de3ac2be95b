"""Limits of a loss against exact enumeration of small samples, and against their own tests."""

import math
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats
from test_paired import KINDS, counted, from_flips, runs

from harness.errors import NumericsError
from harness.metrics import ACCURACY, MEAN, Metric, bits, perplexity
from harness.stats.intervals import pool
from harness.stats.limits import EXACT, SIGNS, Limits, limits, more_items
from harness.stats.losses import losses
from harness.stats.paired import RESAMPLES, Table, values
from harness.stats.right_wrong import MISSED, lower_limit, p_within, p_worse, tango, upper_limit

# Right or wrong: exact ----------------------------------------------------------------------------


def naive_score(lost: int, won: int, n: int, loss: float) -> float:
    """The score statistic, with the likeliest shares found by search."""
    if abs(lost - won - n * loss) < 1e-9:
        return 0.0

    def unlikely(x: float) -> float:
        cells = [(lost, x + loss), (won, x), (n - lost - won, 1 - 2 * x - loss)]
        return -sum(k * math.log(max(p, 1e-300)) for k, p in cells if k)

    bounds = (max(0.0, -loss), (1 - loss) / 2)
    share = optimize.minimize_scalar(
        unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-13}
    ).x
    share = min((share, *bounds), key=unlikely)
    variance = n * (2 * share + loss - loss**2)
    return math.inf if variance <= 0 else (lost - won - n * loss) / math.sqrt(variance)


def naive_p(lost: int, won: int, n: int, loss: float, points: int = 2001) -> float:
    """All tables that are as extreme, summed for all discordances that the data allow."""
    tables = [(x, y) for x in range(n + 1) for y in range(n + 1 - x)]
    observed = float(tango(lost, won, n, loss))
    small = [t for t in tables if float(tango(*t, n, loss)) <= observed + 1e-9]
    x, y = np.array(small).T[:, :, None]
    ci = stats.binomtest(lost + won, n).proportion_ci(1 - MISSED, method="exact")
    low, high = max(ci.low, abs(loss)), ci.high
    if low > high:
        return MISSED
    d = np.linspace(low, high, points)
    p = np.stack(
        np.broadcast_arrays((d + loss) / 2, (d - loss) / 2, 1 - d), axis=-1
    )  # lost, won, neither
    p = np.clip(p, 0, 1)
    ways = np.array([math.comb(n, i) * math.comb(n - i, j) for i, j in small])[:, None]
    chance = ways * p[:, 0] ** x * p[:, 1] ** y * p[:, 2] ** (n - x - y)
    return min(1.0, float(chance.sum(axis=0).max()) + MISSED)


@pytest.mark.parametrize("loss", [-0.3, 0.0, 0.05, 0.2, 0.6])
def test_the_score_statistic_is_that_of_the_likeliest_shares(loss: float) -> None:
    for lost, won in [(0, 1), (3, 0), (4, 2), (2, 5), (1, 1), (7, 2)]:
        found = float(tango(lost, won, 12, loss))
        assert found == pytest.approx(naive_score(lost, won, 12, loss), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("loss", [-0.1, 0.0, 0.02, 0.1, 0.35])
@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_p_is_that_of_all_tables(n: int, loss: float) -> None:
    for lost in range(n + 1):
        for won in range(n + 1 - lost):
            found, expected = p_within(lost, won, n, loss), naive_p(lost, won, n, loss)
            assert found == pytest.approx(expected, rel=2e-4, abs=1e-9), (lost, won)
            mirrored = p_worse(won, lost, n, -loss)
            assert mirrored == found


@pytest.mark.parametrize(("n", "lost", "won"), [(40, 5, 3), (40, 1, 0), (60, 2, 9), (50, 0, 0)])
@pytest.mark.parametrize("loss", [0.0, 0.08, 0.15])
def test_p_of_larger_samples_is_that_of_all_tables(
    n: int, lost: int, won: int, loss: float
) -> None:
    expected = naive_p(lost, won, n, loss, points=301)
    assert p_within(lost, won, n, loss) == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
def test_a_loss_of_the_margin_is_called_smaller_at_most_as_often_as_alpha(loss: float) -> None:
    n = 20
    tables = [(x, y) for x in range(n + 1) for y in range(n + 1 - x)]
    ps = np.array([p_within(x, y, n, loss) for x, y in tables])
    for discordance in np.linspace(max(loss, 1e-3), 1, 25):
        shares = [(discordance + loss) / 2, (discordance - loss) / 2, 1 - discordance]
        cells = np.array([[x, y, n - x - y] for x, y in tables])
        chance = stats.multinomial.pmf(cells, n, np.clip(shares, 0, 1))
        for alpha in (0.01, 0.05, 0.1):
            assert chance[ps <= alpha].sum() <= alpha * (1 + 1e-3)


def test_among_equally_many_flips_the_score_grows_with_the_lost_ones() -> None:
    for n, m, loss in product((7, 30), (1, 4, 7), (-0.4, -0.01, 0.0, 0.03, 0.5)):
        lost = np.arange(m + 1)
        scores = tango(lost, m - lost, n, loss)
        assert (np.diff(scores) >= 0).all(), (n, m, loss)


@given(st.integers(1, 80), st.data(), st.sampled_from([0.005, 0.05, 0.2, 0.7]))
def test_limits_are_where_the_tests_cross_alpha(n: int, data: st.DataObject, alpha: float) -> None:
    lost = data.draw(st.integers(0, n))
    won = data.draw(st.integers(0, n - lost))
    upper, lower = upper_limit(lost, won, n, alpha), lower_limit(lost, won, n, alpha)
    assert -1 <= lower <= (lost - won) / n <= upper <= 1
    if upper < 1:
        assert p_within(lost, won, n, upper + 1e-5) <= alpha
    if upper > (lost - won) / n + 1e-5:
        assert p_within(lost, won, n, upper - 1e-5) > alpha
    if lower > -1:
        assert p_worse(lost, won, n, lower - 1e-5) <= alpha


def test_without_flips_the_upper_limit_is_the_rule_of_three() -> None:
    """No example of n was lost: a share above 1 - alpha^(1/n) would have shown, with 95 %."""
    for n in (30, 100, 1000):
        assert upper_limit(0, 0, n, 0.05) == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-5)


def test_many_examples_agree_with_the_normal_distribution() -> None:
    lost, won, n = 2600, 2400, 50_000
    normal = stats.norm.cdf(float(tango(lost, won, n, 0.006)))
    assert p_within(lost, won, n, 0.006) == pytest.approx(normal, rel=0.02)


def test_limits_of_accuracy_are_in_points() -> None:
    a, b = from_flips(30, 18, both=150, neither=102)
    found = limits(ACCURACY, a, b, alpha=0.05, margin=8.0, min_loss=1.0)
    assert found == Limits(
        4.0,
        100 * upper_limit(30, 18, 300, 0.05),
        100 * lower_limit(30, 18, 300, 0.05),
        p_within(30, 18, 300, 0.08),
        p_worse(30, 18, 300, 0.01),
        EXACT,
    )
    errors = Metric("%", False, ACCURACY.compute, proportion=True)
    worse = limits(errors, b, a, alpha=0.05, margin=8.0, min_loss=1.0)
    assert worse == found, "a share of errors gets worse as the share of right answers falls"


# All other scores: sign flips ---------------------------------------------------------------------


def naive_ps(left: Table) -> tuple[float, float]:
    """How many of all signs give at most, and at least, the sum that was observed."""
    sums = np.array([np.dot(signs, left) for signs in product((-1, 1), repeat=len(left))])
    near = 1e-9 * np.abs(left).sum()
    return float((sums <= left.sum() + near).mean()), float((sums >= left.sum() - near).mean())


@pytest.mark.parametrize("metric", [MEAN, bits("byte")], ids=["mean", "bits"])
@pytest.mark.parametrize("n", [2, 5, 9])
def test_p_is_that_of_all_signs(metric: Metric, n: int) -> None:
    rng = np.random.default_rng(n)
    counts = rng.integers(1, 9, n).astype(float)
    a = np.stack([rng.random(n) * counts, counts], axis=1)
    b = np.stack([rng.random(n) * counts, counts], axis=1)
    units = losses(metric, a, b)
    for bound in (-20.0, 0.0, 0.3, 12.0):
        found = limits(metric, a, b, alpha=0.25, margin=bound, min_loss=bound)
        expected = naive_ps(units.values - bound * units.weights)
        assert (found.p_within, found.p_worse) == pytest.approx(expected)
        assert found.method == SIGNS


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "accuracy"])
@pytest.mark.parametrize("n", [6, 40])
def test_limits_of_scores_are_where_the_tests_cross_alpha(kind: str, n: int) -> None:
    metric, a, b = runs(kind, n)
    found = limits(metric, a, b, alpha=0.1)
    if n == 6 and kind in ("perplexity", "spread over runs"):  # too few to limit such a loss
        assert found.upper == math.inf
        return
    near = 1e-6 * (found.upper - found.lower)
    for beyond, passes in ((near, True), (-near, False)):
        at = limits(
            metric, a, b, alpha=0.1, margin=found.upper + beyond, min_loss=found.lower - beyond
        )
        assert at.p_within is not None
        assert (at.p_within <= 0.1, at.p_worse <= 0.1) == (passes, passes)
    before, after = (float(values(metric, run.sum(axis=0))) for run in (a, b))
    loss = before - after if metric.higher_is_better else after - before
    assert found.loss == pytest.approx(loss, rel=1e-9, abs=1e-12)
    assert found.lower < loss < found.upper


def test_random_signs_agree_with_all_signs() -> None:
    rng = np.random.default_rng(3)
    a, b = counted(rng.random(13)), counted(rng.random(13))
    found = limits(MEAN, a, b, alpha=0.05, margin=30.0, min_loss=-10.0)
    units = losses(MEAN, a, b)
    within, _ = naive_ps(units.values - 30.0)
    _, worse = naive_ps(units.values + 10.0)
    error = 4 * math.sqrt(0.25 / RESAMPLES)
    assert found.p_within == pytest.approx(within, abs=error)
    assert found.p_worse == pytest.approx(worse, abs=error)


def test_a_mean_of_many_has_the_limits_of_the_t_test() -> None:
    rng = np.random.default_rng(4)
    a, b = counted(rng.random(2000)), counted(rng.random(2000))
    found = limits(MEAN, a, b, alpha=0.025)
    change = 100 * (a - b)[:, 0]
    expected = stats.ttest_1samp(change, 0).confidence_interval(0.95)
    width = float(expected.high - expected.low)
    assert found.upper == pytest.approx(expected.high, abs=0.03 * width)
    assert found.lower == pytest.approx(expected.low, abs=0.03 * width)


def test_perplexity_varies_with_the_text_even_where_all_words_lose_the_same() -> None:
    """b loses 0.2 nats on every word. Its loss is 22 % of a perplexity that is itself uncertain."""
    rng = np.random.default_rng(5)
    nats = rng.normal(3, 0.4, 200)
    a, b = counted(nats), counted(nats + 0.2)
    found = limits(perplexity("word"), a, b, alpha=0.025)
    level = math.exp(nats.mean())
    error = level * (math.exp(0.2) - 1) * nats.std(ddof=1) / math.sqrt(200)
    assert found.loss == pytest.approx(level * (math.exp(0.2) - 1))
    assert (found.upper - found.lower) / (2 * error) == pytest.approx(1.96, rel=0.1)
    assert found.upper - found.loss > found.loss - found.lower, "a larger loss is less certain"


def test_neighbours_are_pooled_in_blocks() -> None:
    _, a, b = runs("bits", 300)
    b[:, -1] = a[:, -1]
    pooled = pool(np.hstack([b, a]), 20)
    expected = limits(bits("byte"), pooled[:, 2:], pooled[:, :2], alpha=0.05, margin=1.0)
    assert limits(bits("byte"), a, b, blocks=20, alpha=0.05, margin=1.0) == expected


def test_equal_runs_lose_nothing() -> None:
    _, a, _ = runs("perplexity", 30)
    found = limits(perplexity("word"), a, a, alpha=0.05, margin=0.5)
    assert found == Limits(0.0, 0.0, 0.0, 1 / (RESAMPLES + 1), 1.0, SIGNS)


def test_too_few_units_set_no_limit() -> None:
    """Four units have 16 signs: none of them can be as rare as 1 in 20."""
    _, a, b = runs("mean", 4)
    found = limits(MEAN, a, b, alpha=0.05, margin=1e6)
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    assert found.p_within == 1 / 16
    assert limits(MEAN, a, b, alpha=0.05).p_within is None


@pytest.mark.parametrize("metric", [ACCURACY, MEAN], ids=["accuracy", "mean"])
def test_no_examples_are_refused(metric: Metric) -> None:
    with pytest.raises(NumericsError, match="at least one"):
        limits(metric, np.empty((0, 2)), np.empty((0, 2)), alpha=0.05)


@pytest.mark.parametrize("metric", [ACCURACY, MEAN], ids=["accuracy", "mean"])
def test_nan_is_refused(metric: Metric) -> None:
    a = counted(np.ones(20))
    b = a.copy()
    b[3, 0] = math.nan
    with pytest.raises(NumericsError, match="not a finite number"):
        limits(metric, a, b, alpha=0.05)


def test_a_perplexity_beyond_all_numbers_is_refused() -> None:
    a = counted(np.full(20, 3.0))
    with pytest.raises(NumericsError, match="not a finite number"):
        limits(perplexity("word"), a, a + np.array([800.0, 0]), alpha=0.05, margin=1.0)


# How many more ------------------------------------------------------------------------------------


def needed(sd: float, distance: float) -> float:
    normal = NormalDist()
    return ((normal.inv_cdf(0.95) + normal.inv_cdf(0.9)) * sd / distance) ** 2


def test_more_examples_bring_the_nearer_bound_out_of_reach() -> None:
    rng = np.random.default_rng(6)
    a, b = counted(rng.random(100)), counted(rng.random(100))
    change = 100 * (a - b)[:, 0]
    loss, sd = change.mean(), change.std(ddof=1)
    for margin, nearest in ((loss + 5, 5), (loss + 20, 20)):
        more = more_items(MEAN, a, b, alpha=0.05, margin=margin, min_loss=loss - 2)
        assert more == math.ceil(needed(sd, nearest)) - 100 or more == 1
    up = more_items(MEAN, a, b, alpha=0.05, margin=None, min_loss=loss - 3)
    assert up == math.ceil(needed(sd, 3)) - 100
    assert more_items(MEAN, a, b, alpha=0.05, margin=loss - 1, min_loss=loss + 1) is None
    assert more_items(MEAN, a, b, alpha=0.05, margin=None, min_loss=loss) is None


def test_more_examples_of_right_or_wrong() -> None:
    """10 % flip, none is lost on balance, margin 2 points: the textbook's 2,134."""
    a, b = from_flips(10, 10, both=100, neither=80)
    total = (1.645 + 1.2816) ** 2 * (0.1 - 0.02**2) / 0.02**2
    more = more_items(ACCURACY, a, b, alpha=0.05, margin=2.0)
    assert more == pytest.approx(total - 200, abs=3)


def test_runs_that_never_differ_still_need_enough_examples() -> None:
    a, b = from_flips(0, 0, both=20, neither=10)
    more = more_items(ACCURACY, a, b, alpha=0.05, margin=2.0)
    assert more is not None
    assert p_within(0, 0, 30 + more, 0.02) < 0.05
    blocks = counted(np.arange(3.0))
    assert more_items(MEAN, blocks, blocks, alpha=0.05, margin=2.0) == 2, "2^-5 is below 0.05"
    assert more_items(MEAN, blocks[:1], blocks[:1], alpha=0.05, margin=2.0) is None
