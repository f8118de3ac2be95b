"""The pooled test: one sign-flip test of the mean standardised loss over many scores."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.errors import NumericsError
from harness.metrics import ACCURACY, perplexity
from harness.stats.intervals import pool
from harness.stats.paired import holm, units
from harness.stats.pooled import PooledScore, pooled_test

Table = NDArray[np.float64]
PPL = perplexity("word")


def right(values: list[int] | NDArray[np.int64]) -> Table:
    """Outcomes of an accuracy."""
    return np.array([(value, 1) for value in values], np.float64)


def lost(examples: int, count: int, benchmark: str, won: int = 0) -> PooledScore:
    """The first `count` right answers are lost, and `won` of the wrong ones at the end won."""
    before = [1] * (examples - won) + [0] * won
    after = [0] * count + [1] * (examples - count)
    names = [(str(i), 0) for i in range(examples)]
    return PooledScore(ACCURACY, benchmark, names, right(before), right(after))


def mean_in_standard_errors(scores: list[PooledScore]) -> float:
    """The statistic for accuracies, each loss divided by its standard error under no difference."""
    total = 0.0
    for score in scores:
        losses = score.a[:, 0] - score.b[:, 0]
        total += losses.sum() / max(float(np.sqrt((losses**2).sum())), 1e-300)
    return total / len(scores)


def swapped(score: PooledScore, names: set[tuple[str, int]]) -> PooledScore:
    swap = np.array([name in names for name in score.keys])[:, None]
    a, b = np.where(swap, score.b, score.a), np.where(swap, score.a, score.b)
    return score._replace(a=a, b=b)


def test_p_is_that_of_all_joint_swaps() -> None:
    """Each example is swapped in all scores of its benchmark, by a loop over all the swaps."""
    rng = np.random.default_rng(5)
    names = [(str(i), 0) for i in range(5)]
    scores = [
        PooledScore(ACCURACY, "one", names, right(rng.integers(0, 2, 5)), right([0, 0, 1, 0, 0])),
        PooledScore(ACCURACY, "one", names, right([1, 1, 1, 0, 1]), right(rng.integers(0, 2, 5))),
        PooledScore(ACCURACY, "two", names[:4], right([1, 1, 1, 0]), right([0, 0, 1, 1])),
    ]
    observed = mean_in_standard_errors(scores)
    found = []
    for choice in product((False, True), repeat=9):
        one = {name for name, swap in zip(names, choice[:5], strict=True) if swap}
        two = {name for name, swap in zip(names, choice[5:], strict=False) if swap}
        found.append(
            mean_in_standard_errors(
                [swapped(s, one if s.benchmark == "one" else two) for s in scores]
            )
        )
    drawn = np.array(found)
    result = pooled_test(scores)
    assert result.loss == pytest.approx(observed)
    assert result.p_worse == pytest.approx(np.mean(drawn >= observed - 1e-9))
    assert result.p == pytest.approx(np.mean(np.abs(drawn) >= abs(observed) - 1e-9))
    assert result.units == 9


def test_the_same_score_twice_is_no_more_evidence() -> None:
    once = pooled_test([lost(100, 5, "one")])
    twice = pooled_test([lost(100, 5, "one"), lost(100, 5, "one")])
    apart = pooled_test([lost(100, 5, "one"), lost(100, 5, "two")])
    assert once.p_worse == twice.p_worse == 2**-5
    assert apart.p_worse == 2**-10


def test_a_little_worse_everywhere_is_seen_together_alone() -> None:
    scores = [lost(200, 9, str(k), won=3) for k in range(8)]
    alone = [pooled_test([score]).p_worse for score in scores]
    adjusted = [p for p in holm(alone) if p is not None]
    assert min(alone) > 0.05
    assert min(adjusted) > 0.5
    assert pooled_test(scores).p_worse < 0.001


def test_the_other_direction_has_the_opposite_loss() -> None:
    scores = [lost(60, 6, "one", won=1), lost(60, 3, "two")]
    back = [score._replace(a=score.b, b=score.a) for score in scores]
    there, again = pooled_test(scores), pooled_test(back)
    assert again.loss == pytest.approx(-there.loss)
    assert again.p == there.p
    assert again.p_worse > 0.95 > 0.05 > there.p_worse


def test_runs_that_agree_are_no_evidence() -> None:
    assert pooled_test([lost(50, 0, "one"), lost(50, 0, "two")])[:3] == (0, 1, 1)


def text(seed: int, pieces: int = 400) -> tuple[Table, Table]:
    """Nats and words of two runs on neighbouring pieces of a text."""
    rng = np.random.default_rng(seed)
    words = rng.integers(1, 30, pieces).astype(float)
    nats = words * rng.normal(4, 1, pieces)
    other = nats + words * rng.normal(0, 0.2, pieces)
    return np.stack([nats, words], axis=1), np.stack([other, words], axis=1)


def test_neighbours_are_swapped_in_the_blocks_of_the_single_test() -> None:
    a, b = text(1)
    names = [(str(i), 0) for i in range(len(a))]
    blocked = pooled_test([PooledScore(PPL, "text", names, a, b, 20)])
    first, second = units(PPL, (a, b), 20)
    assert blocked.units == len(first) == len(pool(a, 20)) == 20
    in_blocks = pooled_test([PooledScore(PPL, "text", names[:20], first, second)])
    assert blocked.loss == pytest.approx(in_blocks.loss, rel=1e-6)
    assert blocked.p_worse == pytest.approx(in_blocks.p_worse, abs=0.02)


def test_the_parts_of_an_example_are_swapped_together_unless_blocks_are() -> None:
    a, b = text(3)
    parts = [("0", i) for i in range(len(a))]  # one long text
    assert pooled_test([PooledScore(PPL, "text", parts, a, b)]).units == 1
    whole = pooled_test([PooledScore(PPL, "text", parts, a, b, 20)])
    names = [(str(i), 0) for i in range(len(a))]
    assert whole == pooled_test([PooledScore(PPL, "text", names, a, b, 20)])
    assert whole.units == 20


def test_a_score_without_blocks_is_swapped_in_those_of_its_benchmark() -> None:
    a, b = text(2)
    names = [(str(i), 0) for i in range(len(a))]
    answers = PooledScore(ACCURACY, "text", names, right([1] * 400), right([0, 1] * 200))
    both = pooled_test([answers, PooledScore(PPL, "text", names, a, b, 20)])
    assert both.units == 20


def test_false_alarms_keep_to_the_level() -> None:
    """No difference, two scores of the same answers and one of others: 1,000 pairs of runs."""
    rng = np.random.default_rng(0)
    names = [(str(i), 0) for i in range(10)]
    ps = []
    for _ in range(1000):
        first, second = rng.integers(0, 2, (2, 10))
        other, after = rng.integers(0, 2, (2, 10))
        scores = [
            PooledScore(ACCURACY, "one", names, right(first), right(second)),
            PooledScore(ACCURACY, "one", names, right(first), right(second)),
            PooledScore(ACCURACY, "two", names, right(other), right(after)),
        ]
        ps.append(pooled_test(scores).p_worse)
    share = np.mean(np.array(ps) <= 0.05)
    assert 0.03 < share < 0.07  # 0.05 and three standard errors


def test_outcomes_that_are_not_finite_are_refused() -> None:
    score = lost(4, 1, "one")
    score.b[2, 0] = np.nan
    with pytest.raises(NumericsError):
        pooled_test([score])
