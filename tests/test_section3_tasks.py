"""What the tasks of section 3 share: example pairs, seeds, rounds, the hub's rows, odd text."""

import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from conftest import byte_tokenizer
from speaker import Speaker, asked, id_of, job_of, options_of, said, values, with_pairs

from harness.core import (
    Encoding,
    Fields,
    Generate,
    Loglikelihood,
    Request,
    Response,
    Scored,
)
from harness.data.load import Where, load, load_pool
from harness.engine.queries.encode import Encoder
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.plugins.registry import load_task
from harness.runner import Job, evaluate, prepare
from harness.tasks import cnn_dm, coqa, nq, winograd, wmt14

FEW_SHOT = ("wmt14-en-fr", "wmt14-fr-en", "nq")

# --- rows by hand ---------------------------------------------------------------------------

PAIRS: list[Fields] = [{"en": f"Cat {n}.", "fr": f"Chat {n}."} for n in range(40)]
QUESTIONS: list[Fields] = [
    {"question": f"who is {n}", "answer": [f"Ann {n}", "x"]} for n in range(40)
]
POOLS = {"wmt14-en-fr": PAIRS, "wmt14-fr-en": PAIRS, "nq": QUESTIONS}
ROWS: dict[str, list[Fields]] = {
    "wmt14-en-fr": [{"en": f"Dog {n}.", "fr": f"Chien {n}."} for n in range(6)],
    "wmt14-fr-en": [{"en": f"Dog {n}.", "fr": f"Chien {n}."} for n in range(6)],
    "nq": [{"question": f"where is {n}", "answer": [f"Rome {n}"]} for n in range(6)],
    "cnn-dm": [{"article": f"One. Two. {n}.", "highlights": "One .", "id": ""} for n in range(6)],
    "winograd": [
        {"before": f"{n} saw", "pronoun": "it", "after": "ran.", "candidates": ("a", "b"),
         "right": 0}
        for n in range(6)
    ],
    "coqa": [
        {"source": "cnn", "story": f"{n}", "questions": ("Who?",), "references": (("Ann",),)}
        for n in range(6)
    ],
}  # fmt: skip


def few_shot(task: str, **overrides: str) -> Job:
    return with_pairs(job_of(task, ROWS[task], **overrides), POOLS[task])


def openings(job: Job) -> list[tuple[str, ...]]:
    """For each example, what its prompts have in front of the question or sentence."""
    lines = 2 if job.task.name == "nq" else 1
    return [
        tuple("\n".join(r.prompt.split("\n")[:-lines]) for r in group if isinstance(r, Generate))
        for group in prepare(job).groups
    ]


# --- example pairs --------------------------------------------------------------------------


@pytest.mark.parametrize("task", FEW_SHOT)
def test_all_items_of_all_runs_see_the_same_pairs(task: str) -> None:
    job = few_shot(task)
    [first, *others] = openings(job)
    assert all(other == first for other in others)
    assert len(others) == 5
    for same in (replace(job, seed=7), replace(job, limit=2), few_shot(task)):
        assert set(openings(same)) == {first}


@pytest.mark.parametrize("task", FEW_SHOT)
@pytest.mark.parametrize("shots", [0, 1, 5, 40, 99])
def test_pairs_are_drawn_from_the_pool_without_repetition(task: str, shots: int) -> None:
    pairs = {
        "wmt14-en-fr": {f"Cat {n}. = Chat {n}." for n in range(40)},
        "wmt14-fr-en": {f"Chat {n}. = Cat {n}." for n in range(40)},
        "nq": {f"Q: Who is {n}?\nA: Ann {n}" for n in range(40)},
    }[task]
    for opening in openings(few_shot(task, shots=str(shots)))[0]:
        found = re.split("\n(?!A:)", opening) if opening else []
        assert len(found) == len(set(found)) == min(shots, 40)
        assert set(found) <= pairs


@pytest.mark.parametrize("task", ["wmt14-en-fr", "wmt14-fr-en"])
def test_draws_differ_and_more_of_them_begin_with_fewer(task: str) -> None:
    [three, *_] = openings(few_shot(task))
    assert len(three) == len(set(three)) == 3
    [five, *_] = openings(few_shot(task, draws="5"))
    assert len(set(five)) == 5
    assert five[:3] == three


