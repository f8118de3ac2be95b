"""The three sources of rows: which file is read, and the errors if there is none."""

import hashlib
import re
import zipfile
from importlib import resources
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import Hub, Source
from harness.data.load import Where, load, load_pool
from harness.data.parsers import json_lines, stretches, text_lines
from harness.errors import DataError
from harness.plugins.registry import load_task
from harness.tasks import nq
from harness.tasks.shared import wikipedia_dump


def source(task: str, **options: str) -> Source:
    benchmark = load_task(task)
    return benchmark.source(benchmark.protocol("paper", options).options)


SOME = Source(
    title="some lines",
    files=("some.txt", "some.*.slice"),
    parse=text_lines,
    sample="samples/ptb.test.txt",
    origin="https://example.org/some.txt",
    sha256=(hashlib.sha256(b"one\ntwo\n").hexdigest(),),
    rows=2,
    hub=Hub("owner/some", "test/0000.parquet", "0" * 40),
)


def put(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode())
    return folder


# --- which file ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "files", "taken"),
    [
        ("ptb", ["ptb.test.txt"], "ptb.test.txt"),
        ("ptb", ["any/ptb.test.txt"], "any/ptb.test.txt"),
        ("ptb", ["ptb.test.txt", "any/ptb.test.txt"], "ptb.test.txt"),
        ("ptb", ["deep/er/ptb.test.txt", "ptb.valid.txt"], None),
        ("cbt-cn", ["cbt/cbtest_CN_valid.slice.txt"], "cbt/cbtest_CN_valid.slice.txt"),
        (
            "cbt-cn",
            ["cbtest_CN_valid.slice.txt", "x/cbtest_CN_valid_2000ex.txt"],
            "x/cbtest_CN_valid_2000ex.txt",
        ),
        ("cbt-ne", ["cbtest_CN_valid_2000ex.txt", "cbtest_NE_test_2500ex.txt"], None),
        ("enwik8", ["enwik8/enwik8.first1000000"], "enwik8/enwik8.first1000000"),
        ("enwik8", ["enwik8/enwik8.zip", "enwik8/enwik8.first1000000"], "enwik8/enwik8.zip"),
        ("enwik8", ["enwik8/enwik8", "enwik8.zip"], "enwik8/enwik8"),
        ("text8", ["text8.first1000000"], "text8.first1000000"),
        ("lm1b", ["1b/news.en.heldout-00012-of-00050"], "1b/news.en.heldout-00012-of-00050"),
        (
            "lm1b",
            ["news.en.heldout-00012-of-00050", "1b/news.en.heldout-00000-of-00050"],
            "1b/news.en.heldout-00000-of-00050",
        ),
        ("wikitext2", ["wikitext-2/wiki.test.tokens"], "wikitext-2/wiki.test.tokens"),
        ("wikitext2", ["wikitext-2-v1/wiki.test.tokens"], "wikitext-2-v1/wiki.test.tokens"),
        ("wikitext2", ["wiki.test.tokens"], "wiki.test.tokens"),
        # the other data set's file has the same name and must never be taken for this one's
        ("wikitext2", ["wikitext-103/wiki.test.tokens"], None),
        ("wikitext103", ["wikitext-2/wiki.test.tokens", "other/wiki.test.tokens"], None),
        (
            "wikitext103",
            ["wikitext-2/wiki.test.tokens", "wikitext-103/wiki.test.tokens"],
            "wikitext-103/wiki.test.tokens",
        ),
    ],
)
def test_which_file_is_taken(
    tmp_path: Path, task: str, files: list[str], taken: str | None
) -> None:
    wanted = source(task)
    content = (resources.files(wanted.package) / wanted.sample).read_bytes()
    for name in files:
        put(tmp_path, {name: ""})
        if not name.endswith(".zip"):
            (tmp_path / name).write_bytes(content + name.encode() if task == "ptb" else content)
        else:
            with zipfile.ZipFile(tmp_path / name, "w") as archive:
                archive.writestr("enwik8", content)
    if taken is None:
        with pytest.raises(DataError, match="no data for "):
            load(wanted, Where(folder=tmp_path))
        return
    data = load(wanted, Where(folder=tmp_path))
    assert (data.source_kind, data.name) == ("file", Path(taken).name)
    assert data.sha256 == hashlib.sha256((tmp_path / taken).read_bytes()).hexdigest()
    assert [row.number for row in data.rows] == list(range(len(data.rows)))


def test_a_file_named_outright(tmp_path: Path) -> None:
    folder = put(tmp_path, {"some.txt": "one\ntwo\n", "mine.dat": "a\nb\nc"})
    data = load(SOME, Where(file=folder / "mine.dat", sample=True, folder=folder))
    assert (data.source_kind, data.name) == ("file", "mine.dat")
    assert [row.fields["text"] for row in data.rows] == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"cannot read '.*gone': No such file .* give --data-file"):
        load(SOME, Where(file=folder / "gone"))
    with pytest.raises(DataError, match="Is a directory; give --data-file a readable file"):
        load(SOME, Where(file=folder))


