"""Winograd schemas: substitution, both scorings, the XML file and the hub's rows."""

import re
from pathlib import Path

import pytest
from console import harness, made_record, record_files
from hypothesis import given
from hypothesis import strategies as st
from speaker import Speaker, job_of, options_of, values

from harness.analysis import leaderboard
from harness.core import Fields, Loglikelihood, Request, Row, Scored
from harness.data.load import Where, load
from harness.data.subset import choose
from harness.errors import DataError, RecordError
from harness.records.folder import read
from harness.records.record import Record
from harness.runner import evaluate, prepare
from harness.stats import intervals
from harness.tasks import winograd


def schema(
    before: str, pronoun: str, after: str, candidates: tuple[str, str] = ("Ann", "Bob")
) -> Fields:
    return {
        "before": before,
        "pronoun": pronoun,
        "after": after,
        "candidates": candidates,
        "right": 0,
    }


# --- substitution ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "pronoun", "after", "candidate", "head", "tail"),
    [
        ("Ann saw", "it", "fall.", "The cup", "Ann saw the cup", " fall."),
        ("Ann saw that", "she", "won.", "Ann", "Ann saw that Ann", " won."),
        ("He said that", "she", "won.", "My aunt", "He said that my aunt", " won."),
        ("He saw", "it", "fall.", "An egg", "He saw an egg", " fall."),
        ("He saw", "it", "fall.", "A cup of The Hague", "He saw a cup of The Hague", " fall."),
        ("He saw", "it", "fall.", "Annette", "He saw Annette", " fall."),
        ("He saw", "it", "fall.", "They", "He saw they", " fall."),
        # possessives
        ("Ann took", "her", "hat.", "The aunt", "Ann took the aunt's", " hat."),
        ("Ann took", "his", "hat.", "Bob", "Ann took Bob's", " hat."),
        ("They took", "their", "hats.", "The men", "They took the men's", " hats."),
        ("", "My", "hat fell.", "the man", "The man's", " hat fell."),
        ("Ann took", "hers", "off.", "The aunt", "Ann took the aunt", " off."),
        # openings of sentences
        ("", "It", "fell.", "the cup", "The cup", " fell."),
        ("Ann came.", "She", "won.", "Ann", "Ann came. Ann", " won."),
        ("Ann came.", "She", "won.", "the aunt", "Ann came. The aunt", " won."),
        ("Ann came!", "She", "won.", "the aunt", "Ann came! The aunt", " won."),
        ("Did Ann come?", "She", "won.", "The aunt", "Did Ann come? The aunt", " won."),
        ("Ann came;", "she", "won.", "The aunt", "Ann came; the aunt", " won."),
        ("Ann came,", "she", "won.", "The aunt", "Ann came, the aunt", " won."),
        # punctuation
        ("Ann saw", "it", ".", "The cup", "Ann saw the cup", "."),
        ("Ann saw", "it", ", and ran.", "The cup", "Ann saw the cup", ", and ran."),
        ("Ann said", "it", "'s red.", "The cup", "Ann said the cup", "'s red."),
        ("(Ann saw", "it", ") and ran.", "The cup", "(Ann saw the cup", ") and ran."),
        ("Ann saw", "it", "- and ran.", "The cup", "Ann saw the cup", " - and ran."),
    ],
)
def test_substitution(
    before: str, pronoun: str, after: str, candidate: str, head: str, tail: str
) -> None:
    assert winograd.substitute(schema(before, pronoun, after), candidate) == (head, tail)


UPPER = ["A", "An", "The", "She", "He", "It", "They", "My", "His", "Her", "Their"]


def option_of_lm_eval(text: str, pronoun: str, location: int, option: str) -> str:
    """The rule of its wsc273: `'s` after possessives, articles lower case but after a full stop."""
    if pronoun.lower() in ("my", "his", "her", "our", "their"):
        option += "'s"
    first = option.split()[0]
    if text[location - 2] != "." and first in UPPER:
        return option.replace(first, first.lower())
    return option


@given(
    before=st.sampled_from(["Ann came.", "Ann saw that", "Ann came,", "Ann, who won, and"]),
    pronoun=st.sampled_from(["she", "her", "His", "their", "it", "They", "our", "him"]),
    candidate=st.sampled_from(["The cup", "An old man", "Ann", "My aunt", "Their dogs"]),
)
def test_inside_a_text_candidates_are_spelt_as_in_lm_eval(
    before: str, pronoun: str, candidate: str
) -> None:
    text = f"{before} {pronoun} ran."
    spelt = option_of_lm_eval(text, pronoun, len(before) + 1, candidate)
    wanted = (f"{before} {spelt}", " ran.")
    assert winograd.substitute(schema(before, pronoun, "ran."), candidate) == wanted


