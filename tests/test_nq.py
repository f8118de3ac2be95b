"""Natural Questions: requests, exact match, confidence and calibration by hand."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from speaker import (
    Speaker,
    asked,
    id_of,
    job_of,
    options_of,
    run,
    said,
    values,
    with_pairs,
)

from harness.core import (
    Example,
    Fields,
    Generate,
    Generated,
    Loglikelihood,
    Request,
    Response,
    Score,
    Scored,
)
from harness.data.load import Where, load, load_pool
from harness.errors import DataError
from harness.metrics.calibration import table
from harness.metrics.exact_match import exact_match
from harness.plugins.registry import load_task
from harness.records.record import Record
from harness.runner import Job, evaluate, prepare
from harness.stats import intervals
from harness.tasks import nq

ROW = {"question": "where is {1}", "answer": ["Rome"]}
PAIR = {"question": "who is it?", "answer": ["Ann Lee", "Ann"]}

# --- requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "prompt", "new"),
    [
        ({}, "Q: Who is it?\nA: Ann Lee\nQ: Where is {1}?\nA:", 16),
        ({"style": "plain"}, "Who is it? = Ann Lee\nWhere is {1}? =", 16),
        ({"case": "raw"}, "Q: who is it?\nA: Ann Lee\nQ: where is {1}\nA:", 16),
        ({"shots": "0", "max_new": "7"}, "Q: Where is {1}?\nA:", 7),
        ({"shots": "0", "style": "plain", "case": "raw"}, "where is {1} =", 16),
        (
            {"conf": "mean-logprob", "conf_newline": "on", "bos": "none"},
            "Q: Who is it?\nA: Ann Lee\nQ: Where is {1}?\nA:",
            16,
        ),
    ],
)
def test_requests(changes: dict[str, str], prompt: str, new: int) -> None:
    wanted = Generate((prompt,), new, stop=("\n",), top_k=1, seed=(0, 0), overflow="left")
    assert asked(with_pairs(job_of("nq", [ROW], **changes), [PAIR])) == [wanted]


GOLD = {"question": "where is {1}", "answer": ["Rome", " the city ", "Rome"]}


def test_references_are_asked_in_the_answers_place() -> None:
    """Each of them once."""
    prompt = "Q: Who is it?\nA: Ann Lee\nQ: Where is {1}?\nA:"
    job = with_pairs(job_of("nq", [GOLD], "gold"), [PAIR])
    answer, *references = prepare(job).requests
    assert [answer] == asked(with_pairs(job_of("nq", [GOLD]), [PAIR]))
    assert references == [Loglikelihood(prompt, " Rome"), Loglikelihood(prompt, " the city")]


@pytest.mark.parametrize(("rome", "city", "nats"), [(-3.0, -8.0, 3.0), (-9.0, -2.5, 2.5)])
def test_nats_are_those_of_the_most_probable_reference(
    rome: float, city: float, nats: float
) -> None:
    """Rome, then the city, of -1 in two tokens; exact match does not depend on them."""

    def say(request: Request) -> Response:
        if isinstance(request, Generate):
            return said(" Rome")
        assert isinstance(request, Loglikelihood)
        value = rome if request.continuation == " Rome" else city
        return Scored((value + 1, -1.0), (False, False))

    rows = [GOLD, {"question": "when", "answer": ["the city"]}]
    record = evaluate(with_pairs(job_of("nq", rows, "gold"), [PAIR]), Speaker(say))
    found = values(record)
    assert found["nats"] == pytest.approx((nats - city) / 2)
    assert found["em"] == 50
    assert "nats" not in values(run(with_pairs(job_of("nq", [GOLD]), [PAIR]), " Rome"))


# --- files ----------------------------------------------------------------------------------


def line(question: object = "who", answer: object = ("Ann",)) -> str:
    return json.dumps({"question": question, "answer": answer})


def test_layout() -> None:
    text = f"{line()}\r\n\n" + '{"question": "wh\u2028o\x85", "answer": ["A\\nb", "é"]}'
    assert nq.parse(text.encode()) == [
        {"question": "who", "answer": ["Ann"]},
        {"question": "wh\u2028o\x85", "answer": ["A\nb", "é"]},
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            line() + "\n{who\n",
            "line 2: expected a JSON object with the text key(s) question, got '{who'",
        ),
        (line(3), "line 1: expected a JSON object with the text key(s) question"),
        ('["who", "Ann"]', "line 1: expected a JSON object with the text key(s) question"),
        ('{"question": "who"}', "row 1: expected a list of answers to 'who', got None"),
        (f"{line()}\n{line(answer=[])}\n", "row 2: expected a list of answers to 'who', got []"),
        (line(answer="Ann"), "row 1: expected a list of answers to 'who', got Ann"),
        (line(answer=["Ann", " "]), "row 1: expected a list of answers to 'who', got ['Ann', ' ']"),
        (line(answer=[3]), "row 1: expected a list of answers to 'who', got [3]"),
        (line("half \ud83d"), "line 1: expected a JSON object with the text key(s) question"),
        (line(answer=["half \ud83d"]), "line 1: expected a JSON object with the text key"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "mine.jsonl").write_text(content)
    with pytest.raises(DataError) as caught:
        load(nq.DEV, Where(file=tmp_path / "mine.jsonl"))
    assert str(caught.value).startswith(f"mine.jsonl is not NQ-open, dev questions: {words}")
    assert "\n" not in str(caught.value)


# --- right and wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        (" Rome", ["Rome"], 1),
        (" the rome.\n", ["Milan", "Rome!"], 1),
        (" Rome. It is old", ["Rome"], 0),
        (" Rome Italy", ["Rome", "Italy"], 0),
        ("", ["the"], 0),  # an empty answer is wrong, whatever is left of the references
        (" . ", ["."], 0),
        (" U.S.", ["us"], 1),
    ],
)
def test_exact_match_by_hand(text: str, answers: list[str], right: int) -> None:
    rows = [{"question": "where", "answer": answers}]
    record = run(with_pairs(job_of("nq", rows), [PAIR]), text)
    assert values(record)["em"] == 100 * right
    assert {s.metric: s.column for s in record.scores if s.column} == {
        "em": "NQ EM", "em-top-1%": "NQ EM TOP 1%",
    }  # fmt: skip


# --- how sure -------------------------------------------------------------------------------

# "Rome" is the first two tokens, the third is the line end
ROME = Generated(" Rome", (5, 6, 7), (math.log(0.5), math.log(0.4), math.log(0.1)), 2, "stop")


@pytest.mark.parametrize(
    ("changes", "confidence"),
    [
        ({}, 0.5 * 0.4),
        ({"conf_newline": "on"}, 0.5 * 0.4 * 0.1),
        ({"conf": "mean-logprob"}, (0.5 * 0.4) ** (1 / 2)),
        ({"conf": "mean-logprob", "conf_newline": "on"}, (0.5 * 0.4 * 0.1) ** (1 / 3)),
    ],
)
def test_confidence_by_hand(changes: dict[str, str], confidence: float) -> None:
    assert nq.confidence(ROME, options_of("nq", **changes)) == pytest.approx(confidence)


def answered(confidences: Sequence[float], right: Sequence[bool]) -> dict[str, Score]:
    """Scores of answers of one token each, right or wrong."""
    outcomes: dict[str, list[tuple[float, ...]]] = {}
    measures = nq.measures(options_of("nq"))[:3]
    example = Example("0", {"guesses": None}, ("Rome",))
    for confidence, good in zip(confidences, right, strict=True):
        response = said("Rome" if good else "Milan", math.log(confidence))
        for measure in measures:
            outcomes.setdefault(measure.name, []).extend(measure.extract(example, [response]))
    return {m.name: intervals.score(m, outcomes[m.name], 0) for m in measures}


@pytest.mark.parametrize(("count", "counted"), [(1, 1), (99, 1), (199, 1), (200, 2), (3610, 36)])
def test_the_surest_hundredth(count: int, counted: int) -> None:
    """A hundredth of the answers, rounded down but at least one; the surer half is right."""
    confidences = [0.1, 0.2] * (count // 2) + [0.3] * (count % 2)
    found = answered(confidences, [c > 0.1 for c in confidences])["em-top-1%"]
    assert (found.value, found.totals["questions"]) == (100, counted)


def test_the_surest_answer_may_be_wrong() -> None:
    assert answered([0.4, 0.9, 0.8], [True, False, True])["em-top-1%"].value == 0


def test_calibration_by_hand() -> None:
    """Bin 0.2 to 0.3: 1 of 2 right at 0.25; bin 0.9 to 1: 2 of 3 right at 0.95, 0.95 and 1."""
    found = answered([0.2, 0.95, 0.3, 0.95, 1.0, 0.05], [True, True, False, False, True, False])
    # 0.2 and 0.3 are the lower edges of bins 2 and 3
    gaps = [0.05, 1 - 0.2, 0.3, abs(2.9 - 2)]
    assert found["calibration-error"].value == pytest.approx(100 * sum(gaps) / 6)
    bins = [(b.low, b.high, b.answers, b.confidence, b.accuracy) for b in table(
        found["calibration-error"].totals)]  # fmt: skip
    assert bins == [
        pytest.approx((0.0, 0.1, 1, 0.05, 0)),
        pytest.approx((0.2, 0.3, 1, 0.2, 1)),
        pytest.approx((0.3, 0.4, 1, 0.3, 0)),
        pytest.approx((0.9, 1.0, 3, 2.9 / 3, 2 / 3)),
    ]
    assert found["em"].value == 50
    assert found["em-top-1%"].value == 100, "the answer given with probability 1"


# --- the baseline by question word ----------------------------------------------------------


def ask_words(*pairs: tuple[str, str]) -> list[Fields]:
    return [{"question": question, "answer": [answer, "other"]} for question, answer in pairs]


TRAIN = ask_words(
    ("who was it", "Ann"),
    ("in which year was it", "1999"),
    ("WHO sang", "Bob"),
    ("name of the one who sang", "Bob"),
    ("which year", "1999"),
    ("which day", "Monday"),
    ("name the city", "Rome"),
)


@pytest.mark.parametrize(
    ("question", "guess"),
    [
        ("who is the second", "Bob"),
        ("in which month", "1999"),
        ("tell me the capital", "Rome"),
        ("why is the sky blue", None),
        ("whoever wins", "Rome"),
    ],
)
def test_the_most_frequent_answer_to_the_question_word(question: str, guess: str | None) -> None:
    for answer in ("Ann", "Bob", "1999", "Rome", "Monday"):
        rows = [{"question": question, "answer": ["x", answer]}]
        record = run(with_pairs(job_of("nq", rows), TRAIN), "anything")
        assert values(record)["question-word em"] == 100 * (answer == guess)
        [score] = [score for score in record.scores if score.baseline]
        assert (score.metric, score.baseline, score.column) == (
            "question-word em", "question-word", None,
        )  # fmt: skip


def from_folder(folder: Path, train: Path | None = None) -> Record:
    """A run that answers with the prompt's first letters."""
    task = load_task("nq")
    data = load(nq.DEV, Where(folder=folder))
    pool = load_pool(nq.TRAIN, Where(folder=train or folder))
    job = Job(task, task.protocol(), data, pool=pool)
    return evaluate(job, Speaker(lambda request: said(id_of(request)[0][:3])))