def test_sample() -> None:
    data = load(SOME, Where(sample=True))
    assert (data.source_kind, data.name, data.warnings) == ("sample", "samples/ptb.test.txt", ())
    assert len(data.rows) == 24
    assert not data.published
    assert load(SOME, Where(sample=True), strict=True) == data


# --- messages -----------------------------------------------------------------------------


def test_nothing_found_names_every_road(tmp_path: Path) -> None:
    words = (
        f"no data for some lines: looked for some.txt or some.*.slice in {str(tmp_path)!r}; get it "
        "from https://example.org/some.txt, or use --hub (owner/some, test/0000.parquet), or "
        "--sample for the built-in rows"
    )
    with pytest.raises(DataError, match=f"^{re.escape(words)}$"):
        load(SOME, Where(folder=tmp_path))
    with pytest.raises(DataError, match=r"some\.\*\.slice in --data-dir \(none was given\); get"):
        load(SOME, Where())


def test_a_split_that_the_hub_lacks_is_not_offered() -> None:
    with pytest.raises(DataError, match=r"text8.zip, or use --sample for the built-in rows$"):
        load(source("text8", split="valid"), Where(hub=True))


def test_wikitext_names_its_folders(tmp_path: Path) -> None:
    words = (
        "looked for wikitext-2/wiki.test.tokens or wikitext-2-v1/wiki.test.tokens or "
        "wiki.test.tokens in"
    )
    with pytest.raises(DataError, match=words):
        load(source("wikitext2"), Where(folder=tmp_path))


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data folder '.*none' does not exist; give --data-dir"):
        load(SOME, Where(folder=tmp_path / "none"))


@pytest.mark.parametrize("task", ["lambada", "cbt-cn", "wikitext2", "ptb", "enwik8", "lm1b"])
def test_empty_file(tmp_path: Path, task: str) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(DataError, match=r"^empty is empty; expected .* \(http"):
        load(source(task), Where(file=tmp_path / "empty"))


@pytest.mark.parametrize("task", ["lambada", "cbt-cn"])
def test_file_without_rows(tmp_path: Path, task: str) -> None:
    file = put(tmp_path, {"blank": "\n\n"}) / "blank"
    with pytest.raises(DataError, match=r"blank has no rows; expected .* \(http"):
        load(source(task), Where(file=file))


@pytest.mark.parametrize("task", ["lambada", "cbt-cn", "wikitext2", "ptb", "lm1b"])
def test_wrong_encoding(tmp_path: Path, task: str) -> None:
    (tmp_path / "latin1").write_bytes("one\ntwo\ncaf\u00e9 au lait\n".encode("latin-1"))
    words = "latin1 is not .*: line 3: expected UTF-8, got byte 0xe9; save the file as UTF-8"
    with pytest.raises(DataError, match=words):
        load(source(task), Where(file=tmp_path / "latin1"))


CONTEXT = "".join(f"{n} A sentence .\n" for n in range(1, 21))
LAST = "21 The XXXXX ran .\tcat\t\ta|b|c|d|e|f|g|h|i|cat\n"


@pytest.mark.parametrize(
    ("task", "content", "words"),
    [
        (
            "lambada",
            '{"text": "fine indeed"}\n\nplain text of some kind\n',
            r"line 3: expected a JSON object with the text key\(s\) text, got 'plain text of",
        ),
        ("lambada", '{"sentence": "other"}\n', r"line 1: expected a JSON object with the text key"),
        ("lambada", '["text"]\n', r"line 1: expected a JSON object"),
        (
            "lambada",
            '{"text": "half \\ud83d of it"}\n',
            r"line 1: .* got '.\"text\": \"half .+ud83d",
        ),
        ("lambada", '{"text": 3}\n', r"line 1: expected a JSON object .* got '{\"text\": 3}'"),
        ("cbt-cn", "the cat sat\n", "line 1: expected a sentence numbered 1, got 'the cat sat'"),
        (
            "cbt-cn",
            "1 One .\n3 Three .\n",
            "line 2: expected a sentence numbered 2, got '3 Three .'",
        ),
        ("cbt-cn", CONTEXT, "the last question has only 20 of 21 lines"),
        ("cbt-cn", CONTEXT + LAST + "\n" + CONTEXT[2:], "line 23: expected a sentence numbered 1"),
        (
            "cbt-cn",
            CONTEXT + LAST.replace("XXXXX", "dog"),
            "line 21: expected a query with XXXXX, the answer and ten options with the answer",
        ),
        ("cbt-cn", CONTEXT + LAST.replace("|b", ""), "line 21: expected a query .* got 'The XXXXX"),
        ("cbt-cn", CONTEXT + LAST.replace("|cat", "|j"), "line 21: expected a query with XXXXX"),
        (
            "cbt-cn",
            CONTEXT + LAST.replace("a|b|c|d|e|f|g|h|i|", "cat|" * 9),
            "ten options with the answer and others among them",
        ),
    ],
)
def test_wrong_file_names_its_first_bad_line(
    tmp_path: Path, task: str, content: str, words: str
) -> None:
    file = put(tmp_path, {"wrong.txt": content}) / "wrong.txt"
    with pytest.raises(DataError, match=words) as caught:
        load(source(task), Where(file=file))
    assert str(caught.value).startswith("wrong.txt is not ")
    assert "\n" not in str(caught.value)