# --- requests -------------------------------------------------------------------------------

CUP = schema("Ann dropped", "it", ", so it broke.", ("The cup", "The {1}"))


@pytest.mark.parametrize("change", ["set=wsc285", "score=full", "norm=tokens", "bos=eot"])
def test_requests(change: str) -> None:
    """What follows each candidate, then the whole sentences; no option changes them."""
    wanted = [
        Loglikelihood("Ann dropped the cup", ", so it broke."),
        Loglikelihood("Ann dropped the {1}", ", so it broke."),
        Loglikelihood("", "Ann dropped the cup, so it broke."),
        Loglikelihood("", "Ann dropped the {1}, so it broke."),
    ]
    name, value = change.split("=")
    assert prepare(job_of("winograd", [CUP])).requests == wanted
    assert prepare(job_of("winograd", [CUP], **{name: value})).requests == wanted


@pytest.mark.parametrize(("name", "count"), [("wsc273", 273), ("wsc285", 285)])
def test_which_schemas_are_read(name: str, count: int) -> None:
    rows = [Row(n, CUP) for n in range(285)]
    found = winograd.read(rows, options_of("winograd", set=name))
    assert [example.id for example in found] == [str(n) for n in range(count)]
    assert found[0].references == ("The cup",)
    some = winograd.read(rows[270:280], options_of("winograd", set=name))
    assert len(some) == (3 if name == "wsc273" else 10), (
        "rows are identified by their place in the file"
    )


# --- files ----------------------------------------------------------------------------------

PUBLISHED = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE collection>
<collection>
  <schema>
    <text>
      <txt1> The cup  was put
        on the table because </txt1>
      <pron> it </pron>
      <txt2>was &lt;full&gt; &amp; {end} </txt2>
    </text>
    <quote><quote1>because</quote1><pron>it</pron><quote2>was full</quote2></quote>
    <answers><answer> The cup </answer><answer>
        the table
    </answer></answers>
    <correctAnswer>{letter}</correctAnswer>
    <source>me</source>
  </schema>
