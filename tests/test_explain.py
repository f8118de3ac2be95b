"""`harness explain`: one item from prompt to score; and the steps of an extraction."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console import harness, record_files, refused
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from speaker import said

from harness.commands.inspect.steps import described, shown, steps
from harness.core import Example, Response, Scored, Word
from harness.display.preview import preview
from harness.display.terminal import OUT
from harness.metrics import ACCURACY
from harness.plugins.registry import load_task
from harness.records.folder import outcomes_path
from harness.records.trace import RequestTrace, TokenTrace
from harness.task import Measure, Task


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
        ("cbt-cn", ("--limit", 1), ["the same context", "most probable of 10, undivided: "]),
        ("coqa", ("--limit", 1, "--set", "max_new=4"), ["normalise(", "leave_one_out(f1, "]),
        ("nq", ("--limit", 1), ["    output: '", "answer('", "exact('"]),
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
    changed = replace(items, outcomes={**items.outcomes, "em": wrong})
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
    assert "has no items beside it" in result.err


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
    assert "is no record" in refused("explain", other, "1")


# --- steps ------------------------------------------------------------------------------------


def options(name: str, **overrides: str) -> Any:
    return load_task(name).protocol("paper", overrides).options


def of(name: str, measure: str, example: Example, *responses: Response, **overrides: str) -> Any:
    task = load_task(name)
    found = {m.name: m for m in task.measures(options(name, **overrides))}
    return steps(task, found[measure], example, responses)


def test_steps_of_a_generated_answer() -> None:
    example = Example("0", {"word": "who", "guesses": None}, ("the cat", "Dog"))
    outcomes, found = of("nq", "em", example, said(" The cat.\n"))
    assert [*outcomes] == [(1.0, 1.0)]
    assert [(s.depth, f"{s.function}({', '.join(s.given)}) -> {s.gave}") for s in found] == [
        (0, "right([' The cat.\\n']) -> 1"),
        (1, "answer(' The cat.\\n') -> 'The cat'"),
        (1, "best(exact, 'The cat', ['the cat', 'Dog']) -> 1"),
        (2, "exact('The cat', 'the cat') -> 1"),
        (3, "normalise('The cat') -> 'cat'"),
        (3, "normalise('the cat') -> 'cat'"),
        (2, "exact('The cat', 'Dog') -> 0"),
        (3, "normalise('The cat') -> 'cat'"),
        (3, "normalise('Dog') -> 'dog'"),
    ]


def test_steps_of_a_word() -> None:
    example = Example("0", {}, ("Nadia",))
    responses = (Scored((-1.0,), (False,)), Word('"Nadia,', ()))
    outcomes, found = of("lambada", "acc-word-stopfilter", example, *responses)
    assert [*outcomes] == [(1.0, 1.0)]
    assert [(s.function, s.given, s.gave) for s in found] == [
        ("bare", ("'\"Nadia,'",), "'Nadia'"),
        ("bare", ("'Nadia'",), "'Nadia'"),
    ]


def own_rule(text: str) -> str:
    return text.upper()


def _broken(example: Example, responses: Sequence[Response]) -> list[tuple[float, ...]]:
    raise ValueError(own_rule("no"))


def task_with(extract: Any) -> tuple[Task, Measure]:
    measure = Measure("m", ACCURACY, extract, ("m", "n"), "what it is")
    task = replace(load_task("lambada"), measures=lambda options: (measure,))
    return task, measure


def test_functions_of_a_plugin_are_steps_and_libraries_are_not() -> None:
    def extract(example: Example, responses: Sequence[Response]) -> list[tuple[float, ...]]:
        return [(float(json.loads("1") + len(own_rule("ab"))), 1.0)]

    outcomes, found = steps(*task_with(extract), Example("0", {}), ())
    assert [*outcomes] == [(3.0, 1.0)]
    assert [(s.function, s.given, s.gave) for s in found] == [("own_rule", ("'ab'",), "'AB'")]


def test_the_interpreters_hook_is_put_back() -> None:
    def mine(*event: object) -> None:
        pass

    sys.setprofile(mine)
    try:
        with pytest.raises(ValueError, match="NO"):
            steps(*task_with(_broken), Example("0", {}), ())
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)


def test_extractors_speak_for_themselves() -> None:
    measures = {m.name: m for m in load_task("lambada").measures(options("lambada"))}
    about = described(load_task("lambada"), measures["ppl"])
    assert "by target_nats: (surprisal of the whole continuation" in about
    assert "by same_word: (1 if " in described(
        load_task("lambada"), measures["acc-word-stopfilter"]
    )
    [em, *_] = load_task("nq").measures(options("nq"))
    assert described(load_task("nq"), em) == em.help


def test_long_values_are_cut() -> None:
    assert shown("a" * 1000) == repr("a" * 50 + " [...] " + "a" * 50)
    assert shown([1.0] * 9) == "[1, 1, 1, 1, 1, 1, ... 3 more]"
    assert shown({"a": 1}) is None
    assert shown([{}]) is None


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
