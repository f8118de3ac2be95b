"""Power laws through scores: the fit against scipy and known truth, and which records share one."""

import math
from typing import Any

import numpy as np
import pytest
from console import SIZES, law_losses, law_records, made_record, sized_record
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from harness.analysis.paper import published as paper
from harness.analysis.scaling import KAPLAN_EXPONENT, MIN_SIZES, fit, law_for, scaling_curves
from harness.core import Score
from harness.errors import NumericsError

MODEL = made_record().model


# --- the fit ----------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(1, 10**12), st.floats(1e-3, 1e3)),
        min_size=4,
        max_size=12,
        unique_by=lambda pair: round(math.log(pair[0]), 1),
    )
)
def test_the_fit_is_that_of_scipy(pairs: list[tuple[int, float]]) -> None:
    found = fit(pairs)
    sizes, losses = np.log(np.array(pairs, np.float64)).T
    referee = stats.linregress(sizes, losses)
    reach = float(stats.t.ppf(0.975, len(pairs) - 2) * referee.stderr)
    near = {"rel": 1e-6, "abs": 1e-9}
    assert found.exponent == pytest.approx(-referee.slope, **near)
    assert found.low == pytest.approx(-referee.slope - reach, **near)
    assert found.high == pytest.approx(-referee.slope + reach, **near)
    assert math.log(found.coefficient) == pytest.approx(referee.intercept, rel=1e-6, abs=1e-8)


def test_a_law_without_noise_is_found_exactly() -> None:
    found = fit([(size, 12 * size**-0.3) for size in SIZES])
    assert found == pytest.approx((0.3, 0.3, 0.3, 12), rel=1e-9)


def test_the_interval_holds_the_exponent_in_95_of_100_cases() -> None:
    """2,000 draws: a share within three standard errors (0.015) of 0.95."""
    found = [fit(law_losses(KAPLAN_EXPONENT, spread=0.02, seed=seed)) for seed in range(2000)]
    share = np.mean([f.low <= KAPLAN_EXPONENT <= f.high for f in found])
    assert 0.935 <= share <= 0.965


def test_the_line_goes_through_the_middle_of_the_points() -> None:
    points = law_losses(KAPLAN_EXPONENT, spread=0.1, seed=3)
    found = fit(points)
    middle = math.exp(sum(math.log(size) for size in SIZES) / len(SIZES))
    height = math.exp(sum(math.log(loss) for _, loss in points) / len(points))
    assert found.loss(middle) == pytest.approx(height)
    assert found.loss(10**8) == pytest.approx(found.coefficient * (10**8) ** -found.exponent)


@pytest.mark.parametrize("count", range(MIN_SIZES))
def test_fewer_than_four_sizes_have_no_fit(count: int) -> None:
    points = [(size, 3.0) for size in SIZES[:count]]
    for runs in (1, 5):  # more runs of the same sizes
        with pytest.raises(NumericsError, match=f"^{count} of 4 sizes$"):
            fit(points * runs)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_loss_without_a_logarithm_has_no_fit(value: float) -> None:
    points = [*law_losses(KAPLAN_EXPONENT, spread=0, seed=0), (10**6, value)]
    with pytest.raises(NumericsError, match="has no logarithm"):
        fit(points)


def test_sizes_that_nearly_agree_have_no_fit() -> None:
    with pytest.raises(NumericsError, match="the sizes are nearly the same"):
        fit([(10**9 + step, 2.0 + step) for step in range(4)])


# --- what of a score is a loss -----------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "higher", "kind", "of", "score", "loss"),
    [
        ("per word", False, "loss", "nats per word", math.e**3, 3.0),
        ("bits per byte", False, "loss", "bits per byte", 1.16, 1.16),
        ("nats", False, "loss", "nats", 13.25, 13.25),
        ("%", True, "error", "% wrong", 45.0, 55.0),
    ],
)
def test_laws(unit: str, higher: bool, kind: str, of: str, score: float, loss: float) -> None:
    found = law_for(unit, higher_is_better=higher)
    assert found is not None
    assert (found.kind, found.unit) == (kind, of)
    assert found.loss(score) == pytest.approx(loss)
    assert found.score(found.loss(score)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("unit", "higher"), [("points", True), ("%", False), ("", True), ("nats", True)]
)
def test_other_scores_have_no_law(unit: str, higher: bool) -> None:
    assert law_for(unit, higher_is_better=higher) is None


def test_every_unit_of_the_paper_is_decided() -> None:
    units = {
        p.unit: law_for(p.unit, higher_is_better=p.unit in paper.POINTS) for p in paper.numbers()
    }
    assert [unit for unit, found in units.items() if found is None] == ["points"]


# --- records -> curves -------------------------------------------------------------------


