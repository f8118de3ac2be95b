"""Reliability by bins and accuracy of the surest answers, by hand and against naive loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import Score
from harness.metrics import Metric, selective_accuracy
from harness.metrics.calibration import BINS, CALIBRATION_ERROR, STATISTICS, Bin, outcome, table
from harness.stats.intervals import score
from harness.task import Measure

Answer = tuple[int, int]
"""Confidence in thousandths, and 1 if right, else 0."""
ANSWERS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1)), min_size=1, max_size=40)
BY_HAND: list[Answer] = [(50, 0), (950, 1), (120, 1), (920, 0), (180, 0), (1000, 1)]


def calibrated(answers: list[Answer]) -> Score:
    statistics = (*STATISTICS, "questions")
    measure = Measure("ece", CALIBRATION_ERROR, lambda e, r: [], statistics, "")
    return score(measure, [outcome(k / 1000, right) for k, right in answers], seed=0)


def surest(metric: Metric, answers: list[Answer]) -> Score:
    measure = Measure("top", metric, lambda e, r: [], ("confidence", "right", "questions"), "")
    return score(measure, [(k / 1000, float(right), 1.0) for k, right in answers], seed=0)


def bins(answers: list[Answer]) -> list[list[Answer]]:
    """Ten lists; thousandths leave no doubt about the edges."""
    found: list[list[Answer]] = [[] for _ in range(10)]
    for k, right in answers:
        found[min(k // 100, 9)].append((k, right))
    return found


def naive_error(answers: list[Answer]) -> float:
    error = 0.0
    for held in filter(None, bins(answers)):
        confidence = sum(k for k, _ in held) / 1000 / len(held)
        accuracy = sum(right for _, right in held) / len(held)
        error += len(held) / len(answers) * abs(accuracy - confidence)
    return 100 * error


# --- reliability ----------------------------------------------------------------------------


def test_reliability_table_by_hand() -> None:
    found = table(calibrated(BY_HAND).totals)
    want = [(0.0, 0.1, 1, 0.05, 0.0), (0.1, 0.2, 2, 0.15, 0.5), (0.9, 1.0, 3, 2.87 / 3, 2 / 3)]
    assert all(isinstance(line, Bin) for line in found)
    assert found == [pytest.approx(line) for line in want]


def test_calibration_error_by_hand() -> None:
    """(1 * 0.05 + 2 * 0.35 + 3 * 0.29) / 6, in points."""
    found = calibrated(BY_HAND)
    assert found.value == pytest.approx(27)
    assert (found.unit, found.higher_is_better) == ("points", False)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([(1000, 1), (1000, 1)], 0),
        ([(1000, 0)], 100),
        ([(0, 0)], 0),
        ([(500, 1), (500, 0)], 0),
        ([(440, 1), (460, 0), (450, 0)], 100 * (0.45 - 1 / 3)),
        # too sure in one bin and not sure enough in another do not make up for each other
        ([(950, 0), (50, 1)], 95),
    ],
)
def test_calibration_error_of_few_answers(answers: list[Answer], error: float) -> None:
    assert calibrated(answers).value == pytest.approx(error)


@pytest.mark.parametrize(
    ("confidence", "place"),
    [
        (0.0, 0),
        (0.0999, 0),
        (0.1, 1),
        (0.3, 3),
        (0.6, 6),
        (0.7, 7),
        (0.8999, 8),
        (0.9, 9),
        (1.0, 9),
    ],
)
def test_bins_hold_their_lower_edge_and_the_last_one_holds_1(confidence: float, place: int) -> None:
    found, held = outcome(confidence, 1.0), slice(3 * place, 3 * place + 3)
    assert STATISTICS[held] == (f"n{place}", f"confidence{place}", f"right{place}")
    assert found[held] == (1, confidence, 1)
    assert sum(found) == pytest.approx(1 + confidence + 1 + 1), "the other bins are empty"


def test_empty_bins_are_not_in_the_table() -> None:
    assert table(dict.fromkeys(STATISTICS, 0.0)) == []
    assert [line.low for line in table(calibrated([(250, 1), (730, 0)]).totals)] == [0.2, 0.7]


@given(ANSWERS)
def test_calibration_equals_a_naive_loop(answers: list[Answer]) -> None:
    found = calibrated(answers)
    assert found.value == pytest.approx(naive_error(answers), abs=1e-9)
    lines = table(found.totals)
    assert [line.answers for line in lines] == [len(held) for held in bins(answers) if held]
    for line, held in zip(lines, filter(None, bins(answers)), strict=True):
        assert line.confidence == pytest.approx(sum(k for k, _ in held) / 1000 / len(held))
        assert line.accuracy == pytest.approx(sum(right for _, right in held) / len(held))
        assert line.high - line.low == pytest.approx(1 / BINS)


def test_resamples_are_scored_as_single_samples() -> None:
    rng = np.random.default_rng(0)
    answers = [(int(k), int(rng.random() < k / 1500)) for k in rng.integers(0, 1001, 30)]
    outcomes = np.array([outcome(k / 1000, right) for k, right in answers])
    draws = rng.integers(0, 30, (50, 30))
    found = CALIBRATION_ERROR.compute([column[draws].sum(axis=1) for column in outcomes.T])
    assert found == pytest.approx([naive_error([answers[i] for i in draw]) for draw in draws])


# --- the surest answers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "right", "asked"),
    [(0.2, 1, 1), (0.34, 2, 2), (0.5, 2, 3), (0.01, 1, 1), (1.0, 3, 6)],
)
def test_surest_answers_by_hand(share: float, right: int, asked: int) -> None:
    """In order: 1.000 right, 0.950 right, 0.920 wrong, 0.180 wrong, 0.120 right, 0.050 wrong."""
    found = surest(selective_accuracy(share), BY_HAND)
    assert (found.totals["right"], found.totals["questions"]) == (right, asked)
    assert found.value == pytest.approx(100 * right / asked)


def test_equal_confidences_count_in_the_order_of_the_items() -> None:
    assert surest(selective_accuracy(0.5), [(700, 1), (700, 0), (700, 0), (700, 1)]).value == 50
    assert surest(selective_accuracy(0.25), [(700, 0), (700, 1), (700, 1), (700, 1)]).value == 0


@pytest.mark.parametrize(
    ("share", "answers", "asked"), [(0.01, 7830, 78), (0.29, 100, 29), (0.57, 200, 114)]
)
def test_a_share_of_the_answers_is_rounded_down_from_its_decimal_value(
    share: float, answers: int, asked: int
) -> None:
    assert surest(selective_accuracy(share), [(500, 1)] * answers).totals["questions"] == asked


@given(ANSWERS, st.sampled_from([1, 5, 10, 25, 50, 75, 100]))
def test_surest_answers_equal_a_naive_loop(answers: list[Answer], percent: int) -> None:
    ranked = sorted(range(len(answers)), key=lambda i: (-answers[i][0], i))
    kept = [answers[i][1] for i in ranked[: max(1, percent * len(answers) // 100)]]
    found = surest(selective_accuracy(percent / 100), answers)
    assert found.value == pytest.approx(100 * sum(kept) / len(kept))
    assert found.totals["questions"] == len(kept)
