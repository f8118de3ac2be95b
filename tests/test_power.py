"""`harness power`: its numbers against the textbook formula, spelled out."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

import pytest
from console import harness, made_record, refused

from harness.core import Score
from harness.plugins.registry import load_task
from harness.records.folder import write
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown

N = 400
ACC, PPL = "acc-word-stopfilter", "ppl"
MEANS = ("nats", "margin")
Rows = Sequence[tuple[float, float]]

_RANDOM = random.Random(0)
RIGHT = [(float(_RANDOM.random() < 0.6), 1.0) for _ in range(N)]
OTHER = [(1.0 - r if _RANDOM.random() < 0.1 else r, 1.0) for r, _ in RIGHT]
NATS = [(_RANDOM.gammavariate(2, 1.5), 1.0) for _ in range(N)]
MORE = [(n + _RANDOM.gauss(0, 0.5), 1.0) for n, _ in NATS]


def value(metric: str, rows: Rows) -> float:
    share = math.fsum(x for x, _ in rows) / math.fsum(n for _, n in rows)
    if metric in MEANS:
        return share
    return math.exp(share) if metric == PPL else 100 * share


def made(folder: Path, rows: Mapping[str, Rows], task: str = "lambada", **changes: Any) -> Path:
    """A folder with a record of these outcomes, one per example."""
    count = len(next(iter(rows.values())))
    numbers = tuple(range(count))
    outcomes = {name: MetricOutcomes(numbers, tuple(found)) for name, found in rows.items()}
    items = Outcomes(tuple(map(str, numbers)), (Shown("", "", ""),) * count, outcomes)
    units = {PPL: "per word"}
    scores = tuple(
        Score(name, value(name, found), units.get(name, "%"), name != PPL, None, None, None, {})
        for name, found in rows.items()
    )
    installed = load_task(task)
    options = dict(installed.protocol().options)
    fields = {
        "version": installed.version,
        "options": options,
        "examples": count,
        "scores": scores,
        "outcomes": items,
        **changes,
    }
    write(made_record(task=task, **fields), folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of LAMBADA."""
    folder = tmp_path_factory.mktemp("power")
    return (
        made(folder / "a", {PPL: NATS, ACC: RIGHT}),
        made(folder / "b", {PPL: MORE, ACC: OTHER}),
    )


def power(*words: object) -> dict[str, dict[str, Any]]:
    """The answers of `harness power --json` by score."""
    result = harness("power", "--json", *words)
    assert result.code == 0, result.err
    assert result.out.count("\n") == 1
    value = json.loads(result.out)
    assert set(value) == {"power"}
    return {line["metric"]: line for line in value["power"]}


# --- the textbook -------------------------------------------------------------------------


def standard_errors(alpha: float = 0.05, power: float = 0.8) -> float:
    """A one-sided test at level alpha sees this many standard errors with the given power."""
    normal = NormalDist()
    return normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)


def pulls(metric: str, rows: Rows) -> list[float]:
    """The jackknife, leaving out one example at a time: n - 1 times what each adds."""
    sums = [math.fsum(column) for column in zip(*rows, strict=True)]
    whole = value(metric, rows)
    return [
        (len(rows) - 1) * (whole - value(metric, [(sums[0] - x, sums[1] - n)])) for x, n in rows
    ]


def between(metric: str, a: Rows, b: Rows) -> float:
    """Standard deviation of one example's part in the difference of two runs."""
    pairs = zip(pulls(metric, a), pulls(metric, b), strict=True)
    return stdev(two - one for one, two in pairs)


def assert_answers(line: dict[str, Any], sd: float, drop: float, errors: float) -> None:
    """`sd` is in the unit of the drop."""
    assert line["examples"] == N
    assert line["detectable"] == pytest.approx(errors * sd / math.sqrt(N), rel=1e-9)
    assert line["needed"] == max(2, math.ceil((errors * sd / drop) ** 2))


def test_pulls_of_a_mean_are_distances_from_it() -> None:
    mean = fmean(x for x, _ in RIGHT)
    assert pulls(ACC, RIGHT) == pytest.approx([100 * (x - mean) for x, _ in RIGHT], abs=1e-9)


# --- one run, two runs, a baseline --------------------------------------------------------


@pytest.mark.parametrize("drop", [0.5, 2.0, 10.0])
def test_two_runs_show_the_spread_of_their_differences(
    runs: tuple[Path, Path], drop: float
) -> None:
    found = power(*runs, "--drop", drop)
    assert list(found) == [PPL, ACC]
    points = stdev(100 * (b[0] - a[0]) for a, b in zip(RIGHT, OTHER, strict=True))
    assert_answers(found[ACC], points, drop, standard_errors())
    percent = between(PPL, NATS, MORE) * 100 / value(PPL, NATS)
    assert_answers(found[PPL], percent, drop, standard_errors())
    assert {x["basis"] for x in found.values()} == {"the two runs"}
    assert [found[m]["unit"] for m in (ACC, PPL)] == ["points", "% of the score"]


