"""CoQA: requests, the answer that counts, and the official scores by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from speaker import asked, job_of, options_of, run, said, values

from harness.core import Encoding, Fields, Generate
from harness.data.load import Where, load
from harness.engine.queries.encode import Encoder
from harness.engine.queries.preflight import preflight
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import DataError
from harness.tasks import coqa


def story(
    text: str = "Ann has a cat.",
    source: str = "mctest",
    **turns: Sequence[str],
) -> dict[str, Any]:
    """A row; each turn is a question with its references."""
    questions = {name.replace("_", " ") + "?": tuple(given) for name, given in turns.items()}
    return {
        "source": source,
        "story": text,
        "questions": tuple(questions),
        "references": tuple(questions.values()),
    }


TWO = story(Who=["Ann", "ann"], What=["a cat", "Cat"])
FIRST, SECOND = "Q: Who?\nA:", "Q: Who?\nA: Ann\n"

# --- requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "changes", "parts", "new", "stop", "overflow"),
    [
        (
            "paper",
            {},
            [("Ann has a cat.\n", FIRST), ("Ann has a cat.\n", SECOND, "Q: What?\nA:")],
            32,
            "\n",
            "turns",
        ),
        (
            "lm-eval",
            {},
            [("Ann has a cat.\n\n", "Q: Who?\n\nA: Ann\n\n", "Q: What?\n\nA:")],
            256,
            "\nQ:",
            "left",
        ),
        ("model-history", {}, [("Ann has a cat.\n", FIRST)], 32, "\n", "turns"),
        (
            "brief",
            {},
            [("Ann has a cat.\n\n", FIRST), ("Ann has a cat.\n\n", SECOND, "Q: What?\nA:")],
            50,
            "\n",
            "turns",
        ),
        (
            "paper",
            {"between": "blank"},
            [
                ("Ann has a cat.\n", "Q: Who?\n\nA:"),
                ("Ann has a cat.\n", "Q: Who?\n\nA: Ann\n\n", "Q: What?\n\nA:"),
            ],
            32,
            "\n",
            "turns",
        ),
        (
            "paper",
            {"history": "none", "max_new": "7", "overflow": "left"},
            [("Ann has a cat.\n", FIRST), ("Ann has a cat.\n", "Q: What?\nA:")],
            7,
            "\n",
            "left",
        ),
        (
            "paper",
            {"turns": "last", "stop": "question"},
            [("Ann has a cat.\n", SECOND, "Q: What?\nA:")],
            32,
            "\nQ:",
            "turns",
        ),
    ],
)
def test_requests(
    preset: str,
    changes: dict[str, str],
    parts: list[tuple[str, ...]],
    new: int,
    stop: str,
    overflow: Any,
) -> None:
    wanted = [
        Generate(p, new, stop=(stop,), top_k=1, seed=(0, 0), overflow=overflow) for p in parts
    ]
    assert asked(job_of("coqa", [TWO], preset, **changes)) == wanted


@pytest.mark.parametrize("change", ["cut=sentence", "several=best", "duplicates=drop", "bos=none"])
def test_what_is_made_of_an_answer_changes_no_prompt(change: str) -> None:
    name, value = change.split("=")
    assert asked(job_of("coqa", [TWO], **{name: value})) == asked(job_of("coqa", [TWO]))


def test_the_last_turn_of_a_conversation_with_itself_needs_all_before() -> None:
    job = job_of("coqa", [TWO], "model-history", turns="last")
    assert [request.prompt for request in asked(job)] == [f"Ann has a cat.\n{FIRST}"]


TEXT = st.text(alphabet="ab Q:A{}\u2028\x85\r", min_size=1, max_size=8)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_prompts_under_lm_eval_are_lm_evals(turns: list[tuple[str, str]]) -> None:
    """The loop of its doc_to_text: question and answer in turn, a blank line after each."""
    fields = {
        "source": "cnn",
        "story": "S",
        "questions": tuple(question for question, _ in turns),
        "references": tuple((answer,) for _, answer in turns),
    }
    text = "S\n\n"
    for number, (question, answer) in enumerate(turns, 1):
        text += f"Q: {question}\n\n"
        text += f"A: {answer}\n\n" if number < len(turns) else "A:"
    [request] = asked(job_of("coqa", [fields], "lm-eval"))
    assert request.prompt == text


def test_a_question_that_looks_like_a_turn_stays_as_it_is() -> None:
    fields = {**TWO, "questions": ("Who\nA: x?", "What?")}
    first = asked(job_of("coqa", [fields], between="blank"))[0]
    assert first.prompt == "Ann has a cat.\nQ: Who\nA: x?\n\nA:"


# --- the window -----------------------------------------------------------------------------

LONG = {
    **TWO,
    "story": "abc " * 9,
    "questions": tuple(f"q{n}?" for n in range(12)),
    "references": tuple((f"answer {n}",) for n in range(12)),
}


def fitting(prompt: str, story_: str, turns: Sequence[str], size: Any, room: int) -> str:
    """Drop the oldest turns one by one, then characters of the story's beginning."""
    kept = [*turns]
    while size("".join([story_, *kept])) > room and len(kept) > 1:
        kept.pop(0)
    text = "".join([story_, *kept])
    while size(text) > room:
        text = text[1:]
    return prompt if size(prompt) <= room else text