def answer_anything(request: Request) -> Response:
    return said("x") if isinstance(request, Generate) else Scored((-1.0,), (True,))


@pytest.mark.parametrize("task", FEW_SHOT)
def test_record_and_signature_name_the_pool(task: str) -> None:
    job = few_shot(task)
    record = evaluate(job, Speaker(answer_anything))
    assert record.pool is not None
    assert (record.pool["name"], record.pool["sha256"]) == ("made.up", "c3" * 32)
    assert (record.pool["source"], record.pool["rows"]) == ("file", 40)
    assert "|pool:made.up@c3c3c3c3|" in str(record.signature)
    assert job.pool is not None
    other = replace(job, pool=replace(job.pool, sha256="d4" * 32))
    changed = evaluate(other, Speaker(answer_anything))
    assert str(changed.signature) == str(record.signature).replace("@c3c3c3c3|tok", "@d4d4d4d4|tok")
    assert changed.filename() != record.filename()


@pytest.mark.parametrize("task", ["coqa", "cnn-dm", "winograd"])
def test_tasks_without_examples_have_no_pool(task: str) -> None:
    record = evaluate(job_of(task, ROWS[task]), Speaker(answer_anything))
    assert record.pool is None
    assert "|pool:" not in str(record.signature)
    assert record.task == task


def test_the_pool_is_the_file_where_there_is_one(tmp_path: Path) -> None:
    sample = load_pool(nq.TRAIN, Where(folder=tmp_path))
    assert (sample.source_kind, len(sample.rows)) == ("sample", 24)
    line = json.dumps({"question": "who", "answer": ["Ann"]})
    (tmp_path / "NQ-open.train.jsonl").write_text(line + "\n")
    where = Where(folder=tmp_path, file=tmp_path / "the test rows, which are not the pool's")
    assert [row.fields["answer"] for row in load_pool(nq.TRAIN, where).rows] == [["Ann"]]


# --- seeds and rounds -----------------------------------------------------------------------


def test_the_runs_seed_comes_before_the_samples_own() -> None:
    job = replace(job_of("cnn-dm", ROWS["cnn-dm"][:1]), seed=7)
    assert [request.seed for request in asked(job)] == [(7, 0), (7, 1), (7, 2)]


STORIES: list[Fields] = [
    {"source": "cnn", "story": "S0", "questions": ("a", "b", "c"), "references": (("R",),) * 3},
    {"source": "cnn", "story": "S1", "questions": ("d",), "references": (("R",),)},
    {"source": "race", "story": "S2", "questions": ("e", "f"), "references": (("R",),) * 2},
]


def test_the_models_own_answers_are_its_history() -> None:
    """Each answer names its story and turn; only its first line goes on."""
    answers = {"a": "S0a", "b": " S0b ", "c": "R", "d": "S1d\nQ: no", "e": "R", "f": "R"}
    speaker = Speaker(lambda r: said(answers[id_of(r)[0][-4:][0]]))
    record = evaluate(job_of("coqa", STORIES, "model-history"), speaker)
    prompts = [[id_of(request)[0] for request in requests] for requests in speaker.rounds]
    assert prompts == [
        ["S0\nQ: a\nA:", "S1\nQ: d\nA:", "S2\nQ: e\nA:"],
        ["S0\nQ: a\nA: S0a\nQ: b\nA:", "S2\nQ: e\nA: R\nQ: f\nA:"],
        ["S0\nQ: a\nA: S0a\nQ: b\nA: S0b\nQ: c\nA:"],
    ]
    assert (record.requests, record.examples) == (6, 3)
    found = values(record)
    assert found["em"] == pytest.approx(100 * 3 / 6)
    assert found["f1 news"] == pytest.approx(100 * 1 / 4)
    assert found["f1 mid-high_school"] == 100


