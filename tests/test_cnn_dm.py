"""CNN/DailyMail: requests, summaries, ROUGE by hand, and the model-free systems."""

import csv
import io
from pathlib import Path
from statistics import mean, stdev

import pytest
from rouge_score.rouge_scorer import RougeScorer
from speaker import Speaker, asked, job_of, options_of, run, said, values

from harness.core import Example, Fields, Generate, Request, Response
from harness.data.load import Where, load
from harness.errors import DataError
from harness.metrics.rouge import sentences
from harness.records.record import Record
from harness.runner import evaluate
from harness.tasks import cnn_dm


def row(article: str = "One. Two.", highlights: str = "One .\nTwo .") -> Fields:
    return {"article": article, "highlights": highlights, "id": "0f"}


# --- requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "changes", "hint", "new", "top_k", "seeds", "overflow"),
    [
        ("paper", {}, "\nTL;DR:", 100, 2, 3, "right"),
        ("no-hint", {}, "\n", 100, 2, 3, "right"),
        ("paper", {"hint": "space"}, " TL;DR:", 100, 2, 3, "right"),
        ("paper", {"hint": "none", "keep": "tail"}, "\n", 100, 2, 3, "left"),
        ("paper", {"k": "5", "seeds": "2", "max_new": "60"}, "\nTL;DR:", 60, 5, 2, "right"),
        ("paper", {"k": "1"}, "\nTL;DR:", 100, 1, 1, "right"),  # greedy: all seeds are one
        ("paper", {"sentences": "2", "stem": "on", "bos": "none"}, "\nTL;DR:", 100, 2, 3, "right"),
    ],
)
def test_requests(
    preset: str,
    changes: dict[str, str],
    hint: str,
    new: int,
    top_k: int,
    seeds: int,
    overflow: str,
) -> None:
    wanted = [
        Generate(("One. {Two}.", hint), new, (), top_k, (0, seed), overflow)  # type: ignore[arg-type]
        for seed in range(seeds)
    ]
    assert asked(job_of("cnn-dm", [row(" One. {Two}.\n")], preset, **changes)) == wanted


# --- files ----------------------------------------------------------------------------------

NESTED = 'He said: "No,\r\nnever."\n\rOdd \x85 \u2028 \x0b <|endoftext|> lines'


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ("article,highlights,id\nOne. Two.,One .,a1\n", [("One. Two.", "One .", "a1")]),
        (
            'id,other,highlights,article\r\na1,x,"One .\nTwo .","A, ""b"",\nc."\r\na2,,C .,D.\r\n',
            [('A, "b",\nc.', "One .\nTwo .", "a1"), ("D.", "C .", "a2")],
        ),
        (
            f'article,highlights,id\n"{NESTED.replace(chr(34), chr(34) * 2)}",One .,\n',
            [(NESTED, "One .", "")],
        ),
    ],
)
def test_layouts(content: str, rows: list[tuple[str, str, str]]) -> None:
    wanted = [dict(zip(("article", "highlights", "id"), cells, strict=True)) for cells in rows]
    assert cnn_dm.parse(content.encode()) == wanted


@pytest.mark.parametrize(
    "inside",
    [",", '"', "\n", "\r\n", "\r", "\x85", "\u2028", "\x0b", "\x0c", "'"],
    ids=repr,
)
def test_rows_of_the_hub_become_the_file_and_rows_again(inside: str) -> None:
    rows = [dict.fromkeys(cnn_dm.COLUMNS, text) for text in (f"a{inside}b", f"{inside}c{inside}")]
    assert cnn_dm.parse(cnn_dm.restore(rows)) == rows


