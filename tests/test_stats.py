"""Scores against hand-computed values, intervals against published and brute-force ones."""

import math
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import NumericsError
from harness.metrics import ACCURACY, Metric, Outcome, bits, perplexity
from harness.stats.intervals import bootstrap, interval, pool, score
from harness.task import Measure


def measure(metric: Metric, *, blocks: int | None = None) -> Measure:
    return Measure("m", metric, lambda e, r: [], ("sum", "units"), "", "COLUMN", blocks)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.00, 16.11),
        (1, 29, 0.61, 17.18),
    ],
)
def test_wilson_interval(right: int, total: int, low: float, high: float) -> None:
    outcomes: list[Outcome] = [(1.0, 1.0)] * right + [(0.0, 1.0)] * (total - right)
    found = score(measure(ACCURACY), outcomes, seed=0)
    assert found.value == pytest.approx(100 * right / total)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)
    share = right / total
    assert found.stderr == pytest.approx(100 * math.sqrt(share * (1 - share) / total))
    assert found.totals == {"sum": right, "units": total}


@pytest.mark.parametrize(
    ("metric", "outcomes", "value", "unit"),
    [
        # 6 nats over 4 words; the mean of the two perplexities would be (e^5 + e^(1/3)) / 2
        (perplexity("word"), [(5.0, 1.0), (1.0, 3.0)], math.exp(1.5), "per word"),
        (perplexity("word"), [(math.log(8), 1.0), (math.log(2), 1.0)], 4.0, "per word"),
        (bits("byte"), [(math.log(2) * 6, 2.0), (math.log(2), 5.0)], 1.0, "bits per byte"),
        (ACCURACY, [(1.0, 1.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)], 60.0, "%"),
        # a piece without units (a blank line's) still counts its nats
        (perplexity("word"), [(1.0, 0.0), (1.0, 2.0)], math.e, "per word"),
    ],
)
def test_values_by_hand(metric: Metric, outcomes: list[Outcome], value: float, unit: str) -> None:
    found = score(measure(metric), outcomes, seed=0)
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.unit == unit
    assert found.column == "COLUMN"


@given(
    st.lists(st.tuples(st.floats(0, 50), st.integers(1, 9)), min_size=2, max_size=20), st.randoms()
)
def test_never_a_mean_of_means(outcomes: list[tuple[float, int]], random: Random) -> None:
    """How outcomes are grouped and ordered changes nothing: sums are added and divided once."""
    whole = score(measure(bits("byte")), outcomes, seed=0).value
    total = (math.fsum(n for n, _ in outcomes), float(sum(u for _, u in outcomes)))
    shuffled = random.sample(outcomes, len(outcomes))
    assert score(measure(bits("byte")), [total], seed=0).value == pytest.approx(whole, rel=1e-12)
    assert score(measure(bits("byte")), shuffled, seed=0).value == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ([], "m: nothing to divide by; expected at least one unit"),
        ([(3.0, 0.0), (2.0, 0.0)], "m: nothing to divide by; expected at least one unit"),
        ([(math.nan, 1.0), (2.0, 1.0)], "m is nan, expected a finite number"),
        ([(math.inf, 1.0), (2.0, 1.0)], "m is inf, expected a finite number"),
        ([(5000.0, 1.0)], "m is inf, expected a finite number"),  # exp overflows
    ],
)
def test_what_has_no_score(outcomes: list[Outcome], words: str) -> None:
    with pytest.raises(NumericsError, match=words):
        score(measure(perplexity("word")), outcomes, seed=0)


