"""Paired tests against scipy, published examples and plain loops; power against simulation."""

import math
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.errors import NumericsError, UsageError
from harness.metrics import (
    ACCURACY,
    MEAN,
    Metric,
    Outcome,
    bits,
    mean_over_runs,
    perplexity,
    selective_accuracy,
    std_over_runs,
)
from harness.metrics.bleu import bleu, bleu_counts, chrf, chrf_counts
from harness.metrics.calibration import CALIBRATION_ERROR, outcome
from harness.stats.paired import Difference, Table, difference, holm
from harness.stats.power import detectable, needed, sd_guess, sd_of_difference, sd_of_flips

VOCABULARY = ["the", "old", "cat", "sat", "on", "a", "red", "mat", "saw", "two", "dogs"]

# How one example's outcome of each kind is drawn -------------------------------------------------


def right(random: Random) -> Outcome:
    return (float(random.random() < 0.6), 1.0)


def answers(random: Random) -> Outcome:
    turns = random.randint(1, 4)
    return (sum(random.choice((0.0, 0.25, 1.0)) for _ in range(turns)), float(turns))


def nats(random: Random) -> Outcome:
    return (random.gammavariate(2, 3), float(random.randint(1, 6)))


def confident(random: Random) -> Outcome:
    confidence = random.random()
    return outcome(confidence, float(random.random() < confidence / 2))


def ranked(random: Random) -> Outcome:
    confidence = random.random()
    return (confidence, float(random.random() < confidence), 1.0)


def three_runs(random: Random) -> Outcome:
    return (random.random(), random.random() ** 2, random.random(), 1.0)


def translated(counts: Callable[[str, str], Outcome]) -> Callable[[Random], Outcome]:
    def two_runs(random: Random) -> Outcome:
        reference = random.choices(VOCABULARY, k=9)
        kept = [reference[:7] + random.choices(VOCABULARY, k=random.randint(1, 4)) for _ in "ab"]
        found = [counts(" ".join(words), " ".join(reference)) for words in kept]
        return (*found[0], *found[1], 1.0)

    return two_runs


KINDS: dict[str, tuple[Metric, Callable[[Random], Outcome]]] = {
    "accuracy": (ACCURACY, right),
    "mean": (MEAN, answers),
    "perplexity": (perplexity("word"), nats),
    "bits": (bits("byte"), nats),
    "bleu": (bleu(2), translated(lambda text, wanted: bleu_counts(text, wanted, "13a"))),
    "chrf": (chrf(2), translated(chrf_counts)),
    "calibration": (CALIBRATION_ERROR, confident),
    "mean over runs": (mean_over_runs(3), three_runs),
    "spread over runs": (std_over_runs(3), three_runs),
}


def runs(kind: str, n: int, seed: int = 0) -> tuple[Metric, Table, Table]:
    """A metric and two runs; a third of the examples have the same outcome in both."""
    metric, draw = KINDS[kind]
    random = Random(seed)
    first = [draw(random) for _ in range(n)]
    second = [one if i % 3 == 0 else draw(random) for i, one in enumerate(first)]
    return metric, np.array(first), np.array(second)


def value(metric: Metric, rows: Sequence[Sequence[float]]) -> float:
    """The metric on floats, added up by Python."""
    if metric.select:
        rows = metric.select(np.array(rows))
    return float(metric.compute([math.fsum(column) for column in zip(*rows, strict=True)]))


def counted(values: Any) -> Table:
    """Outcomes (value, 1)."""
    return np.stack([values, np.ones(len(values))], axis=1)


def from_flips(lost: int, won: int, both: int = 0, neither: int = 0) -> tuple[Table, Table]:
    """Right/wrong runs with these numbers of examples of each kind."""
    first = np.repeat([1.0, 1.0, 0.0, 0.0], [lost, both, won, neither])
    second = np.repeat([0.0, 1.0, 1.0, 0.0], [lost, both, won, neither])
    return counted(first), counted(second)


def p_values(found: Difference) -> tuple[float, float]:
    """p and p_worse of a difference that has them."""
    assert found.p is not None
    assert found.p_worse is not None
    return found.p, found.p_worse