def test_the_baseline_needs_a_training_file(tmp_path: Path) -> None:
    (tmp_path / "NQ-open.dev.jsonl").write_text(f"{line('who is', ['Ann'])}\n{line('why', ['x'])}")
    without = from_folder(tmp_path)
    assert without.pool is not None
    assert without.pool["source"] == "sample"
    assert "question-word em" not in values(without)
    (tmp_path / "NQ-open.train.jsonl").write_text(f"{line('who was', ['Ann'])}\n")
    given_ = from_folder(tmp_path)
    assert given_.pool is not None
    assert (given_.pool["source"], given_.pool["rows"]) == ("file", 1)
    assert values(given_)["question-word em"] == 50
    assert values(given_)["em"] == values(without)["em"]


# --- real files -----------------------------------------------------------------------------


def test_published_questions(data_dir: Path) -> None:
    data = load(nq.DEV, Where(folder=data_dir), strict=True)
    assert (len(data.rows), data.published) == (3610, True)
    assert max(len(row.fields["answer"]) for row in data.rows) == 23
    assert not any(row.fields["question"].endswith("?") for row in data.rows)


FIRST_WORD = re.compile(r"(?<!\S)(who|when|where|what|which|how|why)(?!\S)")


def test_the_baseline_on_published_questions(data_dir: Path, tmp_path: Path) -> None:
    assert "question-word em" not in values(from_folder(data_dir)), "the pool is built in"
    guesses = {"when": "2018", "who": "Bryan Cranston", "where": "New York"}
    lines = [line(f"{word} is it", [guess]) for word, guess in guesses.items()]
    (tmp_path / "NQ-open.train.jsonl").write_text("\n".join(lines))
    right = 0
    rows = load(nq.DEV, Where(folder=data_dir)).rows
    for fields in (row.fields for row in rows):
        word = FIRST_WORD.search(fields["question"].lower())
        guess = guesses.get(word[1], "") if word else ""
        right += any(exact_match(guess, answer) for answer in fields["answer"]) if guess else 0
    assert right > 0
    found = values(from_folder(data_dir, tmp_path))
    assert found["question-word em"] == pytest.approx(100 * right / 3610)
