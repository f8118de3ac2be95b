"""`harness compare` on runs of tiny models: its numbers, and runs that cannot be paired."""

import gzip
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import save_tiny
from console import harness, made_record, refused
from rich.cells import cell_len

from harness.core import Score
from harness.display import terminal
from harness.metrics import Metric
from harness.plugins.registry import load_task
from harness.records.folder import outcomes_path, read, read_outcomes, write
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown
from harness.report.number_format import number
from harness.stats.paired import difference

pytestmark = pytest.mark.usefixtures("self_tests_once")

TASKS: dict[str, list[Any]] = {
    "lambada": [],
    "cbt-cn": [],
    "text8": [],
    "cnn-dm": ["--limit", 6, "--set", "max_new=8", "--set", "seeds=2"],
}
Key = tuple[str, str]
"""Benchmark and score."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with three tiny models, `0`, `1` and `2`, and a cache of its own."""
    folder = tmp_path_factory.mktemp("compare")
    for seed in range(3):
        save_tiny(folder / str(seed), context=128, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        yield folder


def run(place: Path, seed: int, task: str, name: str, *words: object) -> Path:
    """The record of a run on the built-in rows, below the folder `name`."""
    out = place / name
    before = set(out.rglob("*.json"))
    model = ["--model", place / str(seed), "--device", "cpu"]
    result = harness(task, *model, "--sample", "--out", out, *words)
    assert result.code == 0, result.err
    [path] = set(out.rglob("*.json")) - before
    return path


@pytest.fixture(scope="module")
def sides(place: Path) -> tuple[Path, Path]:
    """Two folders with a record of each benchmark."""
    for task, words in TASKS.items():
        for seed in (0, 1):
            run(place, seed, task, f"side{seed}", *words)
    return place / "side0", place / "side1"


@pytest.fixture(scope="module")
def third(place: Path) -> Path:
    """A third side, with all benchmarks but the last."""
    for task in list(TASKS)[:-1]:
        run(place, 2, task, "side2")
    return place / "side2"


def of(side: Path, task: str) -> Path:
    [path] = side.rglob(f"{task}-paper*.json")
    return path


def both(sides: tuple[Path, Path], task: str) -> tuple[Path, Path]:
    return of(sides[0], task), of(sides[1], task)


# --- the referee: files read and counted by themselves ------------------------------------


class Parsed(NamedTuple):
    """A record and its outcomes as JSON."""

    record: dict[str, Any]
    items: dict[str, Any]

    def values(self) -> dict[str, float]:
        return {score["metric"]: score["value"] for score in self.record["scores"]}

    def columns(self) -> set[str]:
        """Scores that fill a column of the paper's tables."""
        return {score["metric"] for score in self.record["scores"] if score["column"]}

    def outcomes(self, metric: str) -> dict[str, list[list[float]]]:
        """Example -> its outcomes."""
        found: dict[str, list[list[float]]] = {}
        outcomes = self.items["metrics"][metric]
        for place, values in zip(outcomes["examples"], outcomes["values"], strict=True):
            found.setdefault(self.items["ids"][place], []).append(values)
        return found


def parsed(path: Path) -> Parsed:
    beside = outcomes_path(path)
    return Parsed(json.loads(path.read_text("utf-8")), json.loads(gzip.open(beside).read()))


def flips(a: Path, b: Path, metric: str) -> tuple[list[str], list[str]]:
    """Examples that only the first run got right, and those that only the second did."""
    one, two = (parsed(path).outcomes(metric) for path in (a, b))
    right = {item: (one[item][0][-2], two[item][0][-2]) for item in one if item in two}
    lost = [item for item, pair in right.items() if pair == (1.0, 0.0)]
    return lost, [item for item, pair in right.items() if pair == (0.0, 1.0)]


def expected(a: Path, b: Path, metric: str) -> dict[str, Any]:
    """The paired statistics of outcomes that were read here."""
    record = parsed(a).record
    options = {name: str(value) for name, value in record["options"].items()}
    [measure] = [m for m in load_task(record["task"]).measures(options) if m.name == metric]
    assert isinstance(measure.metric, Metric)
    one, two = (parsed(path).outcomes(metric) for path in (a, b))
    common = [item for item in one if item in two]
    tables = [np.array([row for item in common for row in run[item]]) for run in (one, two)]
    found = difference(measure.metric, *tables, blocks=measure.blocks)
    return {name: getattr(found, name) for name in found.__slots__}


def holm(ps: Mapping[Key, float]) -> dict[Key, float]:
    """Adjusted p: the largest over all p up to this one of p times how many are not below it."""
    return {
        key: max(
            min(1.0, q * sum(other >= q for other in ps.values())) for q in ps.values() if q <= p
        )
        for key, p in ps.items()
    }


def compared(*words: object) -> dict[str, Any]:
    """The object that `harness compare --json` prints; its scores by benchmark and name."""
    result = harness("compare", "--json", *words)
    assert result.code == 0, result.err
    assert result.out.count("\n") == 1
    value: dict[str, Any] = json.loads(result.out)
    assert set(value) == {"scores", "notes", "not_compared", "warnings"}
    return value


def lines(*words: object) -> dict[Key, Any]:
    scores = compared(*words)["scores"]
    found = {(line["task"], line["metric"]): line for line in scores}
    assert len(found) == len(scores)
    return found


# --- two sides ----------------------------------------------------------------------------


def test_main_scores_are_those_of_the_papers_columns(sides: tuple[Path, Path]) -> None:
    wanted = {(task, m) for task in TASKS for m in parsed(of(sides[0], task)).columns()}
    assert {task for task, _ in wanted} == set(TASKS)
    assert set(lines(*sides)) == wanted


def test_all_adds_the_other_scores(sides: tuple[Path, Path]) -> None:
    runs = {task: parsed(of(sides[0], task)) for task in TASKS}
    ours = {
        (task, score["metric"])
        for task, run in runs.items()
        for score in run.record["scores"]
        if not score["baseline"]
    }
    found = lines(*sides, "--all")
    assert set(found) == ours
    for (task, metric), line in found.items():
        assert line["main"] == (metric in runs[task].columns())
        assert (line["adjusted"] is None) == (not line["main"])


def test_values_are_those_of_the_records(sides: tuple[Path, Path]) -> None:
    for (task, metric), line in lines(*sides, "--all").items():
        one, two = (parsed(path) for path in both(sides, task))
        before, after = one.values()[metric], two.values()[metric]
        found = [line["difference"][name] for name in ("a", "b", "value")]
        assert found == pytest.approx([before, after, after - before], rel=1e-9, abs=1e-12)
        assert line["examples"] == sum(len(rows) for rows in one.outcomes(metric).values())
        assert line["protocol"] == one.record["protocol"]


def test_statistics_are_those_of_the_outcomes(sides: tuple[Path, Path]) -> None:
    for (task, metric), line in lines(*sides, "--all").items():
        assert line["difference"] == expected(*both(sides, task), metric)


def test_lost_and_won_are_counted_and_named(sides: tuple[Path, Path]) -> None:
    counted = 0
    for (task, metric), line in lines(*sides, "--all").items():
        found = line["difference"]
        if found["lost"] is None:
            assert line["flips"] == []
            continue
        lost, won = flips(*both(sides, task), metric)
        assert (found["lost"], found["won"]) == (len(lost), len(won))
        assert [(f["id"], f["won"]) for f in line["flips"]] == [
            *((item, False) for item in lost),
            *((item, True) for item in won),
        ]
        counted += len(lost) + len(won)
    assert counted, "the two models differ somewhere"


def test_p_is_adjusted_over_the_main_scores(sides: tuple[Path, Path]) -> None:
    for words in ([], ["--all"]):
        main = {key: line for key, line in lines(*sides, *words).items() if line["main"]}
        adjusted = holm({key: line["difference"]["p"] for key, line in main.items()})
        assert len(main) >= 6
        assert {key: line["adjusted"] for key, line in main.items()} == pytest.approx(adjusted)


def test_the_table_has_a_row_a_score(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.OUT, "width", 120)
    result = harness("compare", *sides)
    assert result.code == 0
    rows = [line for line in result.out.split("\n") if line.strip()]
    while not rows.pop(0).startswith("benchmark "):
        pass  # upper lines of the headings
    for (task, metric), line in lines(*sides).items():
        [row] = [row for row in rows if row.split()[:2] == [task, metric]]
        if line["unit"] == "%":
            found = line["difference"]
            assert row.split()[2:4] == [f"{found['a']:.2f}", f"{found['b']:.2f}"]
            assert row.split()[-2:] == [str(line["examples"]), f"{found['lost']}/{found['won']}"]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("flags", [[], ["--all"], ["--flips", 2]], ids=str)
def test_what_is_printed_fits_the_terminal(
    sides: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    flags: list[Any],
) -> None:
    monkeypatch.setattr(terminal.OUT, "width", width)
    monkeypatch.setattr(terminal.OUT, "soft_wrap", False)
    result = harness("compare", *sides, *flags)
    assert result.code == 0
    assert max(map(cell_len, result.out.split("\n"))) <= width
    for line in lines(*sides).values():
        assert number(line["difference"]["b"], line["unit"]) in result.out, "no number is cut"


def test_a_record_alone_is_compared_as_in_its_folder(sides: tuple[Path, Path]) -> None:
    whole = lines(*sides)
    for task in TASKS:
        for key, line in lines(*both(sides, task)).items():
            assert line["difference"] == whole[key]["difference"]


def test_sides_change_places(sides: tuple[Path, Path]) -> None:
    forth, back = lines(*sides), lines(*sides[::-1])
    assert set(forth) == set(back)
    for key, line in forth.items():
        one, two = line["difference"], back[key]["difference"]
        assert (one["a"], one["b"]) == (two["b"], two["a"])
        assert one["value"] == -two["value"]
        assert (one["lost"], one["won"]) == (two["won"], two["lost"])


def test_a_run_against_itself_differs_in_nothing(sides: tuple[Path, Path]) -> None:
    for line in lines(sides[0], sides[0], "--all").values():
        found = line["difference"]
        assert found["value"] == 0
        if found["low"] is not None:
            assert found["low"] == found["high"] == 0
        assert (found["lost"], found["won"]) in ((0, 0), (None, None))
        if line["main"]:
            assert found["p"] == line["adjusted"] == 1


# --- texts of flipped examples ------------------------------------------------------------


def test_flips_show_the_texts(sides: tuple[Path, Path]) -> None:
    one, two = both(sides, "cbt-cn")
    result = harness("compare", one, two, "--flips", 2)
    assert result.code == 0
    a, b = parsed(one).items, parsed(two).items
    for title, items in zip(("lost", "won"), flips(one, two, "acc"), strict=True):
        assert (f"cbt-cn acc: {len(items)} {title}\n" in result.out) == bool(items)
        for item in items[:2]:
            place = a["ids"].index(item)
            (asked, wanted, got), (_, _, other) = a["shown"][place], b["shown"][place]
            assert f"  item {item}: {asked!r}\n" in result.out
            assert f"    expected {wanted!r}  A {got!r}  B {other!r}\n" in result.out
        assert all(f"  item {item}:" not in result.out for item in items[2:])


def test_without_flips_no_text_is_shown(sides: tuple[Path, Path]) -> None:
    assert "    expected '" not in harness("compare", *sides).out


def questions(folder: Path, right: Sequence[int], shown: Sequence[Shown]) -> Path:
    """A record of CBT made by hand."""
    values = tuple((float(r), 1.0) for r in right)
    numbers = tuple(range(len(right)))
    items = Outcomes(
        tuple(map(str, numbers)), tuple(shown), {"acc": MetricOutcomes(numbers, values)}
    )
    share = 100 * sum(right) / len(right)
    score = Score("acc", share, "%", True, None, None, None, {}, "CBT-CN ACC")
    options = dict(load_task("cbt-cn").protocol().options)
    return write(
        made_record(task="cbt-cn", options=options, outcomes=items, scores=(score,)), folder
    )


def test_texts_are_shown_as_they_are(tmp_path: Path) -> None:
    texts = Shown("rate it [bold]1[/bold] :star: or :100: [/]", ":key:", "[red]")
    other = Shown(texts.prompt, texts.reference, "it's 犬\x1b[31m\n")
    a = questions(tmp_path / "a", [1, 1], [texts, texts])
    b = questions(tmp_path / "b", [0, 1], [other, texts])
    result = harness("compare", a, b, "--flips", 1)
    assert f"  item 0: {texts.prompt!r}\n" in result.out
    assert (
        f"    expected {texts.reference!r}  A {texts.response!r}  B {other.response!r}\n"
        in result.out
    )


def test_flips_are_as_many_as_asked_for(tmp_path: Path) -> None:
    shown = [Shown(f"question {i}", "x", "y") for i in range(12)]
    a = questions(tmp_path / "a", [1] * 7 + [0] * 5, shown)
    b = questions(tmp_path / "b", [0] * 7 + [1] * 5, shown)
    out = harness("compare", a, b, "--flips", 3).out
    assert "cbt-cn acc: 7 lost\n" in out
    assert "cbt-cn acc: 5 won\n" in out
    assert re.findall(r"item (\d+):", out) == ["0", "1", "2", "7", "8", "9"]


# --- three sides --------------------------------------------------------------------------


def matrix(out: str, title: str) -> list[list[str]]:
    """The cells between the first column and the last; the diagonal is empty."""
    _, _, rest = out.partition(f"\n{title}")
    rows = [line.split()[1:-1] for line in rest.split("\n")[2:5]]
    return [[*row[:i], "", *row[i:]] for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def three(sides: tuple[Path, Path], third: Path) -> tuple[Path, Path, Path]:
    return (*sides, third)


def test_three_sides_are_a_matrix_of_each_against_each(three: tuple[Path, Path, Path]) -> None:
    result = harness("compare", *three)
    assert result.code == 0
    assert [f"{k}: {side}" in result.out for k, side in enumerate(three, 1)] == [True] * 3
    accuracies = [parsed(of(side, "cbt-cn")).values()["acc"] for side in three]
    cells = matrix(result.out, "cbt-cn acc (%), column minus row")
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            if i == j:
                assert cell == ""
            else:
                gap = accuracies[j] - accuracies[i]
                assert float(cell.strip("*")) == pytest.approx(gap, abs=0.005)


def test_all_adds_the_other_scores_to_a_matrix(three: tuple[Path, Path, Path]) -> None:
    titles = [
        {
            line
            for line in harness("compare", *three, *words).out.split("\n")
            if ", column minus" in line
        }
        for words in ((), ("--all",))
    ]
    assert titles[0] < titles[1]
    assert any("ppl-per-token" in title for title in titles[1] - titles[0])


def test_a_matrix_is_antisymmetric(three: tuple[Path, Path, Path]) -> None:
    out = harness("compare", *three).out
    swap = str.maketrans("+-", "-+")
    for title in ("lambada ppl", "lambada acc-word-stopfilter", "cbt-cn acc", "text8 bpc"):
        cells = matrix(out, title)
        assert sum(cell != "" for row in cells for cell in row) == 6
        for i in range(3):
            for j in range(i):
                mirrored = re.sub(r"^[+-]", lambda sign: sign[0].translate(swap), cells[i][j])
                assert cells[j][i] == mirrored


def pairs(three: Sequence[Path]) -> dict[tuple[str, str, str], tuple[Path, Path]]:
    """(benchmark, score, which pair) -> the records, of all that two sides have."""
    found = {}
    for k, (one, two) in enumerate(((0, 1), (0, 2), (1, 2))):
        for task in TASKS:
            if task in ("cnn-dm",) and k:
                continue
            a, b = of(three[one], task), of(three[two], task)
            for metric in parsed(a).columns():
                found[task, metric, str(k)] = (a, b)
    return found


def test_p_of_a_matrix_is_adjusted_over_all_pairs_and_scores(
    three: tuple[Path, Path, Path],
) -> None:
    ps = {key: expected(*two, key[1])["p"] for key, two in pairs(three).items()}
    numbered = {(f"{task} {metric}", k): p for (task, metric, k), p in ps.items()}
    stars = {key for key, p in holm(numbered).items() if p < 0.05}
    assert stars, "the bits of text8 differ surely"
    assert len(stars) < len(ps)
    out = harness("compare", *three).out
    for title, k in numbered:
        i, j = ((0, 1), (0, 2), (1, 2))[int(k)]
        assert matrix(out, title)[i][j].endswith("*") == ((title, k) in stars)


def test_a_side_without_a_benchmark_is_named(three: tuple[Path, Path, Path]) -> None:
    out = harness("compare", *three).out
    missing = f"{three[0]} and {three[2]}: cnn-dm"
    assert any(line.startswith(f"not compared: {missing}") for line in out.split("\n"))


def test_json_of_three_sides_says_which_pair_a_score_is_of(
    three: tuple[Path, Path, Path],
) -> None:
    scores = compared(*three)["scores"]
    bits = [json.dumps(line) for line in scores if line["metric"] == "bpc"]
    assert len(bits) == 3
    for side in three:
        assert sum(str(side) in line for line in bits) == 2, "each side is in two pairs"


# --- pairs that measure different things --------------------------------------------------


def changed(path: Path, folder: Path, **changes: Any) -> Path:
    """A record with its outcomes, some fields changed."""
    record = read(path)
    fields = {"outcomes": read_outcomes(path, record), **changes}
    return write(replace(record, **fields), folder)


OTHER = "e" * 64


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 3}, "version: 2 / 3"),
        ({"data": {"name": "other.jsonl", "sha256": OTHER}}, "/ other.jsonl@eeeeeeee"),
        ({"prompt": {"name": "lambada.txt", "sha256": OTHER}}, "/ eeeeeeee"),
        ({"prompt": None}, "/ none"),
        ({"pool": {"name": "pairs", "sha256": OTHER}}, "example pairs: none / pairs@eeeeeeee"),
    ],
)
def test_another_measurement_is_refused_with_its_field(
    sides: tuple[Path, Path], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    one, two = both(sides, "lambada")
    other = changed(two, tmp_path, **change)
    line = refused("compare", one, other)
    assert "nothing can be compared: lambada: they measure different things; " in line
    assert words in line
    found = lines(one, other, "--anyway")
    assert found["lambada", "ppl"]["difference"] == expected(one, two, "ppl")


def test_another_protocol_is_refused_with_its_options(
    place: Path, sides: tuple[Path, Path]
) -> None:
    one = of(sides[0], "lambada")
    other = run(place, 1, "lambada", "protocols", "--protocol", "lm-eval")
    line = refused("compare", one, other)
    assert "they measure different things; options: " in line
    assert "acc=word-stopfilter" in line
    assert "/ acc=word-greedy, " in line
    assert "stoplist" not in line, "only options that differ"
    found = compared(one, other, "--anyway")
    [perplexity] = [x for x in found["scores"] if x["metric"] == "ppl"]
    assert perplexity["difference"] == expected(one, other, "ppl")
    assert "options: " in found["notes"][0]


def test_other_benchmarks_have_no_partner(sides: tuple[Path, Path]) -> None:
    line = refused("compare", of(sides[0], "lambada"), of(sides[1], "cbt-cn"), "--anyway")
    assert "lambada" in line
    assert "the second side has no such run" in line
    assert "the first side has no such run" in line


def test_one_bad_pair_does_not_hide_the_others(sides: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    changed(of(sides[1], "lambada"), other, version=3)
    changed(of(sides[1], "text8"), other)
    found = compared(sides[0], other)
    assert [(x["task"], x["metric"]) for x in found["scores"]] == [("text8", "bpc")]
    assert len(found["not_compared"]) == 3
    assert any("lambada: they measure different things; version: 2 / 3" in x for x in
               found["not_compared"])  # fmt: skip
    shown = harness("compare", sides[0], other)
    assert shown.code == 0
    assert shown.out.count("\nnot compared: ") == 3


def test_other_circumstances_are_marked_and_compared(place: Path, sides: tuple[Path, Path]) -> None:
    one = of(sides[0], "lambada")
    for words, mark in (
        (["--dtype", "float16"], "dtype: float32 / float16"),
        (["--context", 64], "context: 128 / 64"),
        (["--limit", 5, "--seed", 3], "rows: 12 / 5~seed3"),
    ):
        other = run(place, 0, "lambada", "circumstances", *words)
        found = compared(one, other)
        assert found["notes"] == [f"lambada: the signatures differ in {mark}"]
        assert found["not_compared"] == []
        assert f"note: {found['notes'][0]}\n" in harness("compare", one, other).out


def test_another_tokenizer_is_marked(sides: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = both(sides, "text8")
    model = {**read(two).model, "tokenizer": OTHER}
    found = compared(one, changed(two, tmp_path, model=model))
    assert len(found["notes"]) == 1
    assert re.search(r"differ in tokenizer: \w{8} / eeeeeeee$", found["notes"][0])


# --- other examples -----------------------------------------------------------------------


def naive(parsed: Parsed, metric: str, ids: Sequence[str]) -> float:
    """LAMBADA's scores on some examples, added up by Python."""
    rows = [row for item in ids for row in parsed.outcomes(metric)[item]]
    share = math.fsum(row[0] for row in rows) / math.fsum(row[1] for row in rows)
    return math.exp(share) if metric.startswith("ppl") else 100 * share


def assert_compared_on(ids: Sequence[str], one: Path, two: Path) -> None:
    """Both runs' values are those of the examples that both have."""
    for (_, metric), line in lines(one, two, "--all").items():
        assert line["examples"] == len(ids)
        for side, path in (("a", one), ("b", two)):
            value = naive(parsed(path), metric, ids)
            assert line["difference"][side] == pytest.approx(value, rel=1e-9)


def test_limited_runs_are_compared_on_the_common_items(
    place: Path, sides: tuple[Path, Path]
) -> None:
    whole = of(sides[0], "lambada")
    five = run(place, 1, "lambada", "limited", "--limit", 5, "--seed", 1)
    eight = run(place, 1, "lambada", "limited", "--limit", 8, "--seed", 2)
    ids = {path: parsed(path).items["ids"] for path in (five, eight)}
    assert [len(found) for found in ids.values()] == [5, 8]
    assert_compared_on(ids[five], whole, five)
    common = [item for item in ids[five] if item in ids[eight]]
    assert 1 < len(common) < 5
    assert_compared_on(common, five, eight)


def without(items: Outcomes, missing: set[str]) -> Outcomes:
    """Examples of LAMBADA, one outcome each, some left out."""
    kept = [i for i, name in enumerate(items.ids) if name not in missing]
    outcomes = {
        name: MetricOutcomes(tuple(range(len(kept))), tuple(found.values[i] for i in kept))
        for name, found in items.metrics.items()
    }
    names, shown = (tuple(texts[i] for i in kept) for texts in (items.ids, items.shown))
    return Outcomes(names, shown, outcomes)  # type: ignore[arg-type]


def test_items_missing_on_one_side_are_left_out(sides: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = both(sides, "lambada")
    items = read_outcomes(two, read(two))
    fewer = changed(two, tmp_path, outcomes=without(items, {"3", "7"}))
    kept = [item for item in items.ids if item not in ("3", "7")]
    assert_compared_on(kept, one, fewer)
    assert_compared_on(kept, fewer, one)


def test_items_in_another_order_are_paired_all_the_same(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    one, two = both(sides, "lambada")
    items = read_outcomes(two, read(two))
    order = list(range(len(items.ids)))
    random.Random(0).shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    shuffled = Outcomes(
        tuple(items.ids[i] for i in order),
        tuple(items.shown[i] for i in order),
        {
            n: MetricOutcomes(tuple(place[i] for i in o.examples), o.values)
            for n, o in items.metrics.items()
        },
    )
    other = changed(two, tmp_path, outcomes=shuffled)
    assert parsed(other).items["ids"] != parsed(two).items["ids"]
    before, after = lines(one, two, "--all"), lines(one, other, "--all")
    assert {k: x["difference"] for k, x in after.items()} == {
        k: x["difference"] for k, x in before.items()
    }


def test_no_common_item_is_refused(sides: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = both(sides, "lambada")
    items = read_outcomes(two, read(two))
    other = replace(items, ids=tuple(f"x{name}" for name in items.ids))
    line = refused("compare", one, changed(two, tmp_path, outcomes=other))
    assert "have no example of lambada in common" in line


def test_a_score_of_some_items_alone_does_not_stop_the_others(place: Path) -> None:
    """CoQA has one score per domain; two stories have at most two domains."""
    words = ["--limit", 2, "--set", "max_new=4"]
    one, two = (run(place, seed, "coqa", f"coqa{seed}", *words) for seed in (0, 1))
    scored = set(parsed(one).values())
    assert 3 <= len(scored) <= 4
    assert set(lines(one, two)) == {("coqa", "f1")}
    assert set(lines(one, two, "--all")) == {("coqa", metric) for metric in scored}


# --- folders ------------------------------------------------------------------------------


def test_two_protocols_in_a_folder_are_paired_by_name(
    place: Path, sides: tuple[Path, Path]
) -> None:
    folders = [place / f"two-protocols{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        changed(of(sides[seed], "lambada"), folder)
        run(place, seed, "lambada", folder.name, "--protocol", "lm-eval")
    scores = compared(*folders)["scores"]
    found = {(line["protocol"], line["metric"]) for line in scores}
    assert found == {
        ("paper", "ppl"), ("paper", "acc-word-stopfilter"), ("lm-eval", "ppl"),
        ("lm-eval", "acc-word-greedy"),
    }  # fmt: skip
    assert len(scores) == 4


def test_the_newest_run_of_a_folder_counts(sides: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = both(sides, "lambada")
    for path, year in ((one, 2020), (two, 2030)):
        changed(path, tmp_path / "both", created=f"{year}-01-01T00:00:00+00:00")
    found = lines(one, tmp_path / "both")
    assert found["lambada", "ppl"]["difference"] == expected(one, two, "ppl")


def test_a_side_of_two_checkpoints_is_refused_and_both_are_named(
    sides: tuple[Path, Path], tmp_path: Path
) -> None:
    """The newest run of each benchmark, whatever its model, would be a model that nobody has."""
    mixed = tmp_path / "mixed"
    for side, task in zip(sides, ("lambada", "cbt-cn"), strict=True):
        changed(of(side, task), mixed)
    baseline = ("baseline", mixed, "--out", tmp_path / "main.toml")
    for words in (("compare", mixed, sides[0]), ("power", mixed), baseline):
        line = refused(*words)
        assert "the newest runs are of 2 checkpoints" in line
        assert "lambada" in line
        assert "cbt-cn" in line
    assert not (tmp_path / "main.toml").exists()


# --- what cannot be compared --------------------------------------------------------------


def test_one_side_alone_is_refused(sides: tuple[Path, Path]) -> None:
    assert "compare takes two or more records or folders" in refused("compare", sides[0])
    assert "Missing argument" in refused("compare")


def test_paths_without_records_are_refused(sides: tuple[Path, Path], tmp_path: Path) -> None:
    assert "no record in" in refused("compare", sides[0], tmp_path / "gone")
    assert "no record in" in refused("compare", sides[0], tmp_path)
    (tmp_path / "notes.json").write_text("[]")
    line = refused("compare", sides[0], tmp_path)
    assert "notes.json: expected a file of kind 'record' and schema 2" in line


def test_items_are_no_record(sides: tuple[Path, Path]) -> None:
    path = of(sides[0], "lambada")
    line = refused("compare", path, outcomes_path(path))
    assert f"{outcomes_path(path).name}' is not a JSON file" in line


def test_bars_commas_and_equals_signs_in_names_and_options_are_no_fields() -> None:
    one = made_record(options={"a": "b=c,d", "same": "x,y=z"})
    data = {**one.data, "name": "a|n:5|x.txt"}
    assert one.signature.diff(replace(one, data=data).signature) == {
        "data": (
            f"{one.data['name']}@{one.data['sha256'][:8]}",
            f"{data['name']}@{one.data['sha256'][:8]}",
        )
    }
    two = replace(one, options={"a": "b=e", "same": "x,y=z"})
    assert one.signature.diff(two.signature) == {"options": ("a=b=c,d", "a=b=e")}