# McNemar --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "won", "p", "digits"),
    [
        # Agresti 1990, p. 350, approval of a president's performance; R's exact2x2 prints this p
        (150, 86, 3.716e-05, 5e-9),
        # Fagerland, Lydersen and Laake 2013, doi:10.1186/1471-2288-13-91: exact conditional test
        (1, 7, 0.070, 5e-4),
        (6, 16, 0.053, 5.5e-4),
    ],
)
def test_mcnemar_as_published(lost: int, won: int, p: float, digits: float) -> None:
    found = difference(ACCURACY, *from_flips(lost, won, both=794, neither=570), resamples=100)
    assert found.test == "mcnemar"
    assert (found.lost, found.won, found.pairs) == (lost, won, lost + won + 794 + 570)
    assert found.p == pytest.approx(p, abs=digits)
    assert found.value == pytest.approx(100 * (won - lost) / found.pairs)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (0, 1), (3, 3), (5, 12), (12, 5), (290, 225)])
def test_mcnemar_is_the_binomial_test(lost: int, won: int) -> None:
    found = difference(ACCURACY, *from_flips(lost, won, both=4), resamples=100)
    both, worse = 1.0, 1.0
    if lost + won:
        both = stats.binomtest(lost, lost + won).pvalue
        worse = stats.binomtest(lost, lost + won, alternative="greater").pvalue
    assert (found.p, found.p_worse) == pytest.approx((both, worse), abs=1e-12)


def test_a_share_of_errors_gets_worse_upwards() -> None:
    errors = Metric("%", higher_is_better=False, compute=ACCURACY.compute, proportion=True)
    more = difference(errors, *from_flips(lost=2, won=15), resamples=100)
    fewer = difference(ACCURACY, *from_flips(lost=15, won=2), resamples=100)
    assert p_values(more) == p_values(fewer)
    assert p_values(more)[1] < 0.01


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60), st.randoms())
def test_mcnemar_knows_no_order_and_no_side(pairs: list[tuple[bool, bool]], random: Random) -> None:
    a, b = (np.array([(float(pair[i]), 1.0) for pair in pairs]) for i in (0, 1))
    found = difference(ACCURACY, a, b, resamples=50)
    order = random.sample(range(len(pairs)), len(pairs))
    shuffled = difference(ACCURACY, a[order], b[order], resamples=50)
    assert (shuffled.value, shuffled.p, shuffled.p_worse) == (found.value, found.p, found.p_worse)
    swapped = difference(ACCURACY, b, a, resamples=50)
    assert (swapped.value, swapped.lost, swapped.won) == (-found.value, found.won, found.lost)
    assert swapped.p == found.p
    assert found.p == pytest.approx(min(1, 2 * min(p_values(found)[1], p_values(swapped)[1])))


# Sign-flip permutation ------------------------------------------------------------------------


def by_hand(metric: Metric, a: Table, b: Table) -> tuple[float, float]:
    """Two-sided p and p_worse over all swaps, by plain loops."""
    rows = list(zip(a.tolist(), b.tolist(), strict=True))
    better = 1 if metric.higher_is_better else -1

    def gain(swaps: Sequence[int]) -> float:
        second = [pair[1 - swap] for pair, swap in zip(rows, swaps, strict=True)]
        first = [pair[swap] for pair, swap in zip(rows, swaps, strict=True)]
        return better * (value(metric, second) - value(metric, first))

    observed = gain([0] * len(rows))
    gains = [gain(swaps) for swaps in product((0, 1), repeat=len(rows))]
    as_large = sum(abs(g) >= abs(observed) - 1e-9 for g in gains)
    as_bad = sum(g <= observed + 1e-9 for g in gains)
    return as_large / len(gains), as_bad / len(gains)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 7])
def test_every_kind_equals_brute_force(kind: str, n: int) -> None:
    """McNemar's test too: it is the sign-flip test of right/wrong outcomes."""
    metric, a, b = runs(kind, n, seed=n)
    found = difference(metric, a, b, resamples=100)
    assert found.test == ("mcnemar" if kind == "accuracy" else "sign-flip")
    assert (found.p, found.p_worse) == pytest.approx(by_hand(metric, a, b), abs=1e-12)
    assert found.a == pytest.approx(value(metric, a.tolist()), rel=1e-12)
    assert found.value == pytest.approx(value(metric, b.tolist()) - found.a, abs=1e-9)