def test_two_runs_show_what_would_detect_the_difference_between_them(
    runs: tuple[Path, Path],
) -> None:
    found = power(*runs)
    spread = {
        ACC: stdev(100 * (b[0] - a[0]) for a, b in zip(RIGHT, OTHER, strict=True)),
        PPL: between(PPL, NATS, MORE),
    }
    for metric, (a, b) in {ACC: (RIGHT, OTHER), PPL: (NATS, MORE)}.items():
        difference = value(metric, b) - value(metric, a)
        wanted = math.ceil((standard_errors() * spread[metric] / difference) ** 2)
        assert found[metric]["needed_for_difference"] == wanted
        again = power(*reversed(runs))[metric]["needed_for_difference"]
        assert again == pytest.approx(wanted, abs=1), "whichever is the better one"
    assert {x["needed_for_difference"] for x in power(runs[0]).values()} == {None}
    assert {x["needed_for_difference"] for x in power(runs[0], runs[0]).values()} == {None}
    assert "B - A" not in harness("power", runs[0]).out


def test_a_difference_by_rounding_is_none(tmp_path: Path) -> None:
    """The same nats for other examples: a large spread, and no difference but that of rounding."""
    a = made(tmp_path / "a", {PPL: NATS})
    b = made(tmp_path / "b", {PPL: [*NATS[3:], *NATS[:3]]})
    found = power(a, b)[PPL]
    assert (found["needed"] > N, found["needed_for_difference"]) == (True, None)


def test_other_scores_on_demand(tmp_path: Path) -> None:
    """Questions of the Children's Book Test, with the nats of the right choice."""
    rows = {"acc": RIGHT, "nats": NATS, "margin": [(3 - x, 1.0) for x, _ in NATS]}
    run = made(tmp_path / "run", rows, task="cbt-cn")
    assert list(power(run)) == ["acc"]
    found = power(run, "--all")
    assert list(found) == ["acc", "nats", "margin"]
    for metric in MEANS:
        percent = 100 * stdev(x for x, _ in rows[metric]) / abs(value(metric, rows[metric]))
        assert_answers(found[metric], percent, 2, standard_errors())


@pytest.mark.parametrize("correlation", [None, 0.0, 0.9, -0.5])
def test_one_run_guesses_the_spread_from_its_own(
    runs: tuple[Path, Path], correlation: float | None
) -> None:
    words = [] if correlation is None else ["--correlation", correlation]
    found = power(runs[0], *words)
    assumed = 0.5 if correlation is None else correlation
    widened = math.sqrt(2 * (1 - assumed))
    points = widened * stdev(100 * x for x, _ in RIGHT)
    assert_answers(found[ACC], points, 2, standard_errors())
    percent = widened * stdev(pulls(PPL, NATS)) * 100 / value(PPL, NATS)
    assert_answers(found[PPL], percent, 2, standard_errors())
    assert {x["basis"] for x in found.values()} == {f"one run, correlation {assumed:g}"}


@pytest.mark.parametrize(("alpha", "wanted"), [(0.01, 0.9), (0.05, 0.5), (0.2, 0.99)])
def test_level_and_power_are_obeyed(runs: tuple[Path, Path], alpha: float, wanted: float) -> None:
    found = power(*runs, "--alpha", alpha, "--power", wanted)
    points = stdev(100 * (b[0] - a[0]) for a, b in zip(RIGHT, OTHER, strict=True))
    assert_answers(found[ACC], points, 2, standard_errors(alpha, wanted))


@pytest.mark.parametrize(("share", "drop"), [(0.1, 2.0), (0.02, 2.0), (1.0, 5.0)])
def test_a_share_of_items_that_differ(runs: tuple[Path, Path], share: float, drop: float) -> None:
    """Flips of +-1: the variance is their share minus the square of their mean."""
    found = power(runs[0], "--discordance", share, "--drop", drop)
    points = 100 * math.sqrt(share - (drop / 100) ** 2)
    assert_answers(found[ACC], points, drop, standard_errors())
    assert found[ACC]["basis"] == f"{share:.0%} of the examples differ"
    assert found[PPL]["basis"] == "one run, correlation 0.5", "it is not right or wrong"


def test_the_drop_of_the_paper_in_numbers(runs: tuple[Path, Path]) -> None:
    """2 points at 10 % discordance: (1.645 + 0.842)^2 * 996 / 4 = 1,540 examples."""
    line = power(runs[0], "--discordance", 0.1)[ACC]
    assert line["needed"] == 1540
    assert line["detectable"] == pytest.approx(3.92, abs=0.01)


def test_detectable_and_needed_are_two_sides_of_one_thing(runs: tuple[Path, Path]) -> None:
    for metric, line in power(*runs).items():
        again = power(*runs, "--drop", line["detectable"])
        assert abs(again[metric]["needed"] - N) <= 1


