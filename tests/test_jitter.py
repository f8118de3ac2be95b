"""`harness jitter`: how far scores move on their own, against the same runs one by one."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny
from console import harness, made_record, refused

from harness.analysis import noise_floor
from harness.analysis.noise_floor import Noise, measure_noise
from harness.commands.compare import jitter as command
from harness.commands.compare.jitter import variants
from harness.core import Score
from harness.engine.checkpoint.onednn import multiplies_bfloat16
from harness.engine.checkpoint.settings import BFLOAT16_PRODUCTS
from harness.errors import RecordError
from harness.plugins.registry import load_task
from harness.records.folder import write
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown
from harness.records.record import Record

BFLOAT16 = BFLOAT16_PRODUCTS if multiplies_bfloat16() else "bfloat16"  # in records
BUDGETS = (512, 2048, 8192)
PROTOCOL = "lm-eval"  # the one without a search for words: fewer passes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model; threads are as before when it is gone."""
    folder = tmp_path_factory.mktemp("jitter")
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        yield save_tiny(folder / "tiny", context=128)
    torch.set_num_threads(threads)


def words(model: Path) -> list[Any]:
    few = ["--sample", "--limit", 3, "--protocol", PROTOCOL]
    return ["--model", model, "--device", "cpu", "--threads", 2, *few]


@pytest.fixture(scope="module")
def file(model: Path) -> Path:
    """What the command wrote, with a file of what it printed."""
    path = model.parent / "figures" / "jitter.json"
    result = harness("jitter", "lambada", *words(model), "--file", path)
    assert result.code == 0, result.err
    path.with_suffix(".out").write_text(result.out)
    return path