@pytest.mark.parametrize("kind", ["mean", "perplexity", "bits", "mean over runs"])
def test_all_swaps_equal_scipy(kind: str) -> None:
    metric, a, b = runs(kind, 12)
    both = np.vstack([a, b])  # scipy swaps row numbers
    better = 1 if metric.higher_is_better else -1

    def gain(first: Any, second: Any) -> float:
        first, second = (both[rows.astype(int)].sum(axis=0) for rows in (first, second))
        return better * float(metric.compute(second) - metric.compute(first))

    referee = partial(
        stats.permutation_test,
        (np.arange(12), np.arange(12, 24)),
        gain,
        permutation_type="samples",
        n_resamples=10_000,  # more than 2^12: scipy then tries all
    )
    exact = referee(alternative="two-sided").pvalue, referee(alternative="less").pvalue
    assert p_values(difference(metric, a, b, resamples=100)) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_random_swaps_agree_with_a_plain_loop(kind: str) -> None:
    metric, a, b = runs(kind, 40, seed=3)
    found = difference(metric, a, b, resamples=1000, seed=1)
    rng = np.random.default_rng(9)
    gains = []
    for _ in range(1000):
        swap = rng.integers(0, 2, (40, 1)).astype(bool)
        second, first = np.where(swap, a, b), np.where(swap, b, a)
        gains.append(float(metric.compute(second.sum(axis=0)) - metric.compute(first.sum(axis=0))))
    naive = np.mean(np.abs(gains) >= abs(found.value) - 1e-9)
    # two estimates of p from 1,000 draws each, four standard errors (McNemar's is exact)
    assert found.p == pytest.approx(naive, abs=4 * math.sqrt(2 * 0.25 / 1000))


ITEMS = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 3))


@given(st.lists(ITEMS, min_size=2, max_size=8), st.randoms())
def test_sign_flip_knows_no_order_and_no_side(
    items: list[tuple[int, int, int]], random: Random
) -> None:
    a, b = (np.array([(row[i], row[2]) for row in items], np.float64) for i in (0, 1))
    found = difference(bits("byte"), a, b, resamples=50)
    assert (found.p, found.p_worse) == pytest.approx(by_hand(bits("byte"), a, b))
    order = random.sample(range(len(items)), len(items))
    shuffled = difference(bits("byte"), a[order], b[order], resamples=50)
    assert shuffled.value == pytest.approx(found.value, abs=1e-12)
    assert (shuffled.p, shuffled.p_worse) == (found.p, found.p_worse)
    swapped = difference(bits("byte"), b, a, resamples=50)
    assert swapped.value == -found.value
    assert swapped.p == found.p
    assert found.p == pytest.approx(min(1, 2 * min(p_values(found)[1], p_values(swapped)[1])))


def test_order_moves_random_swaps_by_their_error_only() -> None:
    metric, a, b = runs("perplexity", 200, seed=4)
    order = np.random.default_rng(0).permutation(200)
    one, two = difference(metric, a, b), difference(metric, a[order], b[order])
    p, _ = p_values(one)
    assert 0.01 < p < 0.99
    assert two.p == pytest.approx(p, abs=4 * math.sqrt(2 * p * (1 - p) / 10_000))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [5, 30])
def test_identical_runs(kind: str, n: int) -> None:
    metric, a, _ = runs(kind, n)
    found = difference(metric, a, a.copy(), resamples=200)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert (found.p, found.p_worse) == (1, 1)
    assert found.a == found.b


def test_random_swaps_never_give_zero() -> None:
    """The runs as they are count too, with 99 swaps that all differ less."""
    items = np.arange(30.0)
    a, b = counted(items), counted(items + 1)
    assert p_values(difference(bits("byte"), a, b, resamples=99)) == (0.01, 0.01)
    assert p_values(difference(bits("byte"), b, a, resamples=99)) == (0.01, 1)