def test_published_file(tmp_path: Path) -> None:
    data = load(SOME, Where(folder=put(tmp_path, {"some.txt": "one\ntwo\n"})), strict=True)
    assert data.published
    assert data.facts() == {
        "source": "file",
        "name": "some.txt",
        "sha256": SOME.sha256[0],
        "bytes": 8,
        "rows": 2,
        "published": True,
        "warnings": [],
    }


def test_a_file_that_is_not_the_published_one(tmp_path: Path) -> None:
    where = Where(folder=put(tmp_path, {"some.1.slice": "one\ntwo\nthree\n"}))
    data = load(SOME, where)
    digest = hashlib.sha256(b"one\ntwo\nthree\n").hexdigest()
    assert data.warnings == (
        f"some.1.slice has sha256 {digest[:12]}..., the published file {SOME.sha256[0][:12]}...",
        "some.1.slice has 3 rows, the published data 2",
    )
    assert not data.published
    with pytest.raises(DataError, match=r"has sha256 .*; .* 3 rows, .* 2; refused by --strict"):
        load(SOME, where, strict=True)


# --- formats ------------------------------------------------------------------------------


def test_lines_end_at_line_feeds_only() -> None:
    content = " a\u2028b \n\x0c\n c\x85\n\rlast"
    texts = [row["text"] for row in text_lines(content.encode())]
    assert texts == [" a\u2028b ", "\x0c", " c\x85", "\rlast"]
    assert [r["text"] for r in json_lines(b'{"text": "a\\nb"}\n', required=("text",))] == ["a\nb"]


@given(st.binary(max_size=80), st.integers(1, 9))
def test_stretches_join_to_the_whole(content: bytes, size: int) -> None:
    rows = stretches(content, size)
    assert b"".join(row["bytes"] for row in rows) == content
    assert all(size <= len(row["bytes"]) <= size + 4 for row in rows[:-1])


@given(st.text(max_size=60), st.integers(1, 9))
def test_stretches_cut_no_character(text: str, size: int) -> None:
    assert "".join(row["bytes"].decode() for row in stretches(text.encode(), size)) == text


def zipped(member: str, content: bytes) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return buffer.getvalue()


def test_zip_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the whole size is cut 90 / 5 / 5; here a million is 20."""
    whole = bytes(1 + i % 250 for i in range(2000))  # zero bytes are refused
    monkeypatch.setattr(wikipedia_dump, "FILE_BYTES", 2000)
    monkeypatch.setattr(wikipedia_dump, "MILLION", 20)
    cuts = {"train": (0, 1800), "valid": (1800, 1900), "test": (1900, 2000), "all": (0, 2000)}
    for split, (start, stop) in cuts.items():
        for content in (whole, zipped("enwik8", whole)):
            rows = wikipedia_dump.parse(split, "enwik8")(content)
            assert b"".join(row["bytes"] for row in rows) == whole[start:stop]
        part = wikipedia_dump.parse(split, "enwik8")(whole[:-1])
        assert b"".join(row["bytes"] for row in part) == whole[:-1], "a partial file is taken whole"


def test_zip_that_is_none() -> None:
    good = zipped("other", b"x" * 5000)
    with pytest.raises(DataError, match=r"expected a zip archive with the member 'enwik8' "):
        wikipedia_dump.parse("test", "enwik8")(good)
    for broken in (good[:40], good[:45] + b"\xff" * 20 + good[65:]):
        with pytest.raises(DataError, match="expected a zip archive with the member 'other'"):
            wikipedia_dump.parse("test", "other")(broken)


# --- the pool under --strict ----------------------------------------------------------------


def test_a_pool_that_is_not_the_published_one_is_refused_by_strict(tmp_path: Path) -> None:
    where = Where(folder=put(tmp_path, {"some.txt": "one\n"}))
    assert load_pool(SOME, where).warnings
    with pytest.raises(DataError, match=r"some.txt has sha256 .* 1 rows, .* 2; refused by --stri"):
        load_pool(SOME, where, strict=True)


def test_a_pool_that_is_missing_is_refused_by_strict(tmp_path: Path) -> None:
    where = Where(folder=tmp_path)
    assert load_pool(nq.TRAIN, where).source_kind == "sample"
    words = "no data for NQ-open, train questions: looked for NQ-open.train.jsonl .* get it from"
    for roads in (where, Where(), Where(file=tmp_path / "NQ-open.dev.jsonl")):
        with pytest.raises(DataError, match=words):
            load_pool(nq.TRAIN, roads, strict=True)
    for sample in (Where(sample=True), Where(sample=True, folder=tmp_path)):
        assert load_pool(nq.TRAIN, sample, strict=True).source_kind == "sample", "it was requested"


def test_the_published_pool_passes_under_strict(tmp_path: Path) -> None:
    where = Where(folder=put(tmp_path, {"some.txt": "one\ntwo\n"}))
    assert load_pool(SOME, where, strict=True).published