</collection>
"""


@pytest.mark.parametrize(
    ("letter", "right"), [("  A. ", 0), (" B ", 1), ("A", 0), ("\n      B.\n    ", 1)]
)
def test_layout(letter: str, right: int) -> None:
    [fields] = winograd.parse(PUBLISHED.format(letter=letter, end="“new”.").encode())
    assert fields == {
        "before": "The cup was put on the table because",
        "pronoun": "it",
        "after": "was <full> & “new”.",
        "candidates": ("The cup", "the table"),
        "right": right,
    }


def xml(*schemas: str) -> str:
    return "<collection>\n" + "\n".join(f"<schema>{s}</schema>" for s in schemas) + "</collection>"


TEXT = "<text><txt1>A saw</txt1><pron>it</pron><txt2>run.</txt2></text>"
ANSWERS = "<answers><answer>B</answer><answer>C</answer></answers>"
RIGHT = "<correctAnswer>A</correctAnswer>"
GOOD = TEXT + ANSWERS + RIGHT


def test_a_sentence_may_begin_with_the_pronoun() -> None:
    text = GOOD.replace("<txt1>A saw</txt1>", "").replace("it", "It")
    [request, *_] = prepare(job_of("winograd", winograd.parse(xml(text).encode()))).requests
    assert request == Loglikelihood("B", " run.")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (xml(GOOD)[:-5], "expected XML: unclosed token: line 2, column"),
        (xml(GOOD).replace("</pron>", ""), "expected XML: mismatched tag: line 2, column"),
        ("{}", "expected XML: not well-formed (invalid token): line 1, column 0"),
        (xml(GOOD, TEXT + ANSWERS), "schema 2: expected text, pron, two answers and correctAnswer"),
        (xml(GOOD.replace("<pron>it</pron>", "")), "schema 1: expected text, pron, two answers"),
        (xml(GOOD.replace("<answer>C</answer>", "")), "schema 1: expected text, pron, two answers"),
        (xml(GOOD.replace(">C<", "> <")), "schema 1: expected text, pron, two answers"),
        (xml(GOOD.replace(">A<", ">C<")), "schema 1: expected text, pron, two answers"),
        (xml(GOOD, GOOD.replace(">A<", "><")), "schema 2: expected text, pron, two answers"),
        ('<?xml version="1.0" encoding="none"?>' + xml(GOOD), "expected XML: "),
        ('<?xml version="1.0" encoding="shift_jis"?>' + xml(GOOD), "expected XML: "),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "mine.xml").write_text(content)
    with pytest.raises(DataError) as caught:
        load(winograd.source({}), Where(file=tmp_path / "mine.xml"))
    title = "mine.xml is not Winograd Schema Challenge collection: "
    assert str(caught.value).startswith(title + words)
    assert "\n" not in str(caught.value)


def test_a_file_without_schemas_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.xml").write_text("<collection></collection>")
    with pytest.raises(DataError, match=r"^mine.xml has no rows; expected Winograd"):
        load(winograd.source({}), Where(file=tmp_path / "mine.xml"))


@pytest.mark.parametrize(
    ("text", "at", "pronoun"),
    [
        ("The cup hit the lid since it was big.", 26, "it"),
        ("It fell.", 0, "It"),
        ("The cup fell. Its lid, too, it hit.", 14, "Its"),
        ("A \"b\" & <c>, said Ann, its 'd'.", 23, "its"),
    ],
)
def test_rows_of_the_hub_are_cut_at_the_pronouns_place(text: str, at: int, pronoun: str) -> None:
    assert text[at:].startswith(pronoun)
    row = {
        "text": text, "pronoun": pronoun, "pronoun_loc": at, "options": ["A & b", "The lid"],
        "label": 1,
    }  # fmt: skip
    [fields] = winograd.parse(winograd.restore([row]))
    assert fields == {
        "before": text[:at].strip(),
        "pronoun": pronoun,
        "after": text[at + len(pronoun) :].strip(),
        "candidates": ("A & b", "The lid"),
        "right": 1,
    }


# --- scores ---------------------------------------------------------------------------------


def scored(*logprobs: float) -> Scored:
    return Scored(logprobs, (False,) * len(logprobs))


@pytest.mark.parametrize(
    ("answers", "norm", "partial", "full"),
    [
        ([scored(-1.0), scored(-2.0), scored(-5.0), scored(-4.0)], "none", 1, 0),
        ([scored(-2.0), scored(-1.0), scored(-4.0), scored(-5.0)], "none", 0, 1),
        # ties are wrong
        ([scored(-1.0), scored(-1.0), scored(-4.0), scored(-2.0, -2.0)], "none", 0, 0),
        ([scored(-1.0), scored(-1.0, -1.0), scored(-4.0), scored(-5.0)], "tokens", 0, 1),
        # -3 in three tokens against -2 in one; -4 in two against -3 in three
        ([scored(-1.0, -1.0, -1.0), scored(-2.0)] * 2, "none", 0, 0),
        ([scored(-1.0, -1.0, -1.0), scored(-2.0)] * 2, "tokens", 1, 1),
    ],
)
@pytest.mark.parametrize("right", [0, 1])
def test_the_more_probable_sentence_wins(
    answers: list[Scored], norm: str, partial: int, full: int, right: int
) -> None:
    """Where the second candidate is the right one, the answers change places."""
    order = [0, 1, 2, 3] if right == 0 else [1, 0, 3, 2]
    [example] = winograd.read([Row(0, {**CUP, "right": right})], options_of("winograd"))
    responses = [answers[i] for i in order]
    measures = winograd.measures(options_of("winograd", norm=norm))[:2]
    found = [intervals.score(m, list(m.extract(example, responses)), 0).value for m in measures]
    assert found == [100 * partial, 100 * full]


@pytest.mark.parametrize(
    ("norm", "right", "expected"),
    [
        # after the candidates -3 (3 tokens) and -2 (1); as a whole -5 (2) and -9 (3)
        ("none", 0, [(3.0, "nats"), (-1.0, "nats"), (5.0, "nats"), (4.0, "nats")]),
        ("none", 1, [(2.0, "nats"), (1.0, "nats"), (9.0, "nats"), (-4.0, "nats")]),
        (
            "tokens",
            0,
            [(3.0, "nats"), (1.0, "nats per token"), (5.0, "nats"), (0.5, "nats per token")],
        ),
    ],
)
def test_nats_of_the_right_candidate_and_its_margin(
    norm: str, right: int, expected: list[tuple[float, str]]
) -> None:
    [example] = winograd.read([Row(0, {**CUP, "right": right})], options_of("winograd"))
    responses = [scored(-1, -1, -1), scored(-2), scored(-2, -3), scored(-3, -3, -3)]
    measures = winograd.measures(options_of("winograd", norm=norm))[2:]
    names = ["nats-partial", "margin-partial", "nats-full", "margin-full"]
    assert [m.name for m in measures] == names
    found = [intervals.score(m, list(m.extract(example, responses)), 0) for m in measures]
    assert [(score.value, score.unit) for score in found] == expected
    assert [score.higher_is_better for score in found] == [False, True] * 2


@given(st.lists(st.floats(-50, -0.01), min_size=4, max_size=4), st.integers(0, 1))
def test_a_schema_is_right_where_its_margin_is_positive(logprobs: list[float], right: int) -> None:
    [example] = winograd.read([Row(0, {**CUP, "right": right})], options_of("winograd"))
    responses = [scored(value) for value in logprobs]
    measures = {m.name: m for m in winograd.measures(options_of("winograd"))}
    for name in ("partial", "full"):
        [(accuracy, _)] = measures[f"acc-{name}"].extract(example, responses)
        [(margin, _)] = measures[f"margin-{name}"].extract(example, responses)
        assert (accuracy == 1) == (margin > 0)


@pytest.mark.parametrize("score", ["partial", "full"])
def test_one_of_the_scores_stands_beside_the_papers(score: str) -> None:
    """Three schemas; the first candidate is more probable after it, never as a whole."""

    def say(request: Request) -> Scored:
        assert isinstance(request, Loglikelihood)
        return scored(-1.0 if re.search("cup$", request.context) else -2.0)

    rows = [CUP, {**CUP, "right": 1}, {**CUP, "before": "Bob took"}]
    record = evaluate(job_of("winograd", rows, score=score), Speaker(say))
    assert values(record) == {
        "acc-partial": pytest.approx(200 / 3),
        "acc-full": 0,
        "nats-partial": pytest.approx(4 / 3),
        "margin-partial": pytest.approx(1 / 3),
        "nats-full": 2,
        "margin-full": 0,
    }
    assert {s.metric: s.column for s in record.scores if s.column} == {
        f"acc-{score}": "Winograd ACC"
    }


# --- rows and examples ----------------------------------------------------------------------


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """A file of 285 schemas, as the published one has."""
    one = PUBLISHED.replace("{letter}", "A")
    head, body = one.split("<collection>")
    found = body.removesuffix("</collection>\n")
    path = tmp_path / "WSCollection.xml"
    path.write_text(f"{head}<collection>{found * 285}</collection>\n")
    return path


def scored_by(collection: Path, model: Path, out: Path, *words: object) -> tuple[str, Record]:
    options = ["--model", model, "--device", "cpu", "--data-file", collection, "--out", out]
    result = harness("winograd", *options, *words)
    assert result.code == 0
    [path] = record_files(out)
    return result.out, read(path)


def test_rows_read_and_examples_scored_are_two_numbers(
    collection: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    shown, record = scored_by(collection, tiny_folder, tmp_path / "out")
    assert (record.data["rows"], record.rows, record.examples) == (285, 285, 273)
    assert record.scores[0].totals["schemas"] == 273
    assert "  273 examples from 285 rows  " in shown
    assert "|n:273/285|" in str(record.signature)
    assert record.to_json()["rows"] == 285
    [row] = leaderboard.rows([record])
    assert "|n:273/285|" in row["signatures"]


def test_rows_of_a_limit_that_are_not_scored(
    collection: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """The rows are those of any benchmark; which of them are among the first 273 is counted here.

    Two limits that score the same number of schemas are two selections.
    """
    [chosen] = choose([Row(n, {}) for n in range(285)], 40, seed=3, stream=False)
    wanted = sum(row.number < 273 for row in chosen)
    assert wanted < 40
    words = ["--limit", 40, "--seed", 3]
    shown, record = scored_by(collection, tiny_folder, tmp_path / "out", *words)
    assert (record.rows, record.examples, record.scores[0].totals["schemas"]) == (
        40,
        wanted,
        wanted,
    )
    assert f"  {wanted} examples from 40 of 285 rows (seed 3)  " in shown
    assert f"|n:{wanted}/40~seed3|" in str(record.signature)
    assert "at most 40 rows, chosen at random with seed 3" in shown


def test_an_older_record_has_one_number_for_both() -> None:
    record = made_record(examples=285, rows=285)
    value = {**record.to_json(), "schema": 1, "items_sha256": None}
    for name in ("kind", "rows", "outcomes_sha256"):
        del value[name]
    value["data"] = {**record.data, "road": record.data["source"]}
    del value["data"]["source"]
    assert Record.from_json(value, "old.json") == record


def test_a_record_whose_rows_were_changed_is_refused() -> None:
    value = made_record(examples=273, rows=285).to_json()
    with pytest.raises(RecordError, match="was changed: its signature does not fit"):
        Record.from_json({**value, "rows": 280}, "new.json")
