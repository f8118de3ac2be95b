"""WMT-14: requests, where an answer ends, and BLEU and chrF compared with sacrebleu's."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import pytest
import sacrebleu
from sacrebleu.dataset import DATASETS
from sacrebleu.metrics.bleu import BLEU
from speaker import asked, job_of, options_of, run, said, values, with_pairs

from harness.core import Generate, Source
from harness.data.load import Where, load, load_pool
from harness.errors import DataError
from harness.plugins.registry import load_task
from harness.runner import Job
from harness.tasks import wmt14

DIRECTIONS = ("wmt14-en-fr", "wmt14-fr-en")
ROW = {"en": "The dog {1}.", "fr": " Le chien {1}. "}
PAIR = {"en": "A cat = one.", "fr": "Un chat."}


# --- requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "changes", "prompt", "new", "draws"),
    [
        ("wmt14-en-fr", {}, "A cat = one. = Un chat.\nThe dog {1}. =", 100, 3),
        ("wmt14-fr-en", {}, "Un chat. = A cat = one.\nLe chien {1}. =", 100, 3),
        ("wmt14-en-fr", {"shots": "0"}, "The dog {1}. =", 100, 3),
        (
            "wmt14-fr-en",
            {"draws": "1", "max_new": "7"},
            "Un chat. = A cat = one.\nLe chien {1}. =",
            7,
            1,
        ),
        (
            "wmt14-en-fr",
            {"cut": "newline", "tokenize": "intl", "bos": "none"},
            "A cat = one. = Un chat.\nThe dog {1}. =",
            100,
            3,
        ),
    ],
)
def test_requests(task: str, changes: dict[str, str], prompt: str, new: int, draws: int) -> None:
    wanted = Generate((prompt,), new, stop=("\n",), top_k=1, seed=(0, 0), overflow="left")
    assert asked(with_pairs(job_of(task, [ROW], **changes), [PAIR])) == [wanted] * draws


def words(count: int) -> str:
    return " ".join(["a"] * count)


@pytest.mark.parametrize(("task", "source", "target"), [(*DIRECTIONS[:1], "en", "fr"),
                                                       (*DIRECTIONS[1:], "fr", "en")])  # fmt: skip
def test_example_sentences_have_at_most_thirty_words(task: str, source: str, target: str) -> None:
    """Of the source side; how long their translations are does not matter."""
    short = [{source: words(30 - n), target: f"{n} {words(60)}"} for n in range(3)]
    long = [{source: words(31 + n), target: "x"} for n in range(50)]
    for request in asked(with_pairs(job_of(task, [ROW], draws="9"), short + long)):
        lines = request.prompt.split("\n")[:-1]
        assert sorted(lines) == sorted(f"{pair[source]} = {pair[target]}" for pair in short)


def test_long_examples_are_better_than_none() -> None:
    pairs = [{"en": words(40 + n), "fr": "x"} for n in range(2)]
    request = asked(with_pairs(job_of("wmt14-en-fr", [ROW]), pairs))[0]
    assert request.prompt.count(" = x\n") == 2


# --- files ----------------------------------------------------------------------------------

ENGLISH = '<srcset setid="t" srclang="any">\n<doc docid="d">\n<p>\n{}\n</p></doc></srcset>\n'
FRENCH = '<refset setid="t" srclang="any" trglang="fr">\n<doc docid="d">\n{}\n</doc></refset>\n'


@pytest.mark.parametrize(
    ("english", "french", "rows"),
    [
        ("A cat.\nTwo\n", "Un chat.\nDeux\n", [("A cat.", "Un chat."), ("Two", "Deux")]),
        ("A\r\nB", " é \r\n d", [("A", " é "), ("B", " d")]),
        (
            "A\u2028b \x85c\x0b d\n &amp; <b>\n",
            "e\x0cf\n<|endoftext|>\n",
            [("A\u2028b \x85c\x0b d", "e\x0cf"), (" &amp; <b>", "<|endoftext|>")],
        ),
        (
            ENGLISH.format('<seg id="1"> A &amp; b &lt;c&gt; </seg>\n<seg id="2">D</seg>'),
            FRENCH.format('<seg id="1">&quot;É&quot;</seg><seg id="2"> f\u2028 </seg>'),
            [("A & b <c>", '"É"'), ("D", "f")],
        ),
    ],
    ids=["lines", "carriage returns", "other line breaks", "sgm"],
)
def test_layouts(english: str, french: str, rows: list[tuple[str, str]]) -> None:
    wanted = [{"en": en, "fr": fr} for en, fr in rows]
    assert wmt14.parse(english.encode(), french.encode()) == wanted


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        text = "<seg id='1'>x</seg>" if name.endswith("sgm") else "x\n"
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("english", "french"),
    [
        ("newstest2014.en", "newstest2014.fr"),
        ("newstest2014-fren-src.en.sgm", "newstest2014-fren-ref.fr.sgm"),
    ],
)
def test_the_french_file_is_taken_from_beside_the_english_one(
    tmp_path: Path, english: str, french: str
) -> None:
    data = load(wmt14.TEST, Where(folder=fill(tmp_path, english, french)))
    assert (data.name, data.rows[0].fields) == (english, {"en": "x", "fr": "x"})
    assert data.warnings == (f"{english} has 1 rows, the published data 3003",)
    (tmp_path / french).write_text((tmp_path / french).read_text().replace("x", "y"))
    assert load(wmt14.TEST, Where(folder=tmp_path)).sha256 != data.sha256, "both are in it"


@pytest.mark.parametrize(
    ("source", "archive"), [(wmt14.TEST, "wmt14/full"), (wmt14.POOL, "wmt13")], ids=["2014", "2013"]
)
def test_the_published_archives_file_names_are_known(
    tmp_path: Path, source: Source, archive: str
) -> None:
    """Those that sacrebleu takes out of the archive that we name as the origin."""
    dataset = DATASETS[archive]
    assert any(source.origin.removeprefix("https://www.") in url for url in dataset.data or ())
    pair = dataset.langpairs["en-fr"]
    assert pair is not None
    names = [Path(name).name for name in pair]
    data = load(source, Where(folder=fill(tmp_path, *names)))
    assert data.rows[0].fields == {"en": "x", "fr": "x"}


def test_half_of_the_pairs_is_refused(tmp_path: Path) -> None:
    where = Where(folder=fill(tmp_path, "newstest2014.en"))
    with pytest.raises(
        DataError, match=r"^newstest2014.en has half of every row; .* next to it in"
    ):
        load(wmt14.TEST, where)
    french = fill(tmp_path, "newstest2014.fr") / "newstest2014.fr"
    with pytest.raises(DataError, match=r"^newstest2014.fr has half of every row"):
        load(wmt14.TEST, Where(file=french))


@pytest.mark.parametrize(
    ("english", "french", "message"),
    [
        (b"a\nb\n", b"c\n", "expected as many English lines as French ones, got 2 and 1"),
        (b"a\n", b"c\nd", "expected as many English lines as French ones, got 1 and 2"),
        (b"a\n\nb\n", b"c\nd\ne\n", "line 2: expected a sentence in both files, got an empty line"),
        (b"a\nb\n", b"c\n \x0b\n", "line 2: expected a sentence in both files, got an empty line"),
        (b"a\n", "\xe9".encode("latin-1"), "line 1: expected UTF-8, got byte 0xe9"),
    ],
)
def test_wrong_files_are_one_line(
    tmp_path: Path, english: bytes, french: bytes, message: str
) -> None:
    (tmp_path / "newstest2014.en").write_bytes(english)
    (tmp_path / "newstest2014.fr").write_bytes(french)
    with pytest.raises(DataError) as caught:
        load(wmt14.TEST, Where(folder=tmp_path))
    title = "newstest2014.en is not newstest2014, English and French: "
    assert str(caught.value).startswith(title + message)
    assert "\n" not in str(caught.value)


# --- answers and scores ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence", "line"),
    [
        (" Un chat.", "Un chat.", "Un chat."),
        (" Un chat. Deux.\nA dog =", "Un chat.", "Un chat. Deux."),
        (" M. Dupont est là. Bien.", "M. Dupont est là.", "M. Dupont est là. Bien."),
        ("\n Un", "Un", "Un"),
        ("", "", ""),
    ],
)
def test_what_counts_of_an_answer(text: str, sentence: str, line: str) -> None:
    assert wmt14.translation(said(text), options_of("wmt14-en-fr")) == sentence
    whole = options_of("wmt14-en-fr", cut="newline")
    assert wmt14.translation(said(text), whole) == line


REFERENCES = ("Le chat noir dort sur le tapis rouge.", "Il n'a pas 3,5 % de chiens-loups.")
HYPOTHESES = (
    ("Le chat noir dort sur le lit rouge", "Il n'a pas 3,5 % de chiens."),
    ("Le chat dort sur le tapis", "Il a 3.5% de chiens-loups"),
    ("Un chien", "Il n'a pas de chiens-loups"),
)  # fmt: skip


def job(draws: int, tokenize: str = "13a") -> Job:
    rows = [{"en": f"Sentence {n}.", "fr": fr} for n, fr in enumerate(REFERENCES)]
    pairs = [{"en": f"A {n}.", "fr": f"B {n}."} for n in range(40)]
    plain = job_of("wmt14-en-fr", rows, draws=str(draws), tokenize=tokenize)
    return with_pairs(plain, pairs)


def theirs(draw: Sequence[str], tokenize: str = "13a") -> tuple[float, float]:
    """BLEU and chrF of one draw by sacrebleu."""
    references = [list(REFERENCES)]
    bleu = sacrebleu.corpus_bleu(list(draw), references, tokenize=tokenize)
    return bleu.score, sacrebleu.corpus_chrf(list(draw), references).score


@pytest.mark.parametrize("tokenize", ["13a", "intl"])
@pytest.mark.parametrize("draws", [1, 3])
def test_scores_are_sacrebleus(draws: int, tokenize: str) -> None:
    """Mean and standard deviation of the draws' corpus scores."""
    answers = [HYPOTHESES[d][n] for n in range(2) for d in range(draws)]
    record = run(job(draws, tokenize), *answers)
    wanted = [theirs(draw, tokenize) for draw in HYPOTHESES[:draws]]
    found = values(record)
    assert found["bleu"] == pytest.approx(mean(bleu for bleu, _ in wanted))
    assert found["chrf"] == pytest.approx(mean(chrf for _, chrf in wanted))
    if draws > 1:
        assert found["bleu over draws"] == pytest.approx(stdev(bleu for bleu, _ in wanted))
    assert ("bleu over draws" in found) == (draws > 1)
    assert {s.metric: s.column for s in record.scores}["bleu"] == "WMT14 En-Fr BLEU"