def lines(file: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(benchmark, score) -> its line."""
    value = json.loads(file.read_text("utf-8"))
    assert set(value) == {"kind", "schema", "scores"}
    found = {(line["task"], line["metric"]): line for line in value["scores"]}
    assert len(found) == len(value["scores"])
    return found


@pytest.fixture(scope="module")
def runs(model: Path) -> dict[tuple[Any, ...], dict[str, float]]:
    """The scores of the same variants, each run alone: (format, budget, threads) -> score."""
    wanted = [("float32", budget, 2) for budget in BUDGETS]
    wanted += [("float32", 2048, 1), ("bfloat16", 2048, 2)]
    found = {}
    for variant in wanted:
        named = zip(("--dtype", "--batch-tokens", "--threads"), variant, strict=True)
        options = [word for pair in named for word in pair]
        base = ["lambada", *words(model), "--no-cache", "--out", model.parent / "records"]
        result = harness(*base, *options, "--json")
        assert result.code == 0, result.err
        [record] = json.loads(result.out)["records"]
        found[variant] = {score["metric"]: score["value"] for score in record["scores"]}
    return found


# --- what is measured ---------------------------------------------------------------------


def test_every_score_has_a_line_that_says_what_was_run(model: Path, file: Path) -> None:
    found = lines(file)
    assert set(found) == {
        ("lambada", name)
        for name in ("ppl", "ppl-last-token", "ppl-per-token", "acc-word-greedy", "acc-last-token")
    }
    for line in found.values():
        assert line["protocol"] == PROTOCOL
        assert line["model"] == str(model)
        assert len(line["digest"]) == 64
        assert (line["examples"], line["device"]) == (3, "cpu")
        assert sorted(line["variants"][1:]) == sorted([
            "float32, 512 tokens a batch, 2 threads",
            "float32, 8192 tokens a batch, 2 threads",
            "float32, 2048 tokens a batch, 1 thread",
            "bfloat16, 2048 tokens a batch, 2 threads",
        ])  # fmt: skip


def test_figures_are_those_of_the_runs_one_by_one(
    file: Path, runs: dict[tuple[Any, ...], dict[str, float]]
) -> None:
    first = runs["float32", 2048, 2]
    for (_, metric), line in lines(file).items():
        assert line["value"] == pytest.approx(first[metric], rel=1e-6)
        own = [scores[metric] for variant, scores in runs.items() if variant[0] == "float32"]
        noise = 1e-6 * abs(first[metric])
        assert line["largest"] == pytest.approx(max(own) - min(own), abs=noise)
        other = abs(runs["bfloat16", 2048, 2][metric] - first[metric])
        assert line["formats"] == {BFLOAT16: pytest.approx(other, rel=1e-6, abs=noise)}


def test_float32_hardly_moves_and_bfloat16_does(file: Path) -> None:
    for (_, metric), line in lines(file).items():
        assert 0 <= line["largest"] <= 5e-5 * abs(line["value"])
        if metric.startswith("ppl"):
            assert line["formats"][BFLOAT16] > 1e-4 * line["value"]
            assert line["formats"][BFLOAT16] > 10 * line["largest"]


def test_the_table_has_a_row_a_score(file: Path) -> None:
    out = file.with_suffix(".out").read_text()
    assert out.startswith(f"lambada ({PROTOCOL}) in 5 variants\n")
    for (_, metric), line in lines(file).items():
        [row] = [x.split() for x in out.split("\n") if x.split()[:1] == [metric]]
        assert row[-2:] == [f"{line['largest']:.2g}", f"{line['formats'][BFLOAT16]:.2g}"]


@pytest.mark.parametrize(("threads", "fewer"), [(1, []), (2, [1]), (3, [1]), (8, [1, 4])])
def test_variants_change_one_thing_at_a_time(threads: int, fewer: list[int]) -> None:
    first, *others = variants(threads)
    assert (first.dtype, first.budget) == ("float32", 2048)
    found = [(variant.dtype, variant.budget, variant.threads) for variant in others]
    assert sorted(found) == sorted([
        ("float32", 512, threads), ("float32", 8192, threads), ("bfloat16", 2048, threads),
        *(("float32", 2048, count) for count in fewer),
    ])  # fmt: skip


def scored(**values: float) -> Record:
    scores = tuple(
        Score(name, value, "%", True, None, None, None, {}) for name, value in values.items()
    )
    return replace(made_record(), scores=scores)


def test_movements_by_hand() -> None:
    found = measure_noise([
        ("float32", scored(acc=40.0, ppl=10.0)), ("float32", scored(acc=39.5, ppl=10.0)),
        ("float32", scored(acc=41.0, ppl=10.0)), ("bfloat16", scored(acc=43.0, ppl=9.0)),
        ("bfloat16", scored(acc=99.0, ppl=99.0)), ("float16", scored(acc=40.0, ppl=10.25)),
    ])  # fmt: skip
    assert found == [
        Noise("lambada", "paper", "acc", "%", 40.0, 1.5, {"bfloat16": 3.0, "float16": 0.0}),
        Noise("lambada", "paper", "ppl", "%", 10.0, 0.0, {"bfloat16": 1.0, "float16": 0.25}),
    ]


# --- the file -----------------------------------------------------------------------------


def moved(metric: str = "acc", largest: float = 1.5, **changes: Any) -> Noise:
    fields = {"task": "lambada", "protocol": "paper", "unit": "%", "value": 40.0, **changes}
    return Noise(metric=metric, largest=largest, formats={}, **fields)


def test_a_file_is_updated_and_nothing_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "new" / "jitter.json"
    noise_floor.write(path, [moved(), moved("ppl", 0.5)], {"model": "one"})
    noise_floor.write(path, [moved(largest=2.5), moved(task="nq", largest=3.5)], {"model": "two"})
    found = {key: (line["largest"], line["model"]) for key, line in lines(path).items()}
    assert found == {
        ("lambada", "ppl"): (0.5, "one"),
        ("lambada", "acc"): (2.5, "two"),
        ("nq", "acc"): (3.5, "two"),
    }
    assert noise_floor.read(path) == {key: largest for key, (largest, _) in found.items()}


def test_the_larger_of_two_protocols_counts(tmp_path: Path) -> None:
    path = tmp_path / "jitter.json"
    noise_floor.write(path, [moved(largest=2.5, protocol="lm-eval"), moved()], {})
    assert len(json.loads(path.read_text("utf-8"))["scores"]) == 2
    assert noise_floor.read(path) == {("lambada", "acc"): 2.5}


def test_the_command_updates_its_file(
    model: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jitter.json"
    path.write_bytes(file.read_bytes())
    about = {**made_record().model, "threads": 1}
    record = replace(scored(acc=40.0), task="text8", model=about)
    monkeypatch.setattr(command, "compute", lambda *_: record)
    options = ["--model", model, "--sample", "--file", path]
    result = harness("jitter", "text8", *options)
    assert result.code == 0, result.err
    assert f"wrote {path}\n" in result.err
    after = lines(path)
    assert {key: after[key] for key in lines(file)} == lines(file)
    assert set(after) == {*lines(file), ("text8", "acc")}
    assert harness("jitter", "text8", *options).code == 0
    assert lines(path) == after


def refusal(path: Path, expected: Mapping[tuple[str, str], float]) -> str:
    """The message of a `RecordError`; empty if there is none, and then all is as expected."""
    try:
        found = noise_floor.read(path)
    except RecordError as error:
        return str(error)
    assert found == expected
    return ""


def test_a_file_cut_at_any_byte_is_refused_or_whole(tmp_path: Path) -> None:
    path = tmp_path / "jitter.json"
    noise_floor.write(path, [moved(), moved("ppl", 0.5)], {"model": "naïve"})
    expected, size = noise_floor.read(path), path.stat().st_size
    for length in reversed(range(size)):
        os.truncate(path, length)
        message = refusal(path, expected)
        assert "\n" not in message
        assert message or length == size - 1, "all but the last line break"


LINE = '{"task": "lambada", "protocol": "paper", "metric": "acc", "largest": 1.5}'


NOT_JSON = "jitter.json' is not a JSON file: "
NOT_VALID = "jitter.json' is not a valid jitter file "
OTHER_KIND = "jitter.json': expected a file of kind 'jitter' and schema 2 or 1, got "


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("1.5", "NaN", f"{NOT_JSON}NaN is not a finite number"),
        ("1.5", "Infinity", f"{NOT_JSON}Infinity is not a finite number"),
        ("1.5", "1e999", f"{NOT_JSON}1e999 is not a finite number"),
        ("1.5", '"x"', f"{NOT_VALID}(ValueError: could not convert string to float: 'x')"),
        ("1.5", "null", f"{NOT_VALID}(TypeError: float() argument must be "),
        ("1.5", "-1", f"{NOT_VALID}(ValueError: a negative distance of -1)"),
        ('"acc"', "[1]", f"{NOT_VALID}(ValueError: a name is not text)"),
    ],
)
def test_figures_that_are_none_are_refused(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    path = tmp_path / "jitter.json"
    path.write_text(f'{{"schema": 1, "movements": [{LINE.replace(old, new)}]}}')
    message = refusal(path, {})
    assert expected in message
    assert "\n" not in message


DAMAGED = [
    ("", f"{NOT_JSON}Expecting value"),
    ("{", f"{NOT_JSON}Expecting property name"),
    ("[]", f"{OTHER_KIND}something else"),
    ("{}", f"{OTHER_KIND}something else"),
    ("3", f"{OTHER_KIND}something else"),
    ('{"schema": 2, "movements": []}', f"{OTHER_KIND}kind None and schema 2"),
    ('{"schema": 1}', f"{OTHER_KIND}kind 'record' and schema 1"),
    ('{"schema": 1, "movements": 3}', f"{NOT_VALID}(TypeError: 'int' object is not iterable)"),
    ('{"schema": 1, "movements": ["x"]}', f"{NOT_VALID}(TypeError: "),
    ('{"schema": 1, "movements": [{"task": "lambada"}]}', f"{NOT_VALID}(KeyError: 'protocol')"),
    ('{"kind": "record", "schema": 2}', f"{OTHER_KIND}kind 'record' and schema 2"),
    ('{"kind": "jitter", "schema": 2}', f"{NOT_VALID}(KeyError: 'scores')"),
    ('{"kind": "jitter", "schema": 3, "scores": []}', f"{OTHER_KIND}kind 'jitter' and schema 3"),
]


@pytest.mark.parametrize(("content", "expected"), DAMAGED)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "jitter.json"
    path.write_text(content)
    message = refusal(path, {})
    assert expected in message
    assert message.endswith("; write one with harness jitter") or NOT_JSON in expected
    assert "\n" not in message


@pytest.fixture
def computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a file that is wrong is found before anything is computed")

    monkeypatch.setattr(command, "compute", refuse)


@pytest.mark.usefixtures("computes_nothing")
def test_a_damaged_file_is_refused_before_anything_runs(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "jitter.json"
    path.write_text('{"schema": 1, "mov')
    line = refused("jitter", "lambada", *words(model), "--file", path)
    assert "jitter.json' is not a JSON file" in line
    assert path.read_text() == '{"schema": 1, "mov'


@pytest.mark.usefixtures("computes_nothing")
@pytest.mark.parametrize("place", ["file/jitter.json", "folder"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(
    model: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    line = refused("jitter", "lambada", *words(model), "--file", tmp_path / place)
    assert str(tmp_path / place.partition("/")[0]) in line
    assert "--out" not in line, "the option is --file"


@pytest.mark.usefixtures("computes_nothing")
def test_the_command_takes_one_model_and_known_names(model: Path, tmp_path: Path) -> None:
    where = ["--file", tmp_path / "jitter.json"]
    line = refused("jitter", "lambada", *words(model), "--model", model.parent / "other", *where)
    assert "jitter takes one --model; 2 were given" in line
    assert "did you mean lambada" in refused("jitter", "lamda", *words(model), *where)
    for vary in (["--grid"], ["--vary", "bos=none,eot"]):
        line = refused("jitter", "lambada", *words(model), *vary, *where)
        assert f"No such option {vary[0]!r}" in line
    assert "Missing argument" in refused("jitter", "--model", model)
    assert not (tmp_path / "jitter.json").exists()


# --- the gate -----------------------------------------------------------------------------


def run(folder: Path, ppl: float, items: int = 20) -> Path:
    """A run of LAMBADA made by hand."""
    nats = math.log(ppl)
    numbers = tuple(range(items))
    outcomes = {
        "ppl": MetricOutcomes(numbers, ((nats, 1.0),) * items),
        "acc-word-stopfilter": MetricOutcomes(numbers, ((1.0, 1.0),) * items),
    }
    scores = (
        Score("ppl", ppl, "per word", False, None, None, None, {}, "LAMBADA PPL"),
        Score("acc-word-stopfilter", 100.0, "%", True, None, None, None, {}, "LAMBADA ACC"),
    )
    kept = Outcomes(tuple(map(str, numbers)), (Shown("", "", ""),) * items, outcomes)
    options = dict(load_task("lambada").protocol().options)
    write(made_record(options=options, scores=scores, outcomes=kept), folder)
    return folder


def test_check_tolerates_what_was_measured(file: Path, tmp_path: Path) -> None:
    """The figure in the file decides: a rule without tolerance allows just so much."""
    held = run(tmp_path / "held", 20.0)
    path = tmp_path / "main.toml"
    assert harness("baseline", held, "--out", path, "--rule", "absolute:0").code == 0
    noise = tmp_path / "jitter.json"
    value = json.loads(file.read_text("utf-8"))
    [line] = [x for x in value["scores"] if (x["task"], x["metric"]) == ("lambada", "ppl")]
    line["largest"] = 0.5
    noise.write_text(json.dumps(value))
    for ppl, code in ((20.4, 0), (20.6, 1)):
        worse = run(tmp_path / str(ppl), ppl)
        assert harness("check", worse, "--baseline", path).code == 1
        assert harness("check", worse, "--baseline", path, "--jitter", noise).code == code