def test_with_gold_history_there_is_one_round() -> None:
    speaker = Speaker(lambda request: said("something else"))
    evaluate(job_of("coqa", STORIES), speaker)
    [requests] = speaker.rounds
    assert id_of(requests[2])[0] == "S0\nQ: a\nA: R\nQ: b\nA: R\nQ: c\nA:"
    assert len(requests) == 6


# --- rows of the hub ------------------------------------------------------------------------

TURNS = {"input_text": ["Who?", "What?"], "turn_id": [1, 2]}
TOLD = {
    "span_start": [0, 1], "span_end": [1, 2], "span_text": ["a", "b"],
    "input_text": ["Ann", "a \u2028 cat"], "turn_id": [1, 2],
}  # fmt: skip
ARTICLE = {"article": 'A "b",\r\nc\x85d.', "highlights": "One .\nTwo, 2 .", "id": "0f"}
SCHEMA = {
    "text": 'The cup & the "lid" broke; its <rim> too.', "pronoun": "its", "pronoun_loc": 27,
    "quote": "its", "quote_loc": 27, "options": ["The cup", "The lid"], "label": 1,
    "source": "me",
}  # fmt: skip

# task, columns of the parquet file, the fields of its rows
HUB: list[tuple[str, dict[str, list[Any]], list[Fields]]] = [
    (
        "coqa",
        {
            "id": ["x1"],
            "source": ["mctest"],
            "story": ["A\u2028b\x0b.\r\n<|endoftext|>"],
            "questions": [TURNS],
            "answers": [TOLD],
            "additional_answers": [
                {"0": TOLD, "1": {**TOLD, "input_text": ["ann", "x"]}, "2": TOLD}
            ],
        },
        [
            {
                "source": "mctest",
                "story": "A\u2028b\x0b.\r\n<|endoftext|>",
                "questions": ("Who?", "What?"),
                "references": (
                    ("Ann", "Ann", "ann", "Ann"),
                    ("a \u2028 cat", "a \u2028 cat", "x", "a \u2028 cat"),
                ),
            }
        ],
    ),
    ("cnn-dm", {key: [value] * 2 for key, value in ARTICLE.items()}, [ARTICLE] * 2),
    (
        "wmt14-en-fr",
        {
            "translation": [
                {"fr": "« Un »\u2028 chat & <b>.", "en": "A cat"},
                {"fr": "B", "en": "C"},
            ]
        },
        [{"en": "A cat", "fr": "« Un »\u2028 chat & <b>."}, {"en": "C", "fr": "B"}],
    ),
    (
        "nq",
        {"question": ["who\x85 is é"], "answer": [["A. Name", "Na\nme"]]},
        [{"question": "who\x85 is é", "answer": ["A. Name", "Na\nme"]}],
    ),
    (
        "winograd",
        {key: [value] for key, value in SCHEMA.items()},
        [
            {
                "before": 'The cup & the "lid" broke;',
                "pronoun": "its",
                "after": "<rim> too.",
                "candidates": ("The cup", "The lid"),
                "right": 1,
            }
        ],
    ),
]


@pytest.mark.parametrize(("task", "columns", "rows"), HUB, ids=[task for task, *_ in HUB])
def test_rows_of_the_hub_are_those_of_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    columns: dict[str, list[Any]],
    rows: list[Fields],
) -> None:
    buffer = BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    (tmp_path / "0000.parquet").write_bytes(buffer.getvalue())
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *args, **kwargs: str(tmp_path / "0000.parquet")
    )
    source = load_task(task).source(options_of(task))
    data = load(source, Where(hub=True))
    assert [dict(row.fields) for row in data.rows] == rows
    assert source.hub is not None
    assert (data.source_kind, data.name) == ("hub", f"{source.hub.repo}/{source.hub.file}")


# --- text with everything in it -------------------------------------------------------------

ODD = "a\r\nb\x85c\u2028d\x0be\x0cf\x1cg <|endoftext|>{h} \u201ci\u201d"
LINE = ODD.replace("\n", "")  # what one line of a text file can contain
STORY = json.dumps({"source": "x", "story": ODD, "questions": [ODD, LINE], "answers": [LINE, "y"]})
CSV = 'article,highlights,id\n"' + ODD + '","one\ntwo",1\n'