@pytest.mark.parametrize("context", [80, 120, 200, 4096])
def test_the_oldest_turns_give_way_and_are_counted(context: int) -> None:
    tokenizer = Tokenizer(byte_tokenizer(), name="bytes")
    requests = asked(job_of("coqa", [LONG]))
    encoded = Encoder(tokenizer, context).encode(requests, Encoding())

    def size(text: str) -> int:
        return len(tokenizer.encode([text])[0])

    cut = 0
    for request, found in zip(requests, encoded, strict=True):
        opening, *turns = request.parts
        wanted = fitting(request.prompt, opening, turns, size, context - 32 - 1)
        assert tokenizer.decode(found.spans[0].inputs[1:]) == wanted
        cut += wanted != request.prompt
    counts = preflight(requests, encoded).counts()
    assert counts["truncated"] == cut
    assert (cut == 0) == (context == 4096)


# --- files ----------------------------------------------------------------------------------


def turn(text: str, number: int) -> dict[str, Any]:
    return {"span_start": 0, "span_text": text, "input_text": text, "turn_id": number}


OFFICIAL = {
    "version": "1.0",
    "data": [
        {
            "source": "mctest",
            "id": "x1",
            "filename": "f",
            "story": "Ann has a cat.",
            "questions": [turn("Who?", 1), turn("What?", 2)],
            "answers": [turn("Ann", 1), turn("a cat", 2)],
            "additional_answers": {"0": [turn("ann", 1), turn("Cat", 2)]},
            "name": "f",
        }
    ],
}
COLUMNS = {
    "source": "mctest",
    "story": "Ann has a cat.",
    "questions": {"input_text": ["Who?", "What?"], "turn_id": [1, 2]},
    "answers": {"input_text": ["Ann", "a cat"], "turn_id": [1, 2]},
    "additional_answers": {"0": {"input_text": ["ann", "Cat"], "turn_id": [1, 2]}},
}
PLAIN = {
    "index": 0,
    "source": "mctest",
    "story": "Ann has a cat.",
    "questions": ["Who?", "What?"],
    "answers": ["Ann", "a cat"],
}


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (json.dumps(OFFICIAL), [TWO]),
        (json.dumps(OFFICIAL, indent=1), [TWO]),
        (json.dumps(COLUMNS) + "\n", [TWO]),
        (
            f"{json.dumps(PLAIN)}\n{json.dumps(COLUMNS)}\r\n",
            [{**TWO, "references": (("Ann",), ("a cat",))}, TWO],
        ),
        (
            json.dumps({**PLAIN, "additional_answers": None}),
            [{**TWO, "references": (("Ann",), ("a cat",))}],
        ),
    ],
    ids=["official", "indented", "lists in objects", "one a line", "no others"],
)
def test_layouts(content: str, rows: list[Fields]) -> None:
    assert coqa.parse(content.encode()) == rows


GOOD = json.dumps(PLAIN)


def with_(**changes: Any) -> str:
    return json.dumps({**PLAIN, **changes})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            GOOD + "\n{oops\n",
            "line 2: expected CoQA's JSON file, or a JSON object per line",
        ),
        (json.dumps(OFFICIAL)[:-9], "line 1: expected CoQA's JSON file, or a JSON object per line"),
        (GOOD + "\n{}\n", "story 2: expected an object with source, story, questions and answers"),
        ("[3]", "story 1: expected an object"),
        ('{"data": 3}', "expected"),
        ('{"data": null}', "expected"),
        (with_(story=" \n"), "story 1: expected an object with source, story"),
        (with_(story=3), "story 1: expected an object with source, story"),
        (with_(story="half \ud83d of it"), "line 1: expected"),
        (with_(questions="Who?", answers="Ann."), "story 1: expected an object with source, story"),
        (with_(questions=[], answers=[]), "story 1: expected an answer to every question, got 0"),
        (
            GOOD + "\n" + with_(answers=["Ann"]),
            "story 2: expected an answer to every question, got 2 questions and 1 answers",
        ),
        (
            with_(additional_answers={"0": ["ann", "Cat"], "1": ["ann"]}),
            "story 1: expected an answer to every question, got 2 questions and 2, 2, 1 answers",
        ),
        (with_(answers=["Ann", None]), "story 1: expected an object with source, story, questions"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(DataError) as caught:
        load(coqa.SOURCE, Where(file=tmp_path / "mine.json"))
    assert str(caught.value).startswith(f"mine.json is not CoQA development set: {words}")
    assert "\n" not in str(caught.value)


# --- answers and scores ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        (" Ann", "Ann", "Ann"),
        (" Ann did. She ran.\nQ: no", "Ann did. She ran.", "Ann did."),
        ("\n\n Ann\n", "Ann", "Ann"),
        (" \n", "", ""),
        ("", "", ""),
    ],
)
def test_what_counts_of_an_answer(text: str, line: str, sentence: str) -> None:
    assert coqa.answer(said(text), options_of("coqa")) == line
    assert coqa.answer(said(text), options_of("coqa", cut="sentence")) == sentence