def test_four_records_of_a_known_law_give_its_exponent() -> None:
    [curve] = scaling_curves(law_records(0.12))
    assert curve.fit is not None
    assert curve.reason == ""
    assert curve.fit.low <= 0.12 <= curve.fit.high
    assert curve.fit.exponent == pytest.approx(0.12, abs=0.01)
    assert [point.parameters for point in curve.points] == list(SIZES)
    assert curve.points[0][3:5] == (curve.points[0].value - 1, curve.points[0].value + 1)


def test_the_fit_of_perplexities_is_one_of_their_logarithms() -> None:
    [curve] = scaling_curves(law_records(0.12))
    losses = [(point.parameters, math.log(point.value)) for point in curve.points]
    assert curve.fit == fit(losses)


def test_the_papers_four_sizes_stand_beside() -> None:
    [curve] = scaling_curves([sized_record(10**8)])
    assert [point.name for point in curve.paper] == list(paper.SIZES)
    assert [point.value for point in curve.paper] == [35.13, 15.60, 10.87, 8.63]
    assert [point.parameters for point in curve.paper] == sorted(p[1] for p in curve.paper)
    sizes, losses = np.log([(p.parameters, math.log(p.value)) for p in curve.paper]).T
    assert curve.paper_fit is not None
    assert curve.paper_fit.exponent == pytest.approx(-stats.linregress(sizes, losses).slope)
    assert (curve.fit, curve.reason) == (None, "1 of 4 sizes")


def test_of_a_checkpoint_the_newest_run_counts() -> None:
    old = sized_record(10**8, 30.0, created="2026-01-01T00:00:00+00:00")
    new = sized_record(10**8, 31.0, created="2026-02-01T00:00:00+00:00")
    for records in ([old, new], [new, old]):
        [curve] = scaling_curves(records)
        assert [point.value for point in curve.points] == [31.0]


def test_two_checkpoints_of_one_size_are_two_points() -> None:
    twin = sized_record(10**8, 33.0, model={**MODEL, "parameters": 10**8, "digest": "7" * 64})
    [curve] = scaling_curves([sized_record(10**8, 30.0), twin])
    assert [point.value for point in curve.points] == [30.0, 33.0]


@pytest.mark.parametrize(
    "change",
    [
        {"version": 3},
        {"options": {"quotes": "off", "stride": 1024}},
        {"limit": 10, "examples": 10},
        {"data": {**made_record().data, "sha256": "55" * 32}},
        {"prompt": {"name": "other.txt", "sha256": "66" * 32}},
        {"origin": "lm-eval"},
    ],
    ids=str,
)
def test_other_measurements_have_curves_of_their_own(change: dict[str, Any]) -> None:
    assert len(scaling_curves([sized_record(10**8), sized_record(10**9, **change)])) == 2


def test_other_formats_share_a_curve_that_says_so() -> None:
    model = {**MODEL, "parameters": 10**9, "digest": "7" * 64, "dtype": "bfloat16", "context": 512}
    [curve] = scaling_curves([sized_record(10**8), sized_record(10**9, model=model)])
    assert len(curve.points) == 2
    assert set(curve.differs) == {"dtype", "context"}


def test_scores_without_a_column_are_drawn_on_demand_and_systems_without_a_model_never() -> None:
    scores = (
        *made_record().scores,
        Score("extra", 50.0, "%", True, None, None, None, {}),
        Score("lede-3", 40.0, "points", True, None, None, None, {}, None, "lede-3"),
    )
    record = made_record(scores=scores)
    assert [curve.metric for curve in scaling_curves([record])] == ["ppl", "acc"]
    assert [curve.metric for curve in scaling_curves([record], every=True)] == [
        "ppl",
        "acc",
        "extra",
    ]
    bare = made_record(task="mine", scores=scores[2:])
    assert [curve.metric for curve in scaling_curves([bare])] == ["extra"]


def test_models_of_unknown_size_are_left_out() -> None:
    assert scaling_curves([made_record(model={**MODEL, "parameters": "unknown"})]) == []


def test_curves_are_in_the_papers_order() -> None:
    found = scaling_curves([made_record(task=name) for name in ("mine", "ptb", "lambada")])
    assert [curve.task for curve in found] == ["lambada", "lambada", "ptb", "ptb", "mine", "mine"]


def test_rows_in_words() -> None:
    some = {"limit": 10, "examples": 10}
    road = {"data": {**made_record().data, "source": "sample"}}
    texts = [scaling_curves([sized_record(10**8, **change)])[0].rows for change in ({}, some, road)]
    assert texts == ["all 20 rows", "10 rows, seed 0", "all 20 rows of the sample"]


def test_a_limit_beyond_the_rows_is_no_limit() -> None:
    [curve] = scaling_curves([sized_record(10**8), sized_record(10**9, limit=50)])
    assert (len(curve.points), curve.differs) == (2, ())
