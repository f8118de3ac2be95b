"""`harness explain`: one example from prompt to score; and the steps of an extraction."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console import harness, record_files, refused
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from harness.core import Example, Response
from harness.display.explanation import step_value
from harness.display.preview import preview
from harness.display.terminal import OUT
from harness.plugins.registry import load_task
from harness.records.folder import outcomes_path
from harness.records.trace import RequestTrace, TokenTrace

pytestmark = pytest.mark.usefixtures("self_tests_once")


@pytest.fixture
def run(tiny_folder: Path, tmp_path: Path) -> Any:
    """(record file, options that find its answers) of a run on samples."""

    def run(name: str, *words: object) -> tuple[Path, tuple[object, ...]]:
        cache = ("--cache", tmp_path / "cache")
        out = tmp_path / "runs"
        result = harness(
            name, "--model", tiny_folder, "--sample", "--out", out, *cache, *words
        )  # fmt: skip
        assert result.code == 0, result.err
        return record_files(out)[-1], cache

    return run


def first_item(path: Path) -> str:
    """An id that the refusal of another one names."""
    return re.findall(r"near ones are: ([^,]+)", refused("explain", path, "no such"))[0]


# --- the command ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("lambada", ("--limit", 2), ["next word (127 stop words", "  acc-word-stopfilter: "]),
        ("wikitext2", ("--limit", 9), ["  rolling: ", " windows, ", "template: none"]),
        ("cbt-cn", ("--limit", 1), ["the same context", "most probable of 10: "]),
        ("coqa", ("--limit", 1, "--set", "max_new=4"), ["    output: '", "  f1: "]),
        ("nq", ("--limit", 1), ["    output: '", "  em: "]),
        ("cnn-dm", ("--limit", 1, "--set", "max_new=8"), ["  generate: ", "output: '"]),
        ("wmt14-fr-en", ("--limit", 1, "--set", "max_new=4"), ["  bleu: "]),
        ("winograd", ("--limit", 1), ["most probable of "]),
        ("enwik8", ("--limit", 1), ["bits per byte"]),
    ],
)
def test_an_item_is_explained_as_it_was_scored(
    run: Any, name: str, words: tuple[object, ...], expected: list[str]
) -> None:
    path, cache = run(name, *words)
    record = json.loads(path.read_text())
    item = first_item(path)
    result = harness("explain", path, item, *cache)
    assert result.code == 0, result.err
    lines = result.out.split("\n")
    assert lines[0].startswith(f"{name} item {item} of ")
    assert lines[1] == f"  signature: {record['signature']}"
    for part in [*expected, "      rank   ", "    outcome: "]:
        assert part in result.out, part
    assert "recorded as" not in result.out, "the outcomes are those of the record"
    ranks = re.findall(r"^      rank +(.*)$", result.out, re.MULTILINE)
    assert not [row for row in ranks if "-" in row], "every rank is known"


def test_an_outcome_that_is_not_the_recorded_one_is_said(run: Any) -> None:
    from harness.records.folder import read, read_outcomes, write

    path, cache = run("nq", "--limit", 1)
    record, items = read(path), read_outcomes(path, read(path))
    wrong = items.metrics["em"]._replace(values=((0.5, 1.0),))
    changed = replace(items, metrics={**items.metrics, "em": wrong})
    path = write(replace(record, outcomes=changed), path.parent.parent)
    result = harness("explain", path, items.ids[0], *cache, "--no-ranks")
    assert "; recorded as 0.5, 1\n" in result.out
    assert result.out.count("recorded as") == 1


def test_a_record_without_items_is_explained_with_a_note(run: Any) -> None:
    path, cache = run("lambada", "--limit", 1)
    item = first_item(path)
    outcomes_path(path).unlink()
    result = harness("explain", path, item, *cache, "--no-ranks")
    assert result.code == 0
    assert "has no outcomes file next to it" in result.err


def test_json_has_what_the_page_says(run: Any) -> None:
    path, cache = run("lambada", "--limit", 2)
    result = harness("explain", path, first_item(path), *cache, "--json")
    value = json.loads(result.out)
    assert list(value) == ["id", "references", "outcomes", "requests", "measures"]
    tokens = [t for t in value["requests"][0]["tokens"] if t["scored"]]
    assert sum(t["logprob"] for t in tokens) == pytest.approx(value["requests"][0]["logprob"])
    assert all(t["rank"] >= 1 for t in tokens)
    names = [measure["outcome"]["measure"] for measure in value["measures"]]
    assert names == [m.name for m in load_task("lambada").measures(options("lambada"))]


def test_weights_are_not_needed_without_ranks(run: Any, tmp_path: Path, tiny_folder: Path) -> None:
    import shutil

    path, cache = run("lambada", "--limit", 1)
    item = first_item(path)
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "blind"))
    (folder / "model.safetensors").unlink()
    words = ("explain", path, item, *cache, "--model", folder)
    assert harness(*words, "--no-ranks").code == 0
    line = refused(*words)
    assert "has no weights" in line
    assert line.endswith("--no-ranks shows the item without the weights")


def test_what_cannot_be_explained_is_one_line(run: Any, tmp_path: Path) -> None:
    path, _ = run("lambada", "--limit", 2)
    assert "has no item '99999' among its 2; near ones are: " in refused("explain", path, "99999")
    assert "is a folder; give the file of one record" in refused("explain", path.parent, "1")
    assert "cannot read" in refused("explain", tmp_path / "none.json", "1")
    other = tmp_path / "other.json"
    other.write_text("{}")
    assert "expected a file of kind 'record'" in refused("explain", other, "1")


# --- steps ------------------------------------------------------------------------------------


def options(name: str, **overrides: str) -> Any:
    return load_task(name).protocol("paper", overrides).options


def with_steps(monkeypatch: pytest.MonkeyPatch, steps: Any) -> None:
    """LAMBADA, of whose measures only the first two explain themselves."""
    task = load_task("lambada")

    def measures(options: Any) -> Any:
        first, second, *rest = task.measures(options)
        plain = (replace(measure, steps=None) for measure in rest)
        return (replace(first, steps=steps), replace(second, steps=steps), *plain)

    told = replace(task, measures=measures)
    monkeypatch.setattr("harness.commands.inspect.rerun.load_task", lambda name: told)


def test_steps_stand_between_the_output_and_the_outcome(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps(example: Example, responses: Sequence[Response]) -> Any:
        yield "word", example.references[0]
        yield "nats", 1.23456789
        yield "cut", "a" * 1000

    path, cache = run("lambada", "--limit", 1)
    item = first_item(path)
    with_steps(monkeypatch, steps)
    lines = harness("explain", path, item, *cache, "--no-ranks").out.split("\n")
    [word] = [k for k, line in enumerate(lines) if line.startswith("    word: ")]
    assert lines[word + 1] == "    nats: 1.23457"
    assert lines[word + 2] == f"    cut: '{'a' * 49} [...] {'a' * 49}'"
    assert lines[word + 3].startswith("    outcome: "), "equal steps are not repeated below"
    value = json.loads(harness("explain", path, item, *cache, "--no-ranks", "--json").out)
    first, second, *rest = value["measures"]
    assert first["steps"] == second["steps"]
    assert first["steps"][1:] == [["nats", 1.23456789], ["cut", "a" * 1000]]
    assert not any(measure["steps"] for measure in rest)


def test_values_of_steps_become_json(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = run("lambada", "--limit", 1)
    item = first_item(path)
    with_steps(monkeypatch, lambda example, responses: [("a", {1: (2, None)}), ("b", {1})])
    value = json.loads(harness("explain", path, item, *cache, "--no-ranks", "--json").out)
    assert value["measures"][0]["steps"] == [["a", {"1": [2, None]}], ["b", "{1}"]]


def test_long_values_are_shortened() -> None:
    assert step_value(0.1 + 0.2) == "0.3"
    assert step_value([1, "b"]) == "[1, 'b']"
    assert len(step_value(list(range(1000)))) == 100 + len(" [...] ")


# --- tokens with their numbers ----------------------------------------------------------------

TOKENS = st.builds(
    TokenTrace,
    st.text(max_size=8),
    st.just(True),
    st.floats(-99, 0),
    st.none() | st.integers(1, 99999),
    st.just(0),
)


@given(tokens=st.lists(TOKENS, min_size=1, max_size=60))
def test_numbers_stand_below_their_tokens(tokens: list[TokenTrace]) -> None:
    request = RequestTrace("loglikelihood", tuple(tokens))
    lines = [line.plain for line in preview([request])]
    assert all(cell_len(line) <= OUT.width for line in lines)
    lines = lines[[line[:11] for line in lines].index("      token") :]
    assert len(lines) % 3 == 0
    seen = 0
    for names, nats, ranks in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        assert len({cell_len(line) for line in (names, nats, ranks)}) == 1
        found = nats.split()[1:]
        expected = tokens[seen : seen + len(found)]
        assert found == [f"{t.logprob:.2f}" for t in expected]
        assert ranks.split()[1:] == ["-" if t.rank is None else str(t.rank) for t in expected]
        seen += len(found)
    assert seen == len(tokens)


def test_text_from_data_is_never_markup() -> None:
    tokens = (TokenTrace("[red]", False), TokenTrace("[/bold]\x1b[31m\n", True, -1.0, 2))
    plain = "\n".join(line.plain for line in preview([RequestTrace("generate", tokens, "[b]x")]))
    assert "[red]" in plain
    assert "[/bold]\\x1b[31m\\n" in plain
    assert "output: '[b]x'" in plain