def test_bootstrap_equals_all_resamples() -> None:
    """Four outcomes have 4^4 resamples; their spread is what the bootstrap estimates."""
    table = np.array([(3.0, 2.0), (1.0, 1.0), (9.0, 4.0), (0.5, 1.0)])
    every = [table[list(pick)].sum(axis=0) for pick in product(range(4), repeat=4)]
    exact = np.array([nats / units / math.log(2) for nats, units in every])
    found = bootstrap(bits("byte"), table, seed=3, resamples=20_000)
    # standard errors of a mean and of a standard deviation over 20,000 draws, times four
    assert found.mean() == pytest.approx(exact.mean(), abs=4 * exact.std() / 20_000**0.5)
    assert found.std() == pytest.approx(exact.std(), rel=4 / 40_000**0.5)
    assert set(np.round(found, 9)) <= set(np.round(exact, 9))


def test_bootstrap_equals_the_delta_method() -> None:
    rng = np.random.default_rng(5)
    units = rng.integers(5, 40, 600).astype(float)
    table = np.stack([units * 3 + rng.normal(0, 6, 600), units], axis=1)
    nats, total = table.sum(axis=0)
    ratio = nats / total
    residuals = table[:, 0] - ratio * table[:, 1]
    value = math.exp(ratio)
    stderr = value * math.sqrt((residuals**2).sum()) / total  # d exp(r) = exp(r) dr
    found = interval(perplexity("word"), table, blocks=None, seed=1)
    assert found.stderr == pytest.approx(stderr, rel=0.07)  # 2,000 draws: 1.6 % a sigma
    assert found.low == pytest.approx(value - 1.96 * stderr, abs=0.25 * stderr)
    assert found.high == pytest.approx(value + 1.96 * stderr, abs=0.25 * stderr)


def test_the_seed_fixes_the_interval() -> None:
    table = np.array([(float(i % 7), 2.0) for i in range(50)])
    first = interval(bits("byte"), table, blocks=10, seed=1)
    assert interval(bits("byte"), table, blocks=10, seed=1) == first
    assert interval(bits("byte"), table, blocks=10, seed=2) != first


def test_pool_by_hand() -> None:
    table = np.array([(float(i), 1.0) for i in range(6)])
    assert pool(table, 3).tolist() == [[1.0, 2.0], [5.0, 2.0], [9.0, 2.0]]
    # cut at 4 of 8 units: [1 1 2] [1 3]
    uneven = np.array([(10.0, 1.0), (20.0, 1.0), (30.0, 2.0), (40.0, 1.0), (50.0, 3.0)])
    assert pool(uneven, 2).tolist() == [[60.0, 4.0], [90.0, 4.0]]
    # one outcome with most units fills its block alone; no block is empty
    lumpy = np.array([(1.0, 1.0), (2.0, 97.0), (3.0, 1.0), (4.0, 1.0)])
    assert pool(lumpy, 4).tolist() == [[1.0, 1.0], [9.0, 99.0]]
    assert pool(table, 100).tolist() == table.tolist()


@given(
    st.lists(st.tuples(st.floats(0, 9), st.integers(0, 5)), min_size=1, max_size=60).filter(
        lambda rows: any(units for _, units in rows)
    ),
    st.integers(1, 12),
)
def test_pool_keeps_the_sums(rows: list[tuple[float, int]], blocks: int) -> None:
    table = np.array(rows, np.float64)
    pooled = pool(table, blocks)
    assert 1 <= len(pooled) <= blocks
    assert pooled.sum(axis=0) == pytest.approx(table.sum(axis=0))


def test_neighbours_that_depend_on_each_other_widen_the_interval() -> None:
    """Ten lines in a row alike: single lines look ten times as many as they are."""
    rng = np.random.default_rng(0)
    table = np.stack([np.repeat(rng.normal(5, 1, 100), 10), np.ones(1000)], axis=1)
    single = interval(bits("byte"), table, blocks=None, seed=0).stderr
    pooled = interval(bits("byte"), table, blocks=100, seed=0).stderr
    assert single is not None
    assert pooled is not None
    assert pooled / single == pytest.approx(math.sqrt(10), rel=0.1)


def test_one_outcome_has_no_interval() -> None:
    found = score(measure(bits("byte"), blocks=100), [(2.0, 1.0)], seed=0)
    assert (found.stderr, found.low, found.high) == (None, None, None)