FOUR = ["Ann", "Ann Lee", "a woman", "ann!"]


@pytest.mark.parametrize(
    ("changes", "f1", "em"),
    [
        # F1 with each: 2/3, 1, 0, 2/3; without "Ann Lee" the best of the others is 2/3
        ({}, (1 + 2 / 3 + 1 + 1) / 4, (1 + 0 + 1 + 1) / 4),
        ({"several": "best"}, 1, 1),
        # "ann!" and "Ann" differ in more than case
        ({"duplicates": "drop"}, (1 + 2 / 3 + 1 + 1) / 4, 3 / 4),
    ],
)
def test_scores_by_hand(changes: dict[str, str], f1: float, em: float) -> None:
    found = values(run(job_of("coqa", [story(Who=FOUR)], **changes), " The Ann Lee.\nQ: Who"))
    assert (found["f1"], found["em"]) == pytest.approx((100 * f1, 100 * em))


def test_references_that_differ_in_case_are_one() -> None:
    job = job_of("coqa", [story(Who=["Ann", "ann", "Lee"])], duplicates="drop")
    # Ann and Lee are left: 1 without Lee, 0 without Ann
    assert values(run(job, "Ann"))["em"] == 50
    assert values(run(job_of("coqa", [story(Who=["Ann", "ann", "Lee"])]), "Ann"))["em"] == 100


def test_turns_count_alike_whatever_their_story() -> None:
    rows = [
        story("One.", "cnn", a=["x"], b=["x"], c=["x"]),
        story("Two.", "race", a=["x y"]),
        story("Three.", "elsewhere", a=["x"]),
    ]
    record = run(job_of("coqa", rows), "x", "x", "no", "x", "no")
    found = values(record)
    assert found["f1"] == pytest.approx(100 * (2 + 2 / 3) / 5)
    assert found["em"] == 40
    assert found["f1 news"] == pytest.approx(100 * 2 / 3)
    assert found["f1 mid-high_school"] == pytest.approx(100 * 2 / 3)
    assert set(found) == {"f1", "em", "f1 news", "f1 mid-high_school"}, "domains that are there"
    assert {score.column for score in record.scores} == {"CoQA F1", None}


def test_only_the_last_turn_counts_where_only_it_is_asked() -> None:
    rows = [story(a=["x"], b=["y"]), story("Other.", a=["z"])]
    assert values(run(job_of("coqa", rows, turns="last"), "y", "no"))["em"] == 50


@pytest.mark.parametrize(
    ("references", "changes", "mean", "words"),
    [
        ([["a"], ["b"]], {}, 1, "one reference, compared with directly"),
        ([["a", "b"], ["c", "d", "e", "f"]], {}, 3, "leave-one-out"),
        ([["a"], ["b", "c"]], {}, 1.5, "leave-one-out"),
        ([["a", "b"], ["c", "d"]], {"several": "best"}, 2, "the best of them"),
        ([["a", "A"], ["c", "C"]], {"duplicates": "drop"}, 1, "one reference, compared with"),
    ],
)
def test_record_says_what_was_made_of_the_references(
    references: list[list[str]], changes: dict[str, str], mean: float, words: str
) -> None:
    rows = [story(Who=references[0], What=references[1])]
    notes = run(job_of("coqa", rows, **changes), "a", "b").notes
    assert (notes["turns"], notes["references a turn"]) == (2, mean)
    assert str(notes["several references"]).startswith(words)


# --- real files -----------------------------------------------------------------------------


def test_single_reference_copy(data_dir: Path) -> None:
    data = load(coqa.SOURCE, Where(folder=data_dir))
    sources = [row.fields["source"] for row in data.rows]
    assert {name: sources.count(name) for name in set(sources)} == dict.fromkeys(coqa.DOMAINS, 100)
    counts = [len(turn) for row in data.rows for turn in row.fields["references"]]
    assert (len(counts), set(counts)) == (7983, {1})
    assert not data.published


def test_official_layout_of_the_first_story(data_dir: Path) -> None:
    """It equals the copy with one reference in all that both have."""
    path = data_dir / "coqa" / "coqa-dev-v1.0.first-story.json"
    if not path.is_file():
        pytest.skip("HARNESS_DATA has no coqa/coqa-dev-v1.0.first-story.json")
    [official] = coqa.parse(path.read_bytes())
    copy = load(coqa.SOURCE, Where(folder=data_dir)).rows[0].fields
    assert [len(turn) for turn in official["references"]] == [4] * 12
    first = tuple(turn[:1] for turn in official["references"])
    assert {**official, "references": first} == copy