def test_swaps_without_a_value_count_against_significance() -> None:
    """Two of the four swaps leave one run without words."""
    a = np.array([(1.0, 1.0), (1.0, 0.0)])
    b = np.array([(2.0, 0.0), (2.0, 1.0)])
    assert p_values(difference(perplexity("word"), a, b, resamples=50)) == (1, 0.5)


def test_the_seed_fixes_everything() -> None:
    metric, a, b = runs("perplexity", 50)
    one = difference(metric, a, b, seed=1, resamples=500)
    assert difference(metric, a, b, seed=1, resamples=500) == one
    other = difference(metric, a, b, seed=2, resamples=500)
    assert (other.p, other.low) != (one.p, one.low)


# Intervals ------------------------------------------------------------------------------------


def test_the_interval_is_scipys_paired_bootstrap() -> None:
    metric, a, b = runs("perplexity", 200, seed=8)

    def gain(*columns: Any, axis: int) -> Any:
        first, units, second, other_units = (column.sum(axis=axis) for column in columns)
        return np.exp(second / other_units) - np.exp(first / units)

    referee = stats.bootstrap(
        (*a.T, *b.T), gain, paired=True, n_resamples=10_000, method="percentile", rng=0
    )
    found = difference(metric, a, b)
    # a 2.5 % quantile of 10,000 normal draws is known to 0.027 sd; two of them, four errors
    error = 4 * math.sqrt(2) * 0.027 * float(referee.standard_error)
    assert found.low == pytest.approx(referee.confidence_interval.low, abs=error)
    assert found.high == pytest.approx(referee.confidence_interval.high, abs=error)


@pytest.mark.parametrize("kind", [*KINDS, "most confident"])
def test_intervals_agree_with_a_plain_loop(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "most confident", (selective_accuracy(0.4), ranked))
    metric, a, b = runs(kind, 60, seed=6)
    found = difference(metric, a, b, resamples=2000)
    rng = np.random.default_rng(2)
    gains = []
    for _ in range(1000):
        draw = rng.integers(0, 60, 60)
        first, second = ((metric.select or np.asarray)(run[draw]) for run in (a, b))
        gains.append(float(metric.compute(second.sum(axis=0)) - metric.compute(first.sum(axis=0))))
    low, high = np.quantile(gains, [0.025, 0.975])
    # 500 to 2,000 draws against 1,000: at most 0.15 sd; proportions move in steps of 1/60
    error = 3 * 0.15 * float(np.std(gains))
    assert found.low == pytest.approx(low, abs=error)
    assert found.high == pytest.approx(high, abs=error)


def test_a_part_has_no_test() -> None:
    """Each run counts its own most confident half: 1 of 2 against 2 of 2."""
    a = np.array([(0.9, 1, 1), (0.8, 0, 1), (0.2, 1, 1), (0.1, 1, 1)], np.float64)
    b = np.array([(0.3, 1, 1), (0.2, 0, 1), (0.7, 1, 1), (0.6, 1, 1)], np.float64)
    found = difference(selective_accuracy(0.5), a, b)
    assert (found.a, found.b, found.value) == (50, 100, 50)
    assert (found.test, found.p, found.p_worse, found.lost, found.won) == ("none", *[None] * 4)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 50 <= found.high


def test_one_pair_is_none() -> None:
    found = difference(bits("byte"), np.array([(3.0, 1.0)]), np.array([(5.0, 1.0)]))
    assert found.value == pytest.approx(2 / math.log(2))
    assert (found.low, found.high, found.p, found.p_worse, found.test) == (*[None] * 4, "none")


@pytest.mark.parametrize(
    "rows", [[], [(math.nan, 1.0), (1.0, 1.0)], [(1.0, 0.0), (2.0, 0.0)], [(5000.0, 1.0)] * 2]
)
def test_what_cannot_be_compared(rows: list[Outcome]) -> None:
    b = np.array(rows).reshape(len(rows), 2)
    with pytest.raises(NumericsError, match=r"cannot compare .* expected finite numbers"):
        difference(perplexity("word"), np.ones_like(b), b)


