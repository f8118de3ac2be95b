"""`harness overlap`: shares against a naive script, scores with and without overlap, refusals."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import naive_ngrams
import pytest
from console import harness, refused

from harness.commands.evaluate.session import job_for
from harness.commands.inspect.options import SearchOptions
from harness.commands.options import DataOptions
from harness.overlap import scan
from harness.overlap.example_text import ExampleText, align_to_characters, example_texts
from harness.overlap.shares import LARGE_PERCENT, PAPER_CORPORA, published
from harness.plugins.registry import load_task
from harness.runner import Job

ALL_PROBES = scan.PROBES
SHAKESPEARE = "tinyshakespeare/input.txt"


def asked(*words: object) -> dict[str, Any]:
    """What `harness overlap WORDS --json` prints."""
    result = harness("overlap", *words, "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


@pytest.fixture(autouse=True)
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "PROBES", 60_000)


def sample_job(name: str, **options: str) -> Job:
    task = load_task(name)
    return job_for(task, task.protocol(overrides=options), DataOptions(sample=True))


def sample_items(name: str, **options: str) -> list[ExampleText]:
    return example_texts(sample_job(name, **options))


def text_of(item: ExampleText) -> str:
    return b"".join(item.pieces).decode()


# --- which text counts ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begins", "ends"),
    [
        ("lambada", "\nThe ferry had stopped", "another step, Maren"),
        ("cbt-cn", "Once upon a time", "and he bought the whole sack."),
        ("winograd", "Ines lent Rosa a bicycle because Ines had two.", "because Ines had two."),
        ("nq", "Q: Who discovered the element radium", "\nA: Pierre Curie"),
        ("wmt14-en-fr", "The mayor of Ostrel said", "avant la fin de l'année."),
        ("cnn-dm", "(INW)A retired postman", "other overdue books have come back ."),
        ("coqa", "Nella had a small yellow kite", "Q: Where did they find it?\nA:"),
    ],
)
def test_an_item_is_what_is_asked_and_its_answer(name: str, begins: str, ends: str) -> None:
    text = text_of(sample_items(name)[0])
    assert text.startswith(begins)
    assert text.endswith(ends)


def test_choices_count_once_with_the_right_one() -> None:
    rows = sample_job("cbt-cn").data.rows
    for row, item in zip(rows, sample_items("cbt-cn", detok="off"), strict=True):
        found = naive_ngrams.words(text_of(item))
        whole = [*row.fields["sentences"], row.fields["query"]]
        text = " ".join(whole).replace("XXXXX", row.fields["answer"])
        assert found == naive_ngrams.words(text)


def test_running_text_has_its_lines_as_parts_and_no_half_characters() -> None:
    [item] = sample_items("ptb")
    assert all(piece.endswith(b"\n") for piece in item.pieces)
    cut = align_to_characters(["né".encode()[:2], "né".encode()[2:], b"", b"\xb2\xb2x"])
    assert cut == ("né".encode(), b"", b"\xb2\xb2", b"x")


# --- shares -----------------------------------------------------------------------------


def test_every_item_is_counted_as_the_naive_way_does(tmp_path: Path) -> None:
    texts = list(map(text_of, sample_items("lambada")))
    corpus = tmp_path / "corpus.jsonl"
    documents = [texts[1].upper(), " ".join(texts[3].split()[5:20]), "nothing of the kind"]
    corpus.write_text("".join(json.dumps({"body": text}) + "\n" for text in documents), "utf-8")
    words = ("lambada", "--sample", "--field", "body", "--corpus", corpus, "--ngram", 5)
    out = tmp_path / "items.csv"
    found = asked(*words, "--out", out)
    expected = [naive_ngrams.share([text], documents, 5) for text in texts]
    [task] = found["tasks"]
    assert [(i["grams"], i["found"]) for i in task["items"]] == expected
    assert 0 < task["found"] < task["grams"]
    assert task["percent"] == 100 * sum(f for _, f in expected) / sum(g for g, _ in expected)
    distinct = {gram for text in texts for gram in naive_ngrams.grams(text, 5)}
    assert task["distinct"] == len(distinct)
    rows = list(csv.DictReader(out.read_text("utf-8").splitlines()))
    assert [(int(row["grams"]), int(row["found"])) for row in rows] == expected
    assert [row["item"] for row in rows] == [str(n) for n in range(len(texts))]
    bloom = asked(*words, "--backend", "bloom")
    assert bloom["tasks"] == found["tasks"]
    assert bloom["filter"]["positives"] == 0
    assert found["filter"] is None


def test_an_ngram_of_running_text_belongs_to_the_line_it_begins_in(tmp_path: Path) -> None:
    [item] = sample_items("ptb")
    lines = [piece.decode() for piece in item.pieces]
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(["", *lines[2:4]]), "utf-8")
    known = set(naive_ngrams.grams(lines[2] + lines[3], 8))
    every = naive_ngrams.grams("".join(lines), 8)
    place = [k for k, line in enumerate(lines) for _ in naive_ngrams.words(line)][: len(every)]
    expected = [
        (place.count(k), sum(p == k and g in known for p, g in zip(place, every, strict=True)))
        for k in range(len(lines))
    ]
    [task] = asked("ptb", "--sample", "--corpus", corpus)["tasks"]
    assert [(i["part"], i["grams"], i["found"]) for i in task["items"]] == [
        (k, *pair) for k, pair in enumerate(expected)
    ]


@pytest.mark.slow
def test_several_benchmarks_files_and_processes_come_to_the_same(tmp_path: Path) -> None:
    files = []
    for k, item in enumerate(sample_items("lambada")[:5]):
        files.append(tmp_path / f"{k}.txt")
        files[-1].write_text(text_of(item), "utf-8")
    together = asked("lambada,ptb", "--sample", "--corpus", *files, "--workers", 2)
    alone = [asked(name, "--sample", "--corpus", *files)["tasks"][0] for name in ("lambada", "ptb")]
    assert together["tasks"] == alone
    assert together["bytes"] == sum(path.stat().st_size + 1 for path in files)
    words = ("lambada,ptb", "--sample", "--corpus", *files, "--workers", 2, "--backend", "bloom")
    assert asked(*words)["tasks"] == alone


def test_a_benchmark_is_its_own_corpus_and_another_s() -> None:
    own, other = asked("lambada,ptb", "--sample", "--against", "lambada")["tasks"]
    assert own["percent"] == 100.0
    assert other["percent"] == 0.0


def test_the_table_has_the_paper_s_numbers() -> None:
    result = harness("overlap", "ptb,lm1b", "--sample", "--against", "ptb")
    lines = result.out.splitlines()
    [header] = [line.split() for line in lines if "ptb" in line]
    assert header == ["ptb", "lm1b", "mean"]
    rows = {line[:27].strip(): line[27:].split() for line in lines if line.startswith("paper")}
    assert rows == {
        f"paper, {corpus}": [
            *(f"{value:.2f}" for value in values),
            f"{sum(values) / 2:.2f}",
        ]
        for corpus in PAPER_CORPORA
        if (values := [published()[task, corpus] for task in ("ptb", "lm1b")])
    }
    assert (
        "paper" not in harness("overlap", "ptb", "--sample", "--against", "ptb", "--ngram", 13).out
    )


# --- scores with and without ------------------------------------------------------------


def test_scores_are_those_of_the_items_alone(tiny_folder: Path, tmp_path: Path) -> None:
    runs, corpus = tmp_path / "runs", tmp_path / "corpus.txt"
    run = harness("lambada", "--model", tiny_folder, "--sample", "--no-cache", "--out", runs)
    assert run.code == 0
    texts = list(map(text_of, sample_items("lambada")))
    corpus.write_text(texts[0] + "\n" + " ".join(texts[2].split()[:9]), "utf-8")
    found = asked("lambada", "--sample", "--corpus", corpus, "--record", runs)
    [record] = [json.loads(p.read_text("utf-8")) for p in runs.rglob("*.json")]
    dump = {(line["metric"], line["group"]): line for line in found["subsets"]}
    for score in record["scores"]:
        if score["column"]:
            line = dump[score["metric"], "all"]
            assert [line[k] for k in ("value", "low", "high")] == [
                score[k] for k in ("value", "low", "high")
            ]
    counts = [dump["ppl", g]["outcomes"] for g in ("all", "no overlap", "any overlap", "over 15 %")]
    assert counts == [len(texts), len(texts) - 2, 2, 1]
    kept = tmp_path / "kept.jsonl"
    rows = (Path("tasks/samples") / "lambada_test.jsonl").read_text("utf-8").splitlines()
    kept.write_text("\n".join(rows[:1] + rows[2:3]) + "\n", "utf-8")
    words = ("--model", tiny_folder, "--data-file", kept, "--no-cache", "--out", tmp_path / "two")
    two = json.loads(harness("lambada", *words, "--json").out)["records"][0]["scores"]
    for score in two:
        if score["column"]:
            line = dump[score["metric"], "any overlap"]
            assert line["value"] == pytest.approx(score["value"], rel=1e-4)
            assert line["low"] == pytest.approx(score["low"], rel=1e-4)
    shown = harness("overlap", "lambada", "--sample", "--corpus", corpus, "--record", runs).out
    assert "no overlap" in shown


def test_lines_of_running_text_are_told_apart(tiny_folder: Path, tmp_path: Path) -> None:
    runs, corpus = tmp_path / "runs", tmp_path / "corpus.txt"
    run = harness("ptb", "--model", tiny_folder, "--sample", "--no-cache", "--out", runs)
    assert run.code == 0
    [item] = sample_items("ptb")
    corpus.write_bytes(item.pieces[1])
    lines = asked("ptb", "--sample", "--corpus", corpus, "--record", runs)["subsets"]
    counts = {line["group"]: line["outcomes"] for line in lines}
    assert counts["all"] == len(item.pieces) == counts["no overlap"] + counts["any overlap"]
    assert counts["any overlap"] == 1
    stride = asked("ptb", "--sample", "--corpus", corpus, "--record", runs, "--set", "stride=32")
    assert stride["subsets"] == lines
    other = ("overlap", "ptb", "--sample", "--corpus", corpus, "--record", runs)
    assert "no record in --record has these texts of ptb" in refused(*other, "--set", "detok=none")
    assert "--set detok is ptb there, none here" in harness(*other, "--set", "detok=none").err
    assert "has these texts" in refused("overlap", "lambada", *other[2:])


# --- the page ---------------------------------------------------------------------------


def test_constants_stated_on_the_page() -> None:
    text = " ".join((Path(__file__).parents[1] / "docs" / "overlap.md").read_text("utf-8").split())
    defaults = SearchOptions()
    assert f"false-positive rate, {defaults.rate:g} as".replace("e-0", "e-") in text
    assert f"takes {-math.log(defaults.rate) / math.log(2) ** 2:.1f} bits per n-gram" in text
    assert f"with more than {LARGE_PERCENT:g} %" in text
    assert "n-grams** have eight words" in text
    assert defaults.ngram == 8
    assert "a million n-grams of random words" in text
    assert ALL_PROBES == 1_000_000


# --- refusals ---------------------------------------------------------------------------


def test_what_is_wrong_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = ("overlap", "lambada", "--sample")
    assert "give --corpus FILES or --against TASK" in refused(*sample)
    assert "no file" in refused(*sample, "--corpus", tmp_path / "none.txt")
    assert "no file" in refused(*sample, "--corpus", tmp_path)
    assert "lambada" in refused("overlap", "lambda", "--sample", "--against", "ptb")
    assert "of one task" in refused("overlap", "ptb,lambada", "--data-file", "x.txt",
                                         "--against", "ptb")  # fmt: skip
    assert "no record in" in refused(*sample, "--against", "ptb", "--record", tmp_path)
    assert "--rate" in refused(*sample, "--against", "ptb", "--rate", "nan")
    assert "cannot write" in refused(*sample, "--against", "ptb", "--out", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refused(*sample, "--against", "ptb", "--backend", "bloom")
    assert message.endswith("pip install 'zero-shot-harness[overlap]'")


# --- real files -------------------------------------------------------------------------


def raw(data_dir: Path, name: str) -> list[str]:
    """A test set as its file has it: one running text, or one text per example."""
    if name == "ptb":
        return [(data_dir / "ptb" / "ptb.test.txt").read_text("utf-8")]
    if name == "wikitext2":
        return [(data_dir / "wikitext-2" / "wiki.test.tokens").read_text("utf-8")]
    lines = (data_dir / "lambada" / "lambada_test.jsonl").read_text("utf-8").split("\n")
    return [json.loads(line)["text"] for line in lines if line]


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["ptb", "wikitext2", "lambada", SHAKESPEARE])
def test_real_test_sets_against_each_other(data_dir: Path, corpus: str) -> None:
    names = ["ptb", "wikitext2", "lambada"]
    if not all(
        (data_dir / name).exists() for name in ("ptb", "wikitext-2", "lambada", SHAKESPEARE)
    ):
        pytest.skip("HARNESS_DATA lacks PTB, WikiText-2, LAMBADA or tiny Shakespeare")
    is_file = corpus == SHAKESPEARE
    where = ("--corpus", data_dir / corpus) if is_file else ("--against", corpus)
    known = [(data_dir / corpus).read_text("utf-8")] if is_file else raw(data_dir, corpus)
    words = (",".join(names), "--data-dir", data_dir, "--set", "detok=none", *where)
    tasks = asked(*words)["tasks"]
    for name, task in zip(names, tasks, strict=True):
        assert (task["grams"], task["found"]) == naive_ngrams.share(raw(data_dir, name), known, 8)
    if corpus == "wikitext2":
        bloom = asked(*words, "--backend", "bloom")
        assert bloom["tasks"] == tasks
        assert bloom["filter"]["rate"] <= 1e-8


def test_wikitext_against_its_validation_set(data_dir: Path) -> None:
    """The one pair of splits at hand; articles that differ, so that few 8-grams are in both."""
    corpus = data_dir / "wikitext-2" / "wiki.valid.tokens"
    if not corpus.exists():
        pytest.skip("HARNESS_DATA lacks wikitext-2/wiki.valid.tokens")
    words = ("--data-dir", data_dir, "--set", "detok=none", "--corpus", corpus)
    [task] = asked("wikitext2", *words)["tasks"]
    expected = naive_ngrams.share(raw(data_dir, "wikitext2"), [corpus.read_text("utf-8")], 8)
    assert (task["grams"], task["found"]) == expected
    assert task["found"] > 0
