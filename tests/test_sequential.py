"""Tests that stop early: exact enumeration, published bounds, plain loops, random slices."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from harness.metrics import perplexity
from harness.stats import bets
from harness.stats.bets import Aim, Bets, MeanBets, RightWrongBets, SignBets
from harness.stats.losses import Losses, losses
from harness.stats.right_wrong import likeliest_won
from harness.stats.sequential import GroupSequential, Martingale
from harness.stats.spending import alpha_spending, beta_spending, bounds, smallest_level

LOOKS = (0.25, 0.5, 0.75, 1.0)
SIZES = [0.3, 1.7, 0.0, 4.0, 0.3, 2.5, 1.1, 0.9]


def of(values: list[float] | np.ndarray, weights: list[float] | None = None) -> Losses:
    values = np.array(values, np.float64)
    return Losses(values, np.array(weights or np.ones(len(values)), np.float64))


def fed(found: Bets, slices: list[Losses]) -> Bets:
    for part in slices:
        found.add(part)
    return found


def cut(values: list[float], at: tuple[int, ...]) -> list[Losses]:
    return [of(part) for part in np.split(np.array(values), at)]


# Bets are fair --------------------------------------------------------------------------------


def test_capital_of_sign_bets_is_a_martingale() -> None:
    """The mean over all signs is what was staked, after each slice."""
    cuts = (3, 5)
    staked = bets.SHARES.sum()
    means = np.zeros(3)
    for signs in product([-1, 1], repeat=len(SIZES)):
        x = np.array(SIZES) * signs
        found = SignBets(Aim(0.8))
        for i, part in enumerate(np.split(x, cuts)):
            found.add(of(part))
            means[i] += math.exp(found.log_capital) / 2 ** len(SIZES)
    assert means == pytest.approx([staked] * 3, rel=1e-12)


def test_capital_of_right_wrong_bets_is_a_martingale_without_a_shift() -> None:
    """All signs of the answers that differ, in slices whose share of those is not the same."""
    sizes = np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 1])
    mean = 0.0
    for signs in product([-1, 1], repeat=6):
        x = np.zeros(10)
        x[sizes == 1] = signs
        found = fed(RightWrongBets(1, 0.0, Aim(0.1)), [of(100 * p) for p in np.split(x, [3, 7])])
        mean += math.exp(found.log_capital) / 2**6
    assert mean == pytest.approx(bets.SHARES.sum(), rel=1e-12)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(("shift", "differ"), [(0.1, 0.1), (0.1, 0.3), (0.3, 1.0)])
def test_capital_of_right_wrong_bets_is_a_martingale_at_the_margin(
    side: int, shift: float, differ: float
) -> None:
    """All outcomes of six answers, whatever share of them differs."""
    chance = {1: (differ + shift) / 2, -1: (differ - shift) / 2, 0: 1 - differ}
    mean = 0.0
    for x in product(chance, repeat=6):
        found = fed(RightWrongBets(side, shift, Aim(shift)), cut([100.0 * i for i in x], (2, 4)))
        mean += math.exp(found.log_capital) * math.prod(chance[i] for i in x)
    assert mean == pytest.approx(bets.SHARES.sum(), rel=1e-12)


@pytest.mark.parametrize("side", [1, -1])
def test_capital_of_mean_bets_is_a_martingale(side: int) -> None:
    """All outcomes of five lopsided losses whose mean is the shift."""
    chance = {-side * 3.0 + 1: 0.1, side * 1.0 + 1: 0.2, side * 0.5 + 1: 0.2, 1.0: 0.5}
    mean = 0.0
    for x in product(chance, repeat=5):
        found = fed(MeanBets(side, 1.0, Aim(0.4, 800)), cut([*x], (2, 4)))
        mean += math.exp(found.log_capital) * math.prod(chance[i] for i in x)
    assert mean == pytest.approx(bets.SHARES.sum(), rel=1e-12)


@pytest.mark.parametrize("kind", [MeanBets, RightWrongBets])
def test_more_than_the_margin_is_no_gain(kind: type[MeanBets | RightWrongBets]) -> None:
    """Deep inside the hypothesis, bets against `as much as the margin` lose on average."""
    shift, unit = (0.1, 100.0) if kind is RightWrongBets else (0.1, 1.0)
    chance = {1: 0.4, -1: 0.1, 0: 0.5}  # a loss of 0.3
    mean = 0.0
    for x in product(chance, repeat=6):
        found = fed(kind(-1, shift, Aim(shift, 1000)), cut([unit * i for i in x], (2, 4)))
        mean += math.exp(found.log_capital) * math.prod(chance[i] for i in x)
    assert mean < bets.SHARES.sum()


# The fixed test at the end ----------------------------------------------------------------------


def test_bets_and_fixed_test_together_hold_the_level() -> None:
    """Over all signs of nine losses; the p-values are drawn, so that a little more may appear."""
    sizes = np.array([1.0, 2.0, 0.5, 3.0, 1.5, 1.0, 2.5, 0.7, 1.2])
    ps = []
    for signs in product([-1, 1], repeat=9):
        found = fed(SignBets(Aim(1.0)), [of(p) for p in np.split(sizes * signs, [4])])
        found.finish(400)
        ps.append(found.p)
    for level in (0.02, 0.05, 0.1, 0.2, 0.4):
        share = np.mean(np.array(ps) <= level)
        assert level / 2 <= share <= level * 1.25, level


def test_most_of_the_level_is_used() -> None:
    """With 400 units the fixed test at the end rejects about as often as one without bets."""
    rng = np.random.default_rng(0)
    alone = together = 0
    for _ in range(300):
        x = rng.normal(0.12, 1, 400)
        found = fed(SignBets(Aim(0.15)), [of(p) for p in np.split(x, 10)])
        found.finish(499)
        together += found.p < 0.05
        alone += x.sum() / math.sqrt(x @ x) > 1.645
    assert 0.93 * alone < together <= alone + 10


def test_p_of_a_fixed_test_is_that_of_all_signs() -> None:
    """Without evidence on the way, the p-value at the end is close to the exact one, not below."""
    x = np.array([0.2, -0.1, 0.4, 0.3, -0.2, 0.1, 0.5, 0.2])
    found = fed(SignBets(Aim(1e-9)), [of(x)])
    found.finish(19_999)
    exact = np.mean(
        [np.abs(x) @ np.array(s) >= x.sum() - 1e-12 for s in product([-1, 1], repeat=8)]
    )
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))


def test_p_of_a_fixed_test_of_right_wrong_is_mcnemars() -> None:
    values = [100.0] * 14 + [-100.0] * 5 + [0.0] * 80
    found = fed(RightWrongBets(1, 0.0, Aim(1e-9)), [of(values)])
    found.finish(19_999)
    exact = sum(math.comb(19, k) for k in range(14, 20)) / 2**19
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))


@pytest.mark.parametrize("differ", [0.05, 0.3])
def test_fixed_test_of_the_margin_holds_the_level(differ: float) -> None:
    """Right/wrong answers at a loss of the margin; the chances are estimated, not known."""
    rng = np.random.default_rng(1)
    runs, n = 200, 400
    rejected = 0
    for counts in rng.multinomial(n, [(differ + 0.05) / 2, (differ - 0.05) / 2, 1 - differ], runs):
        lost, won, same = counts
        values = rng.permutation([100.0] * lost + [-100.0] * won + [0.0] * same)
        found = Martingale(5.0, proportion=True)
        for part in np.split(values, 10):
            found.add(of(part))
        found.finish(199)
        rejected += found.p_within < 0.10
    assert rejected / runs < 0.10 + 2.5 * math.sqrt(0.09 / runs)


@given(
    st.floats(0.01, 0.5),
    st.tuples(*[st.integers(0, 40)] * 3).filter(lambda counts: sum(counts) > 0),
)
def test_share_of_won_at_a_loss_is_the_likeliest(loss: float, counts: tuple[int, ...]) -> None:
    def likelihood(won: np.ndarray) -> np.ndarray:
        chances = np.array([won + loss, won, 1 - loss - 2 * won])
        terms = np.array(counts)[:, None] * np.log(np.maximum(chances, 1e-300))
        return terms.sum(axis=0)

    found = likeliest_won(counts[0], counts[1], sum(counts), loss)
    grid = np.linspace(0, (1 - loss) / 2, 501)
    assert likelihood(found[None])[0] >= likelihood(grid).max() - 1e-6


# Group-sequential bounds ------------------------------------------------------------------------


def test_bounds_of_four_looks() -> None:
    assert bounds(0.05, alpha_spending, LOOKS) == pytest.approx([3.75, 2.54, 2.02, 1.72], abs=5e-3)


def test_lower_bounds_of_four_looks() -> None:
    """In z against no loss: the published ones, which also stop for harm, and ours, which do not.

    Ours are therefore a little lower: whether a loss is found elsewhere must not matter.
    """
    upper = bounds(0.05, alpha_spending, LOOKS)
    within = bounds(0.10, beta_spending, LOOKS)
    drift = upper[-1] + within[-1]
    lower = [drift * math.sqrt(t) - z for t, z in zip(LOOKS, within, strict=True)]
    assert lower == pytest.approx([-0.79, 0.14, 0.94, 1.72], abs=0.035)
    assert 1.09 < (drift / (1.645 + 1.282)) ** 2 < 1.14  # the items at most, beside a fixed test


@pytest.mark.parametrize("spending", [alpha_spending, beta_spending])
@pytest.mark.parametrize("looks", [LOOKS, (0.1, 0.15, 0.6, 1.0), (0.3, 1.0), (1.0,)])
def test_bounds_spend_what_they_may(spending, looks: tuple[float, ...]) -> None:  # type: ignore[no-untyped-def]
    """Of 200,000 random walks, the share that crosses by each look."""
    rng = np.random.default_rng(0)
    steps = np.sqrt(np.diff([0, *looks])) * rng.standard_normal((200_000, len(looks)))
    z = np.cumsum(steps, axis=1) / np.sqrt(looks)
    crossed = np.logical_or.accumulate(z > bounds(0.08, spending, looks), axis=1).mean(axis=0)
    spent = np.array([spending(0.08, share) for share in looks])
    assert np.all(np.abs(crossed - spent) < 4 * np.sqrt(spent / 200_000) + 1e-6)


@pytest.mark.parametrize("level", [0.001, 0.05, 0.3])
def test_smallest_level_is_the_inverse_of_the_bounds(level: float) -> None:
    z = bounds(level, alpha_spending, LOOKS[:3], last=False)[-1]
    found = smallest_level(z, alpha_spending, LOOKS[:3], last=False)
    assert found == pytest.approx(level, rel=5e-3)


def test_one_look_is_a_fixed_test() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0.1, 1, 300)
    found = GroupSequential(0.5, looks=1, items=300)
    for part in np.split(x, 10):
        found.add(of(part))
        assert (found.p_worse, found.p_within) == (1.0, 1.0)
    found.finish()
    assert found.p_worse == pytest.approx(norm.sf(x.sum() / math.sqrt(x @ x)), rel=5e-3)


@pytest.mark.parametrize("proportion", [True, False])
def test_looks_do_not_depend_on_slices(proportion: bool) -> None:
    values = 100 * np.random.default_rng(0).choice([1.0, -1.0, 0.0], 240, p=[0.12, 0.04, 0.84])
    found = []
    for slices in (4, 12, 80, 240):
        test = GroupSequential(10.0, proportion=proportion, looks=4, items=240)
        for part in np.split(values, slices):
            test.add(of(part))
        test.finish()
        found.append((test.p_worse, test.p_within))
    assert found == [pytest.approx(found[0])] * 4


def test_fewer_items_than_planned_still_spend_all() -> None:
    """The last look comes when nothing is left, even if that is early."""
    x = np.random.default_rng(0).normal(0.2, 1, 150)
    full, short = (GroupSequential(0.5, looks=2, items=items) for items in (150, 190))
    for test in (full, short):
        for part in np.split(x, 15):
            test.add(of(part))
        test.finish()
    assert short.p_worse == pytest.approx(full.p_worse, rel=0.1)


# What a gate sees -------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 30), min_size=1, max_size=12),
    st.sampled_from([0.0, 1.0]),
    st.booleans(),
)
def test_p_values_never_rise(seed: int, sizes: list[int], least: float, proportion: bool) -> None:
    rng = np.random.default_rng(seed)
    tests = [
        Martingale(5.0, least, proportion=proportion),
        GroupSequential(5.0, least, proportion=proportion, looks=3, items=sum(sizes)),
    ]
    for test in tests:
        before = (1.0, 1.0)
        for size in [*sizes, 0]:
            if size:
                test.add(of(100 * rng.choice([1.0, -1.0, 0.0], size)))
            else:
                test.finish()
            now = (test.p_worse, test.p_within)
            assert all(0 <= p <= q for p, q in zip(now, before, strict=True))
            before = now


def test_order_within_a_slice_does_not_matter() -> None:
    """Of right/wrong answers."""
    rng = np.random.default_rng(0)
    values = 100 * rng.choice([1.0, -1.0, 0.0], 60, p=[0.2, 0.1, 0.7])
    found = []
    for _ in range(3):
        test = Martingale(5.0, proportion=True)
        for part in np.split(values, 3):
            test.add(of(rng.permutation(part)))
        found.append((test.e_worse, test.e_within))
    assert found == [pytest.approx(found[0])] * 3


def test_slices_do_not_matter_to_bets_against_the_margin() -> None:
    """On any scale, stakes depend on earlier units, not on where slices end."""
    x = np.random.default_rng(0).normal(0.1, 1, 60)
    found = []
    for slices in (1, 4, 60):
        test = fed(MeanBets(-1, 0.5, Aim(0.5, 60)), [of(part) for part in np.split(x, slices)])
        found.append(test.log_capital)
    assert found == [pytest.approx(found[0])] * 3


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_units_do_not_matter(scale: float) -> None:
    """Nats or millinats: the same evidence, with the margin in the same unit."""
    x = np.random.default_rng(0).normal(0.1, 1, 100)
    one, other = Martingale(0.3), Martingale(0.3 * scale)
    for part in np.split(x, 5):
        one.add(of(part))
        other.add(of(scale * part))
    assert other.e_worse == pytest.approx(one.e_worse)
    assert other.e_within == pytest.approx(one.e_within)


@pytest.mark.parametrize("proportion", [True, False])
def test_the_same_answers_are_soon_fine(proportion: bool) -> None:
    test = Martingale(2.0, proportion=proportion)
    used = 0
    while test.p_within >= 0.10:
        test.add(of(np.zeros(5)))
        used += 5
    assert test.p_worse == 1.0
    # right/wrong: with a loss of 2 points, 114 answers would all be the same in one of ten cases
    assert (114 <= used <= 300) if proportion else (10 <= used <= 40)


def test_a_margin_beyond_all_bounds_overflows_nothing() -> None:
    """As of a perplexity of random weights."""
    test = Martingale(1.5e25)
    test.add(of(np.zeros(12)))
    test.finish()
    assert test.p_within < 0.1
    assert test.p_worse == 1.0


def test_without_a_margin_nothing_is_fine() -> None:
    """A clear loss is found all the same, by bets that suit the number of items."""
    rng = np.random.default_rng(0)
    test = Martingale(None, items=400)
    for part in np.split(rng.normal(0.5, 1, 200), 10):
        test.add(of(part))
    assert test.p_worse < 0.01
    assert (test.p_within, test.e_within) == (1.0, 1.0)
    with pytest.raises(AssertionError, match="margin or the number of items"):
        Martingale(None)


def test_a_loss_below_the_smallest_is_no_regression() -> None:
    rng = np.random.default_rng(0)
    values = 100 * rng.choice([1.0, -1.0, 0.0], 4000, p=[0.065, 0.035, 0.90])  # 3 points are lost
    tests = Martingale(4.0, 0.0, proportion=True), Martingale(4.0, 3.0, proportion=True)
    for test in tests:
        for part in np.split(values, 20):
            test.add(of(part))
    assert tests[0].p_worse < 0.01 < 0.1 < tests[1].p_worse


def test_weights_share_the_margin() -> None:
    """A loss of 1 in each of a long unit's pieces is 1 in all: the margin is met exactly."""
    weights = [0.5, 1.5, 1.0, 1.0]
    test = Martingale(1.0)
    test.add(of([0.5, 1.5, 1.0, 1.0], weights))
    assert test.e_within == pytest.approx(bets.SHARES.sum())  # x is 0 everywhere


def test_losses_of_scores_feed_a_test() -> None:
    """Twenty slices of real outcomes: a perplexity that rises is a regression."""
    rng = np.random.default_rng(0)
    test = Martingale(1.0)
    for _ in range(20):
        words = rng.integers(10, 20, 10).astype(float)
        a = rng.normal(3, 0.3, 10) * words
        b = a + 0.1 * words + rng.normal(0, 0.5, 10)
        pair = (np.stack([nats, words], axis=1) for nats in (a, b))
        test.add(losses(perplexity("word"), *pair))
    assert test.p_worse < 0.001