def odd_files() -> list[tuple[str, list[Fields], str, int]]:
    """Task, rows as its file is read, the odd text in a prompt, and how often it is there."""
    return [
        ("coqa", [*coqa.parse(STORY.encode())], ODD, 2),
        ("cnn-dm", [*cnn_dm.parse(CSV.encode())], ODD, 1),
        ("wmt14-en-fr", wmt14.parse(f"x\n{LINE}\n".encode(), b"y\nz")[1:], LINE, 2),
        ("wmt14-fr-en", wmt14.parse(b"y\nz", f"x\n{LINE}\n".encode())[1:], LINE, 2),
        ("nq", nq.parse(json.dumps({"question": ODD, "answer": ["x"]}).encode()), ODD[1:], 2),
    ]


@pytest.mark.parametrize(("task", "rows", "odd", "times"), odd_files(), ids=lambda x: str(x)[:9])
def test_odd_text_reaches_the_model_unharmed(
    task: str, rows: list[Fields], odd: str, times: int
) -> None:
    """From the file's bytes to the tokens and back; an end of text in it ends nothing."""
    tokenizer = Tokenizer(byte_tokenizer(), name="bytes")
    job = job_of(task, rows)
    request = asked(with_pairs(job, rows) if task in FEW_SHOT else job)[0]
    assert request.prompt.count(odd) == times
    [encoded] = Encoder(tokenizer, 4096).encode([request], Encoding())
    ids = encoded.spans[0].inputs
    assert tokenizer.decode(ids[1:]) == request.prompt
    assert not set(ids[1:]) & tokenizer.end_tokens


def test_gold_answers_of_the_conversation_are_unharmed() -> None:
    second = asked(job_of("coqa", coqa.parse(STORY.encode())))[1]
    assert second.prompt == f"{ODD}\nQ: {ODD}\nA: {LINE}\nQ: {LINE}\nA:"


def test_odd_schemas_have_single_spaces_and_keep_their_characters() -> None:
    text = "The <|endoftext|>\n\u2028cup \x85 &amp; <!-- no --> more"
    answers = "<answers><answer>the\ncup</answer><answer>x</answer></answers>"
    schema = f"<text><txt1>{text}</txt1><pron>it</pron><txt2>{{is}}.</txt2></text>{answers}"
    whole = f"<a><schema>{schema}<correctAnswer>A</correctAnswer></schema></a>"
    rows = winograd.parse(whole.replace("<|", "&lt;|").encode())
    first = prepare(job_of("winograd", rows)).requests[0]
    assert first == Loglikelihood("The <|endoftext|> cup & more the cup", " {is}.")


@pytest.mark.parametrize("text", [LINE, LINE.replace("\r", "\x0b"), "é" + LINE + "。"])
def test_odd_answers_are_scored_unharmed(text: str) -> None:
    assert coqa.answer(said(f" {text}\nQ: no"), options_of("coqa")) == text
    assert nq.answer(said(f" {text}.")) == text
    as_it_is = options_of("wmt14-en-fr", cut="newline")
    assert wmt14.translation(said(f" {text}\nno"), as_it_is) == text


# --- real files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "rows", "requests"),
    [
        ("coqa", 500, 7983),
        ("cnn-dm", 500, 3 * 500),
        ("wmt14-en-fr", 3003, 3 * 3003),
        ("wmt14-fr-en", 3003, 3 * 3003),
        ("nq", 3610, 3610),
    ],
)
def test_whole_files(data_dir: Path, task: str, rows: int, requests: int) -> None:
    benchmark = load_task(task)
    protocol = benchmark.protocol()
    data = load(benchmark.source(protocol.options), Where(folder=data_dir))
    pool = None
    if benchmark.few_shot:
        pool = load_pool(benchmark.few_shot.source(protocol.options), Where(folder=data_dir))
    found = asked(Job(benchmark, protocol, data, pool=pool))
    assert (len(data.rows), len(found)) == (rows, requests)
    assert len({id_of(request) for request in found}) == requests, "no two are the same"
    assert not any(request.prompt.endswith((" ", "\n")) for request in found)
    assert data.published == (task not in ("coqa", "cnn-dm"))