def test_the_right_answer_has_all_points() -> None:
    found = values(run(job(1), *(f" {text}\nno" for text in REFERENCES)))
    assert found == {"bleu": pytest.approx(100), "chrf": pytest.approx(100)}


def test_nothing_has_none() -> None:
    found = values(run(job(1), "", " \n"))
    assert found == {"bleu": 0, "chrf": 0}


@pytest.mark.parametrize("tokenize", ["13a", "intl"])
def test_record_has_sacrebleus_signature(tokenize: str) -> None:
    metric = BLEU(tokenize=tokenize)
    metric.corpus_score(["x"], [["x"]])
    notes = run(job(1, tokenize), "x", "y").notes
    assert notes == {"sacrebleu": str(metric.get_signature()).replace("|", ",")}


def test_the_other_direction_fills_the_other_column() -> None:
    rows = [{"en": "The black cat sleeps on it.", "fr": "Le chat noir dort."}]
    back = with_pairs(job_of("wmt14-fr-en", rows, draws="1"), [PAIR])
    record = run(back, "The black cat sleeps on it.")
    assert [s.column for s in record.scores if s.column] == ["WMT14 Fr-En BLEU"]
    assert values(record)["bleu"] == pytest.approx(100)


# --- real files -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", DIRECTIONS)
def test_the_pool_is_built_in_where_the_folder_has_none(data_dir: Path, task: str) -> None:
    benchmark = load_task(task)
    data = load(benchmark.source(options_of(task)), Where(folder=data_dir), strict=True)
    assert len(data.rows) == 3003
    few_shot = benchmark.few_shot
    assert few_shot is not None
    found = load_pool(few_shot.source(options_of(task)), Where(folder=data_dir))
    assert (found.source_kind, len(found.rows)) == ("sample", 12)