def test_an_article_of_any_length() -> None:
    article = "One sentence. " * 20_000
    assert cnn_dm.parse(cnn_dm.restore([row(article)])) == [row(article)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "article,summary\na,b\n",
            "line 1: expected the columns article, highlights, id, got 'art",
        ),
        ("One. Two.\n", "line 1: expected the columns article, highlights, id, got 'One. Two.'"),
        (
            "article,highlights,id\nOne.,One .,a\n  ,Two .,b\n",
            "row 2: expected text in the column article, got none",
        ),
        (
            'article,highlights,id\n"One\n\nmore.",One .,a\nTwo.,,b\n',
            "row 2: expected text in the column highlights, got none",
        ),
        ("article,highlights,id\nOne.\n", "row 1: expected as many cells as columns"),
        ("article,highlights,id\nOne.,Two .,a,b\n", "row 1: expected as many cells as columns"),
        (
            'article,highlights,id\n"One.,One .,a\nTwo.,Two .,b\n',
            "row 1: unexpected end of data",
        ),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "mine.csv").write_text(content)
    with pytest.raises(DataError) as caught:
        load(cnn_dm.SOURCE, Where(file=tmp_path / "mine.csv"))
    title = "CNN/DailyMail test set, version 3.0.0, as CSV"
    assert str(caught.value).startswith(f"mine.csv is not {title}: {words}")
    assert "\n" not in str(caught.value)


# --- the model's summaries ------------------------------------------------------------------


def test_scores_by_hand() -> None:
    """ROUGE-1, -2 and -L of three samples: all right, one word of two, nothing."""
    record = run(job_of("cnn-dm", [row(highlights="one two")]), " One two.", " One x.", " No")
    found = values(record)
    assert found["rouge-1"] == pytest.approx(100 * (1 + 1 / 2 + 0) / 3)
    assert found["rouge-2"] == pytest.approx(100 * (1 + 0 + 0) / 3)
    assert found["rouge-l"] == pytest.approx(100 * (1 + 1 / 2 + 0) / 3)
    averages = [100.0, 100 / 3, 0.0]
    assert found["rouge-avg"] == pytest.approx(mean(averages))
    assert found["rouge-avg over seeds"] == pytest.approx(stdev(averages))
    columns = {score.metric: score.column for score in record.scores if score.column}
    assert columns == {
        "rouge-1": "CNN/DM 1", "rouge-2": "CNN/DM 2", "rouge-l": "CNN/DM L",
        "rouge-avg": "CNN/DM AVG",
    }  # fmt: skip


def test_stems_are_compared_where_that_is_asked_for() -> None:
    rows = [row("Cat runs. Cats.", "cat runs")]
    found = values(run(job_of("cnn-dm", rows, k="1"), " Cats running."))
    stemmed = values(run(job_of("cnn-dm", rows, k="1", stem="on"), " Cats running."))
    assert (found["rouge-avg"], stemmed["rouge-avg"]) == (0, 100)