def test_a_baseline_is_taken_for_its_runs(runs: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "main.toml"
    assert harness("baseline", runs[0], "--out", path).code == 0
    assert power(path) == power(runs[0])
    assert power(path, runs[1]) == power(*runs)


def test_common_items_alone_are_counted(runs: tuple[Path, Path], tmp_path: Path) -> None:
    part = made(tmp_path / "part", {PPL: MORE[:50], ACC: OTHER[:50]}, limit=50)
    line = power(runs[0], part)[ACC]
    assert line["examples"] == 50
    points = stdev(100 * (b[0] - a[0]) for a, b in zip(RIGHT[:50], OTHER[:50], strict=True))
    assert line["detectable"] == pytest.approx(standard_errors() * points / math.sqrt(50))


def test_neighbouring_lines_count_in_blocks(tmp_path: Path) -> None:
    """400 lines of ten words are 100 blocks of four, and those are what is independent."""
    rows = [(10 * n, 10.0) for n, _ in NATS]
    lines = MetricOutcomes((0,) * N, tuple(rows))
    items = Outcomes(("0-399",), (Shown("", "", ""),), {PPL: lines})
    run = made(tmp_path / "run", {PPL: rows}, task="wikitext2", outcomes=items)
    line = power(run)[PPL]
    blocks = [
        (math.fsum(x for x, _ in four), math.fsum(n for _, n in four))
        for four in (rows[i : i + 4] for i in range(0, N, 4))
    ]
    percent = stdev(pulls(PPL, blocks)) * 100 / value(PPL, rows)
    assert line["examples"] == N
    assert line["detectable"] == pytest.approx(standard_errors() * percent / math.sqrt(100))


def test_where_no_item_differs_nothing_can_be_told(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {PPL: NATS, ACC: [(0.0, 1.0)] * N})
    for runs in ((run,), (run, run)):
        line = power(*runs)[ACC]
        assert (line["detectable"], line["needed"], line["examples"]) == (None, None, N)
        assert line["basis"].endswith("no example differs, so there is no estimate")
        [row] = [x.split() for x in harness("power", *runs).out.split("\n") if ACC in x]
        assert row[2:5] == [str(N), "-", "-"]
    assert power(run)[PPL]["needed"] > 2


def test_the_table_says_what_was_asked(runs: tuple[Path, Path]) -> None:
    result = harness("power", *runs, "--drop", 3)
    assert result.code == 0
    assert "one-sided paired test at level 0.05, power 0.8\n" in result.out
    assert "examples for 3" in result.out
    for metric, line in power(*runs, "--drop", 3).items():
        [row] = [x.split() for x in result.out.split("\n") if x.split()[1:2] == [metric]]
        numbers = [str(N), f"{line['detectable']:.2f}", f"{line['needed']:,}"]
        assert row[:5] == ["lambada", metric, *numbers]


# --- questions without an answer ----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--drop", "0"], "--drop"),
        (["--drop", "-1"], "--drop"),
        (["--drop", "nan"], "drop"),
        (["--alpha", "0"], "'--alpha': 0.0 is not in the range"),
        (["--alpha", "1e-320"], "'--alpha': 1e-320 is not in the range"),
        (["--drop", "1e-300"], "'--drop': 1e-300 is not in the range"),
        (["--alpha", "0.9"], "expected 0 < alpha < power < 1, got alpha 0.9, power 0.8"),
        (["--alpha", "2"], "--alpha"),
        (["--alpha", "nan"], "alpha"),
        (["--power", "1"], "expected 0 < alpha < power < 1, got alpha 0.05, power 1"),
        (["--power", "0.01"], "expected 0 < alpha < power < 1, got alpha 0.05, power 0.01"),
        (["--correlation", "1.5"], "--correlation"),
        (["--correlation", "nan"], "correlation"),
        (["--discordance", "0.01"], "a drop of 2 points needs at least 0.02 of the examples"),
        (["--discordance", "2"], "--discordance"),
        (["--discordance", "nan"], "'nan' is not a number"),
        (["--drop", "many"], "'many' is not a valid float"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_values_without_sense_are_refused(
    runs: tuple[Path, Path], words: list[str], expected: str
) -> None:
    assert expected in refused("power", runs[0], *words)


def test_three_runs_are_one_too_many(runs: tuple[Path, Path]) -> None:
    line = refused("power", *runs, runs[0])
    assert "power takes one run or two, or a baseline; 3 were given" in line


def test_runs_of_different_things_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    prompt = {"name": "lambada.txt", "sha256": "e" * 64}
    other = made(tmp_path / "other", {PPL: MORE, ACC: OTHER}, prompt=prompt)
    line = refused("power", runs[0], other)
    assert "they measure different things; prompt: d4d4d4d4 / eeeeeeee" in line


def test_one_item_has_no_spread(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {PPL: NATS[:1], ACC: RIGHT[:1]})
    assert "expected two or more examples" in refused("power", run)


def test_paths_without_runs_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    assert "no record in" in refused("power", tmp_path / "gone")
    assert "gone.toml': No such file" in refused("power", tmp_path / "gone.toml")
    assert "Missing argument" in refused("power")