def test_blocks_hold_the_same_items_in_both_runs() -> None:
    """The runs count units differently; both are cut where run a's units say."""
    random = Random(1)
    a = np.array([(random.random(), units) for units in (1, 1, 2, 4, 1, 1, 1, 1)])
    b = np.array([(random.random(), units) for units in (9, 1, 1, 1, 1, 1, 1, 9)])
    cuts = [[0, 1, 2], [3], [4, 5, 6, 7]]  # a third of 12 units each
    first, second = (np.array([run[cut].sum(axis=0) for cut in cuts]) for run in (a, b))
    found = difference(bits("byte"), a, b, blocks=3, resamples=200)
    by_blocks = difference(bits("byte"), first, second, resamples=200)
    assert (found.pairs, *p_values(found)) == (3, *p_values(by_blocks))
    assert (found.low, found.high) == pytest.approx((by_blocks.low, by_blocks.high))


def test_memory_is_bounded() -> None:
    """10,000 resamples of 10,000 examples: all at once, they would take 800 MB."""
    rng = np.random.default_rng(0)
    a, b = (counted(rng.gamma(2, 3, 10_000)) for _ in "ab")
    tracemalloc.start()
    try:
        difference(perplexity("word"), a, b)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64e6


# Several tasks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ps", "adjusted"),
    [
        # the example in the documentation of pingouin's `holm`
        ([0.50, 0.003, 0.32, 0.054, 0.0003], [0.64, 0.012, 0.64, 0.162, 0.0015]),
        # by hand: 3 * 0.01, then 2 * 0.014 is less and stays at 0.03, then 1 * 0.04
        ([0.014, 0.01, 0.04], [0.03, 0.03, 0.04]),
        ([0.9, 0.8], [1, 1]),
        ([None, 0.02, None, 0.01], [None, 0.02, None, 0.02]),
        ([None], [None]),
        ([], []),
    ],
)
def test_holm(ps: list[float | None], adjusted: list[float | None]) -> None:
    assert holm(ps) == pytest.approx(adjusted)


@given(st.lists(st.none() | st.floats(0, 1)))
def test_holm_rejects_what_the_step_down_rule_rejects(ps: list[float | None]) -> None:
    """From the smallest of m on: reject while p <= alpha / (m - rank), then stop."""
    alpha = 0.05
    tested = sorted(p for p in ps if p is not None)
    steps = [p * (len(tested) - rank) <= alpha for rank, p in enumerate(tested)]
    rejected = steps.index(False) if False in steps else len(steps)
    adjusted = [p for p in holm(ps) if p is not None]
    assert sum(p <= alpha for p in adjusted) == rejected
    assert [p is None for p in holm(ps)] == [p is None for p in ps]


# Power ----------------------------------------------------------------------------------------


def test_needed_by_hand() -> None:
    # a drop of a fifth of the sd, one-sided 5 %, 80 %: (1.6449 + 0.8416)^2 / 0.2^2 = 154.6
    assert needed(10, 2, alpha=0.05, power=0.8) == 155
    assert detectable(10, 155, alpha=0.05, power=0.8) == pytest.approx(1.9972, abs=1e-4)
    assert needed(0, 2, alpha=0.05, power=0.8) == 2


@given(st.integers(2, 10**6), st.floats(0.1, 50), st.floats(0.01, 0.2), st.floats(0.3, 0.99))
def test_needed_and_detectable_are_inverse(n: int, sd: float, alpha: float, power: float) -> None:
    drop = detectable(sd, n, alpha=alpha, power=power)
    assert needed(sd, drop, alpha=alpha, power=power) == n


@pytest.mark.parametrize(
    ("drop", "alpha", "power"), [(0, 0.05, 0.8), (-1, 0.05, 0.8), (1, 0.9, 0.8)]
)
def test_power_without_sense(drop: float, alpha: float, power: float) -> None:
    with pytest.raises(UsageError, match="expected"):
        needed(10, drop, alpha=alpha, power=power)


def test_flips_that_cannot_make_the_drop() -> None:
    with pytest.raises(
        UsageError, match=r"a drop of 5 points needs at least 0\.05 of the examples"
    ):
        sd_of_flips(0.04, 5)


