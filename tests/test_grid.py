"""`--grid` and `--vary`: many protocols in one run, compared with each protocol alone."""

import json
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import save_tiny
from console import harness, record_files, refused

from harness.commands.evaluate.grid import protocols
from harness.commands.options import ProtocolOptions
from harness.errors import UsageError
from harness.plugins.registry import load_task, task_names
from harness.records.folder import read

LAMBADA = load_task("lambada")

pytestmark = pytest.mark.usefixtures("self_tests_once")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny model, and caches of its own for what the fixtures run."""
    folder = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(folder / "cache"))
        yield save_tiny(folder / "tiny", context=128)


def words(model: Path, out: Path) -> list[Any]:
    return ["--model", model, "--device", "cpu", "--sample", "--out", out]


def records(*command: Any) -> list[dict[str, Any]]:
    """The records that a command prints as JSON."""
    result = harness(*command, "--json")
    assert result.code == 0, result.err
    found: list[dict[str, Any]] = json.loads(result.out)["records"]
    return found


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """LAMBADA under each protocol alone, without a cache."""
    out = tmp_path_factory.mktemp("alone")
    found = {}
    for preset in LAMBADA.protocols:
        command = ["lambada", *words(model, out), "--no-cache", "--protocol", preset]
        [found[preset]] = records(*command)
    return found


@pytest.fixture(scope="module")
def grid(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """LAMBADA under all protocols at once, without a cache."""
    out = tmp_path_factory.mktemp("grid-records")
    return records("lambada", *words(model, out), "--no-cache", "--grid")


def scores(record: dict[str, Any]) -> dict[str, float]:
    return {score["metric"]: score["value"] for score in record["scores"]}


def total(records: list[dict[str, Any]], kind: str) -> int:
    return sum(record["tokens"][kind] for record in records)


# --- the protocols ------------------------------------------------------------------------


def test_a_grid_has_a_record_a_preset(grid: list[dict[str, Any]]) -> None:
    assert [record["protocol"] for record in grid] == list(LAMBADA.protocols)
    assert len(grid) == 5
    assert len({record["signature"] for record in grid}) == 5


def test_each_record_is_that_of_a_run_by_itself(
    grid: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    for record in grid:
        other = alone[record["protocol"]]
        assert scores(record) == pytest.approx(scores(other), rel=1e-6)
        for name in ("signature", "options", "examples", "requests"):
            assert record[name] == other[name]
        assert record["tokens"]["asked"] == other["tokens"]["asked"]


def test_equal_token_sequences_are_computed_once(
    grid: list[dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    """Without a store on disk: what the protocols share is kept in memory."""
    separate = list(alone.values())
    assert total(grid, "computed") < total(separate, "computed")
    assert total(separate, "cached") == 0
    assert total(grid, "cached") > 0
    assert total(grid[:1], "cached") == 0, "nothing comes before the first"


def test_no_cache_leaves_nothing_on_disk(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
    command = ["lambada", *words(model, tmp_path / "records"), "--limit", 2, "--grid"]
    assert total(records(*command, "--no-cache"), "cached") > 0
    assert not list(cache.rglob("*.sqlite"))
    assert total(records(*command), "computed") > 0
    assert list(cache.rglob("*.sqlite")), "with a store there is one"


@pytest.fixture(scope="module")
def shown(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """What the command prints without --json: both streams, and where the records are."""
    out = tmp_path_factory.mktemp("shown")
    result = harness("lambada", *words(model, out), "--no-cache", "--grid")
    assert result.code == 0, result.err
    return result.out, result.err, out


def rows(out: str) -> dict[str, list[str]]:
    """Protocol -> the cells of its row."""
    lines = out.split("\n")
    first = next(i for i, line in enumerate(lines) if line.startswith("protocol "))
    last = next(i for i, line in enumerate(lines) if line.startswith("tokens: "))
    found = [line.split() for line in lines[first + 1 : last] if not line.startswith(" ")]
    return {cells[0]: cells[1:] for cells in found}


def test_the_table_has_a_row_a_preset(
    shown: tuple[str, str, Path], grid: list[dict[str, Any]]
) -> None:
    out, _, _ = shown
    assert out.startswith("lambada under 5 protocols\n")
    table = rows(out)
    assert list(table) == list(LAMBADA.protocols)
    for record in grid:
        accuracy = next(s for s in record["scores"] if s["column"] == "LAMBADA ACC")
        points = f"{accuracy['value'] - 45.99:+.2f}"  # the paper's 117M
        assert f"{accuracy['value']:.2f} {points} pt" in " ".join(table[record["protocol"]])


def test_the_table_says_what_differs_from_the_defaults(shown: tuple[str, str, Path]) -> None:
    flat = " ".join(shown[0].split())
    defaults = {option.name: option.default for option in LAMBADA.options}
    for preset in LAMBADA.protocols.values():
        differs = {name: value for name, value in preset.items() if value != defaults[name]}
        assert all(f"{name}={value}" in flat for name, value in differs.items())
    assert rows(shown[0])["paper"][-1] == "-"
    assert rows(shown[0])["original"][-1] == "data=original"


def test_the_table_sums_up_the_tokens(
    shown: tuple[str, str, Path], grid: list[dict[str, Any]]
) -> None:
    asked, known, computed = (f"{total(grid, x):,}" for x in ("asked", "cached", "computed"))
    line = (
        f"tokens: {asked} asked, {known} of them cached by an earlier protocol or run, "
        f"{computed} computed\n"
    )
    assert line in shown[0]


def test_every_record_is_written(shown: tuple[str, str, Path]) -> None:
    _, err, out = shown
    paths = record_files(out)
    assert {read(path).protocol for path in paths} == set(LAMBADA.protocols)
    assert f"wrote {len(paths)} records to {out}\n" in err


# --- varied options -----------------------------------------------------------------------


def test_varied_options_are_combined(model: Path, tmp_path: Path) -> None:
    vary = ["--vary", "stride=64,96,64", "--vary", "unit=words,words+eos"]
    command = ["wikitext2", *words(model, tmp_path / "grid"), "--no-cache", *vary]
    found = records(*command)
    chosen = [(record["options"]["stride"], record["options"]["unit"]) for record in found]
    assert sorted(chosen) == sorted(product((64, 96), ("words", "words+eos")))
    assert sum(r["tokens"]["computed"] > 0 for r in found) == 2, "units prepare for no new token"
    for record in found:
        options = [f"{name}={record['options'][name]}" for name in ("stride", "unit")]
        sets = [word for option in options for word in ("--set", option)]
        command = ["wikitext2", *words(model, tmp_path / "alone"), "--no-cache", *sets]
        [other] = records(*command)
        assert scores(record) == pytest.approx(scores(other), rel=1e-6)
        assert record["signature"] == other["signature"]


def labels(task: str, **options: Any) -> list[str]:
    return [p.label for p in protocols(load_task(task), ProtocolOptions(**options))]


def test_equal_protocols_are_run_once_under_their_first_name() -> None:
    assert labels("wikitext2", grid=True) == ["paper", "strided", "lm-eval", "hf"]
    assert labels("wikitext2", vary=("stride=context,32,context",)) == ["paper", "paper+stride=32"]
    found = labels("wikitext2", grid=True, vary=("stride=32,context",))
    assert found == [
        "paper+stride=32", "paper", "lm-eval+stride=32", "lm-eval", "hf+stride=32", "hf",
    ]  # fmt: skip


def test_set_goes_into_every_protocol() -> None:
    found = labels("wikitext2", vary=("unit=words,tokens",), set=("stride=8",))
    assert found == ["paper+stride=8+unit=words", "paper+stride=8+unit=tokens"]
    assert labels("wikitext2", vary=("unit=words",), name="hf") == ["hf+unit=words"]


@pytest.mark.parametrize("name", task_names())
def test_the_grid_of_every_task_is_its_distinct_presets(name: str) -> None:
    task = load_task(name)
    found = protocols(task, ProtocolOptions(grid=True))
    resolved = [dict(task.protocol(preset).options) for preset in task.protocols]
    assert [dict(p.options) for p in found] == [
        options for i, options in enumerate(resolved) if options not in resolved[:i]
    ]


# --- without data -------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with OpenAI's file alone."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "lambada_test.jsonl").write_text('{"text": "the sand and the sea"}\n' * 3)
    return folder


def test_a_protocol_without_data_is_named_with_its_reason(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    command = ["--model", model, "--device", "cpu", "--out", tmp_path / "records"]
    result = harness("lambada", *command, "--data-dir", folder, "--grid")
    assert result.code == 0, result.err
    assert rows(result.out)["original"] == ["-", "-", "data=original"]
    [line] = [line for line in result.out.split("\n") if line.startswith("not run: ")]
    assert line.startswith("not run: original: ")
    assert "looked for lambada_test_plain_text.txt" in line
    found = {read(path).protocol for path in record_files(tmp_path / "records")}
    assert found == set(LAMBADA.protocols) - {"original"}


def test_strict_refuses_a_protocol_without_data(model: Path, folder: Path, tmp_path: Path) -> None:
    command = ["--model", model, "--data-dir", folder, "--out", tmp_path / "records"]
    assert "lambada_test" in refused("lambada", *command, "--grid", "--strict")
    assert not record_files(tmp_path / "records")


def test_no_data_at_all_is_refused(model: Path, tmp_path: Path) -> None:
    command = ["--model", model, "--data-dir", tmp_path, "--out", tmp_path / "records"]
    assert "looked for lambada_test.jsonl" in refused("lambada", *command, "--grid")


# --- what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vary", "expected"),
    [
        (["--vary", "strid=32,64"], "wikitext2 has no option 'strid'; did you mean stride"),
        (["--vary", "stride=32,x"], "stride='x' is not allowed; choose from: context, a positive"),
        (["--vary", "unit=words,verses"], "unit='verses' is not allowed; choose from: words+eos"),
        (["--vary", "stride"], "--vary 'stride': expected key=value,value,..."),
        (["--vary", "stride="], "--vary 'stride=': expected key=value,value,..."),
        (["--vary", "stride=,"], "--vary 'stride=,': expected key=value,value,..."),
        (["--vary", "stride=32", "--set", "stride=64"], "'stride' is both in --set and in --vary"),
        (["--grid", "--set", "strid=32"], "wikitext2 has no option 'strid'"),
        (
            ["--vary", "stride=32", "--protocol", "papr"],
            "no protocol 'papr'; did you mean paper?",
        ),
        (["--grid", "--limit", "0"], "'--limit': 0 is not in the range x>=1"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_varied_options_say_what_is_allowed(
    model: Path, tmp_path: Path, vary: list[str], expected: str
) -> None:
    assert expected in refused("wikitext2", *words(model, tmp_path / "records"), *vary)
    assert not record_files(tmp_path / "records")


def test_no_value_is_dropped_where_an_option_is_varied_twice() -> None:
    """Two lists of one option are refused or joined; the first is never lost without a word."""
    with suppress(UsageError):
        found = labels("wikitext2", vary=("stride=32", "stride=64"))
        assert found == ["paper+stride=32", "paper+stride=64"]


@pytest.mark.parametrize("command", ["table3", "section3"])
@pytest.mark.parametrize("vary", [["--grid"], ["--vary", "stride=32,64"]])
def test_tables_take_no_grid(model: Path, tmp_path: Path, command: str, vary: list[str]) -> None:
    line = refused(command, *words(model, tmp_path / "records"), *vary)
    assert f"No such option {vary[0]!r}" in line