def test_articles_are_averaged_not_pooled() -> None:
    rows = [row("A.", "one"), row("B.", "one two three four")]
    found = values(run(job_of("cnn-dm", rows, k="1"), "one", "one two"))
    assert found["rouge-1"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert "rouge-avg over seeds" not in found, "one sample has no spread"


@pytest.mark.parametrize(("count", "words"), [("1", 1), ("3", 3), ("9", 4)])
def test_so_many_sentences_count(count: str, words: int) -> None:
    """The last one is unfinished, and counts where there are too few before it."""
    job = job_of("cnn-dm", [row(highlights="one")], k="1", sentences=count)
    found = values(run(job, " One is. Two is. Three is. Four is"))
    precision = 1 / (2 * words)
    assert found["rouge-1"] == pytest.approx(100 * 2 * precision / (precision + 1))


def test_a_sentence_is_one_line_for_rouge_l() -> None:
    """A line break inside a sentence makes no second one: `sleep day` against `day sleep`."""
    rows = [row(highlights="day sleep")]
    found = values(run(job_of("cnn-dm", rows, k="1"), " They sleep\nall day."))
    apart = values(run(job_of("cnn-dm", rows, k="1"), " They sleep all day."))
    assert found == apart


@pytest.mark.parametrize("stem", ["off", "on"])
def test_record_names_its_tools(stem: str) -> None:
    notes = run(job_of("cnn-dm", [row()], k="1", stem=stem), "x").notes
    wanted = "Porter stemmer" if stem == "on" else "no stemmer"
    assert notes == {
        "sentence splitter": "sentencex",
        "ROUGE": f"rouge-score, rougeLsum for L, {wanted}",
    }


# --- systems without a model ----------------------------------------------------------------

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
ARTICLE = " ".join(f"Number {name} is here." for name in NUMBERS)


def baselines(record: Record) -> list[object]:
    return [score for score in record.scores if score.baseline]


@pytest.mark.parametrize("changes", [{}, {"k": "1"}, {"hint": "none"}, {"keep": "tail"}])
def test_baselines_are_the_same_whatever_the_model_says(changes: dict[str, str]) -> None:
    rows = [row(ARTICLE, "Number two ."), row("Cats. Dogs. Cows. Hens.", "Cows .")]

    def shout(request: Request) -> Response:
        assert isinstance(request, Generate)
        return said(request.parts[0] * 2)

    speakers = [Speaker(lambda request: said("")), Speaker(shout)]
    silent, loud = (evaluate(job_of("cnn-dm", rows, **changes), s) for s in speakers)
    assert baselines(silent) == baselines(loud)
    assert len(baselines(silent)) == 8
    assert values(silent)["rouge-1"] == 0 < values(loud)["rouge-1"]
    plain = evaluate(job_of("cnn-dm", rows), speakers[0])
    assert baselines(silent) == baselines(plain), "nor the requests"


def test_lede_by_hand() -> None:
    """12 words, 3 of 4 wanted: Number, two, is."""
    record = run(job_of("cnn-dm", [row(ARTICLE, "Number two is big .")], k="1"), "x")
    precision, recall = 3 / 12, 3 / 4
    wanted = 100 * 2 * precision * recall / (precision + recall)
    assert values(record)["lede-3 rouge-1"] == pytest.approx(wanted)
    scores = [score for score in record.scores if score.baseline]
    assert {score.baseline for score in scores} == {"lede-3", "random-3"}
    assert {score.column for score in scores} == {None}, "they fill no column of the paper's"


def test_fewer_sentences_give_the_systems_their_names() -> None:
    record = run(job_of("cnn-dm", [row(ARTICLE, "Number one .")], k="1", sentences="1"), "x")
    assert {score.baseline for score in record.scores} == {None, "lede-1", "random-1"}
    assert values(record)["lede-1 rouge-1"] == pytest.approx(100 * 2 * (2 / 4) / (2 / 4 + 1))


def drawn(articles: int) -> list[tuple[int, ...]]:
    """Which sentences random-3 takes of each article, seen through single-word highlights."""
    found: list[tuple[int, ...]] = []
    measures = {m.name: m for m in cnn_dm.measures(options_of("cnn-dm"))}
    extract = measures["random-3 rouge-1"].extract
    for number in range(articles):
        example = Example(str(number), {"article": ARTICLE})
        hits = [
            i
            for i, name in enumerate(NUMBERS)
            if extract(Example(example.id, example.fields, (name,)), [])[0][0] > 0
        ]
        found.append(tuple(hits))
    return found


def test_random_sentences_are_three_each_as_likely_as_another() -> None:
    found = drawn(400)
    assert all(len(three) == 3 for three in found)
    assert drawn(5) == found[:5], "an article keeps its draw"
    taken = [sum(i in three for three in found) for i in range(len(NUMBERS))]
    # each sentence 150 times on average; four standard deviations
    assert all(abs(count - 150) <= 39 for count in taken)


def test_a_short_article_is_its_own_summary() -> None:
    record = run(job_of("cnn-dm", [row("One. Two.", "one two")], k="1"), "x")
    assert values(record)["random-3 rouge-l"] == values(record)["lede-3 rouge-l"] == 100


# --- real files -----------------------------------------------------------------------------


def test_lede_3_on_real_articles_is_that_of_a_plain_loop(data_dir: Path) -> None:
    data = load(cnn_dm.SOURCE, Where(folder=data_dir))
    assert data.warnings == (f"{data.name} has 500 rows, the published data 11490",)
    path = data_dir / "cnn_dailymail" / data.name
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(io.StringIO(file.read(), newline="")))
    scorer = RougeScorer(["rouge1", "rouge2", "rougeLsum"])
    names = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeLsum"}
    picked = range(0, 500, 25)
    found = values(run(job_of("cnn-dm", [data.rows[i].fields for i in picked], k="1"), *"x" * 20))
    summaries = ["\n".join(sentences(rows[i]["article"])[:3]) for i in picked]
    for ours, theirs in names.items():
        scores = [
            scorer.score(rows[i]["highlights"], summary)[theirs].fmeasure
            for i, summary in zip(picked, summaries, strict=True)
        ]
        assert found[f"lede-3 {ours}"] == pytest.approx(100 * mean(scores))