def test_the_sd_of_means_is_that_of_the_items() -> None:
    a, b = from_flips(lost=30, won=18, both=200, neither=152)
    changes = 100 * (b[:, 0] - a[:, 0])
    assert sd_of_difference(ACCURACY, a, b) == pytest.approx(changes.std(ddof=1))
    exact = sd_of_flips(48 / 400, 3) * math.sqrt(400 / 399)
    assert sd_of_difference(ACCURACY, a, b) == pytest.approx(exact)
    share = 230 / 400
    one = 100 * math.sqrt(share * (1 - share) * 400 / 399)
    assert sd_guess(ACCURACY, a, 0.7) == pytest.approx(math.sqrt(0.6) * one)


def test_the_sd_of_perplexity_is_the_delta_methods() -> None:
    metric, a, b = runs("perplexity", 3000)

    def influence(run: Table) -> Table:
        nats, words = run.T
        ratio = nats.sum() / words.sum()
        return np.asarray(math.exp(ratio) * (nats - ratio * words) / words.mean())

    exact = (influence(b) - influence(a)).std()
    assert sd_of_difference(metric, a, b) == pytest.approx(exact, rel=0.01)
    assert sd_guess(metric, a, 0.5) == pytest.approx(influence(a).std(), rel=0.01)


@pytest.mark.parametrize("kind", [*KINDS, "most confident"])
def test_the_sd_predicts_the_interval(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One example's standard deviation over the root of n is the bootstrap's standard error."""
    monkeypatch.setitem(KINDS, "most confident", (selective_accuracy(0.4), ranked))
    metric, a, b = runs(kind, 400, seed=5)
    found = difference(metric, a, b, resamples=1000)
    assert found.low is not None
    assert found.high is not None
    stderr = (found.high - found.low) / (2 * 1.96)
    # 1,000 draws leave 5 % in a width of quantiles; calibration error is not smooth
    assert sd_of_difference(metric, a, b) / math.sqrt(400) == pytest.approx(stderr, rel=0.2)


def test_neighbours_that_depend_on_each_other_need_more_items() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.stack([np.repeat(rng.normal(5, 1, 100), 10), np.ones(1000)], axis=1) for _ in "ab")
    single = sd_of_difference(bits("byte"), a, b)
    assert sd_of_difference(bits("byte"), a, b, blocks=100) == pytest.approx(
        single * math.sqrt(10), rel=0.01
    )
    guess = sd_guess(bits("byte"), a, 0.0, blocks=100)
    assert guess == pytest.approx(sd_guess(bits("byte"), a, 0.0) * math.sqrt(10), rel=0.01)


@pytest.mark.parametrize("metric", [ACCURACY, selective_accuracy(0.5)])
def test_one_item_has_no_sd(metric: Metric) -> None:
    table = np.ones((1, 3))
    if metric.select:
        assert sd_guess(metric, table, 0.0) == 0  # nothing else can be drawn
    else:
        with pytest.raises(NumericsError, match="expected two or more examples"):
            sd_of_difference(metric, table, table)


def test_power_of_flips_by_simulation() -> None:
    n = needed(sd_of_flips(0.10, 2), 2, alpha=0.05, power=0.8)
    rng = np.random.default_rng(1)
    caught = 0
    for _ in range(300):
        lost, won, both, neither = rng.multinomial(n, [0.06, 0.04, 0.34, 0.56])
        found = difference(ACCURACY, *from_flips(lost, won, both, neither), resamples=2)
        caught += p_values(found)[1] < 0.05
    # 300 trials: 2.3 points a standard error, and the exact test gives some power away
    assert caught / 300 == pytest.approx(0.8, abs=0.07)


def test_power_of_perplexity_by_simulation() -> None:
    """Run b loses 0.03 nats a word on average, from a mean of 1.5."""
    rng = np.random.default_rng(2)

    def pair(n: int) -> tuple[Table, Table]:
        nats = rng.gamma(1.5, 1, n)
        return counted(nats), counted(nats + rng.normal(0.03, 0.3, n))

    metric = perplexity("word")
    rise = math.exp(1.53) - math.exp(1.5)
    n = needed(sd_of_difference(metric, *pair(20_000)), rise, alpha=0.05, power=0.8)
    found = [p_values(difference(metric, *pair(n), resamples=199))[1] for _ in range(300)]
    # 300 trials: 2.3 points a standard error; 199 swaps give some power away
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.8, abs=0.07)
