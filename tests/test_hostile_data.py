"""Data files as other programs save them, and as an attacker would write them."""

import codecs
import gzip
import itertools
import json
import re
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import Row, Source
from harness.data import load as data_module
from harness.data.encodings import with_line_feeds
from harness.data.load import Where, load
from harness.data.parsers import lines
from harness.errors import DataError
from harness.metrics.exact_match import normalise_answer
from harness.metrics.extract import strip_punctuation
from harness.overlap import corpora, ngrams
from harness.plugins.registry import load_task
from harness.tasks import cbt, cnn_dm, enwik8, lambada, ptb, wikitext, wmt14
from harness.tasks.shared import wikipedia_dump
from harness.text import DETOKENISERS, megatron, megatron_wikitext, splitting


def source(task: str, **options: str) -> Source:
    benchmark = load_task(task)
    return benchmark.source(benchmark.protocol("paper", options).options)


# --- line ends, byte-order marks, other encodings -------------------------------------------

TEXT_TASKS = [
    "lambada", "cbt-cn", "wikitext2", "ptb", "lm1b", "coqa", "nq", "cnn-dm", "winograd",
    "wmt14-en-fr",
]  # fmt: skip


def sample_bytes(task: str, **options: str) -> tuple[Source, bytes]:
    found = load_task(task)
    one = found.source(found.protocol("paper", options).options)
    return one, (files(one.package) / one.sample).read_bytes()


def saved(task: str, folder: Path, change: Callable[[bytes], bytes], **options: str) -> Path:
    """The sample's files, changed; of two files both."""
    one, content = sample_bytes(task, **options)
    path = folder / "saved.en"
    path.write_bytes(change(content))
    if one.companion:
        other = (files(one.package) / one.companion(one.sample)).read_bytes()
        (folder / "saved.fr").write_bytes(change(other))
    return path


def rows_of(task: str, path: Path, **options: str) -> tuple[Row, ...]:
    return load(sample_bytes(task, **options)[0], Where(file=path)).rows


WITH_MARK = codecs.BOM_UTF8
SAVED: dict[str, Callable[[bytes], bytes]] = {
    "CR LF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "mark": lambda data: WITH_MARK + data,
    "mark and CR LF": lambda data: WITH_MARK + data.replace(b"\n", b"\r\n"),
    "last line without an end": lambda data: data.rstrip(b"\n"),
}


@pytest.mark.parametrize("how", SAVED)
@pytest.mark.parametrize("task", TEXT_TASKS)
def test_how_a_file_was_saved_does_not_matter(tmp_path: Path, task: str, how: str) -> None:
    path = saved(task, tmp_path, SAVED[how])
    original = saved(task, (tmp_path / "original").mkdir() or tmp_path / "original", bytes)
    assert rows_of(task, path) == rows_of(task, original)
    assert load(sample_bytes(task)[0], Where(file=path)).sha256 != (
        load(sample_bytes(task)[0], Where(file=original)).sha256
    ), "the checksum is of the bytes"


@pytest.mark.parametrize("how", ["CR LF", "mark"])
def test_so_for_lambada_as_first_published(tmp_path: Path, how: str) -> None:
    path = saved("lambada", tmp_path, SAVED[how], data="original")
    assert rows_of("lambada", path, data="original") == rows_of(
        "lambada", saved("lambada", tmp_path, bytes, data="original"), data="original"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.decode().encode("utf-16"),
        lambda data: data.decode().encode("utf-16-le"),
        lambda data: data.decode().encode("utf-16-be"),
        lambda data: codecs.BOM_UTF16_BE + data.decode().encode("utf-16-be"),
        lambda data: data.decode().encode("utf-32"),
    ],
    ids=["UTF-16", "UTF-16 LE", "UTF-16 BE", "UTF-16 BE with a mark", "UTF-32"],
)
@pytest.mark.parametrize("task", [*TEXT_TASKS, "enwik8", "text8"])
def test_other_encodings_are_refused_by_name(
    tmp_path: Path, task: str, change: Callable[[bytes], bytes]
) -> None:
    path = saved(task, tmp_path, change)
    if task == "winograd":  # XML says its encoding itself, and UTF-32 is none of its parser's
        with suppress(DataError):
            assert rows_of(task, path) == rows_of(task, saved(task, tmp_path, bytes))
        return
    with pytest.raises(DataError, match=r"saved.en is not .* got UTF-(16|32); ") as caught:
        rows_of(task, path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: WITH_MARK + data, "got UTF-8 with a byte-order mark; get the original"),
        (lambda data: data[:70] + b"\r\n" + data[70:], "got CR LF at byte 70; get the original"),
        (lambda data: data[:90] + b"\0" + data[90:], "got a zero byte at byte 90; get the orig"),
    ],
)
@pytest.mark.parametrize("task", ["enwik8", "text8"])
def test_bytes_that_are_the_data_are_never_converted(
    tmp_path: Path, task: str, change: Callable[[bytes], bytes], words: str
) -> None:
    with pytest.raises(DataError, match=f"expected the original bytes, {words}"):
        rows_of(task, saved(task, tmp_path, change))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a\r\nb\r\n", "a\nb\n"),
        ("a\rb\r", "a\nb\n"),
        ("a\rb\n", "a\nb\n"),  # CR, and an LF that an editor put at the end
        ("a\nb\rc\n", "a\nb\rc\n"),  # odd, but text
        ("a\nb\r\nc", "a\nb\r\nc"),  # inside quotes of a CSV file; `lines` takes it for an end
        ("a\rb\nc\n", "a\rb\nc\n"),
        ("a\r\n\r\nb\rc", "a\n\nb\rc"),
        ("", ""),
        ("\r", "\n"),
        ("\n\r", "\n\r"),
    ],
)
def test_line_ends_of_a_file(text: str, wanted: str) -> None:
    assert with_line_feeds(text) == wanted


@given(st.text(alphabet="ab\n \u2028\x85", max_size=30))
def test_line_feeds_and_others_come_to_the_same(text: str) -> None:
    for end in ("\r\n", "\r"):
        assert lines(text.replace("\n", end).encode()) == lines(text.encode())


def test_mixed_line_ends_are_line_ends() -> None:
    assert lines(b"a\nb\r\nc\r\n") == ["a", "b", "c"]
    assert cnn_dm.parse(b'article,highlights,id\n"a\r\nb",c,d\n')[0]["article"] == "a\r\nb"


# --- hostile files --------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
LONG = "9" * 5000
STORY = {
    "source": "cnn",
    "story": "Ann ran.",
    "questions": [{"input_text": "Who?", "turn_id": 1}],
    "answers": [{"input_text": "Ann", "turn_id": 1}],
}


def official(**changes: object) -> str:
    return json.dumps({"data": [{**STORY, **changes}]})


def column(content: str) -> str:
    return f"article,highlights,id\n{content}"


def schema(inside: str) -> str:
    return f"<collection><schema>{inside}</schema></collection>"


HOSTILE: list[tuple[str, str | bytes, str]] = [
    # nested too deeply, too many digits, not finite
    ("lambada", DEEP, "line 1: .*nested too deeply"),
    ("lambada", f'{{"text": "a b", "x": {DEEP}}}', "line 1: .*nested too deeply"),
    ("lambada", f'{{"text": "a b", "x": {LONG}}}', "line 1: .*an integer has 5,000 digits"),
    ("lambada", '{"text": "a b"}\n{"text": "a b", "x": 1e999}', "line 2: .*1e999 is not a finite"),
    ("lambada", '{"text": "a b", "x": NaN}', "line 1: .*NaN is not a finite number"),
    ("nq", f'{{"question": "q", "answer": {DEEP}}}', "line 1: .*nested too deeply"),
    ("nq", f'{{"question": "q", "answer": ["a"], "x": {LONG}}}', "line 1: .*5,000 digits"),
    ("coqa", DEEP, "line 1: .*nested too deeply"),
    ("coqa", f'{{"data": {DEEP}}}', "line 1: .*nested too deeply"),
    ("coqa", f'{{"data": [{{"source": {LONG}}}]}}', "line 1: .*5,000 digits"),
    ("cbt-cn", f"{LONG} One .\n", "line 1: expected a sentence numbered 1, got '9999"),
    ("cbt-cn", "\u0661 One .\n", "line 1: expected a sentence numbered 1, got"),
    # zero bytes and bytes that are not UTF-8
    ("lambada", b'{"text": "a b"}\n{"text": "a\0 b"}\n', "line 2: expected text, got a zero byte"),
    ("lm1b", b"a b\n\xff\n", "line 2: expected UTF-8, got byte 0xff"),
    ("cbt-cn", b"1 a\n2 b\0\n", "line 2: expected text, got a zero byte"),
    ("coqa", b'{"data": [\n"\xe9"]}', "line 2: expected UTF-8, got byte 0xe9"),
    ("nq", b'{"question": "q\0", "answer": ["a"]}', "line 1: expected text, got a zero byte"),
    ("cnn-dm", b"article,highlights,id\na,b,\xff\n", "line 2: expected UTF-8, got byte 0xff"),
    ("cnn-dm", b"article,highlights,id\na,b,c\0\n", "line 2: expected text, got a zero byte"),
    ("winograd", b"<a>\0</a>", "expected XML: not well-formed"),
    ("winograd", b"<a>\xff</a>", "expected XML: not well-formed"),
    # a byte-order mark and nothing else
    *[(t, WITH_MARK, "has no rows") for t in ("lambada", "cbt-cn", "lm1b", "ptb", "coqa", "nq")],
    ("wikitext2", WITH_MARK, "expected articles that begin with"),
    ("cnn-dm", WITH_MARK, "line 1: expected the columns"),
    ("winograd", WITH_MARK, "expected XML: no element found"),
    # missing keys and wrong types
    *[
        ("lambada", json.dumps({"text": wrong}), "line 1: expected a JSON object with the text key")
        for wrong in (None, 3, ["a"], {"a": 1}, True)
    ],
    ("lambada", "{}", "line 1: expected a JSON object with the text key"),
    ("lambada", "null", "line 1: expected a JSON object with the text key"),
    ("nq", '{"question": "q"}', "row 1: expected a list of answers"),
    ("nq", '{"answer": ["a"]}', "line 1: expected a JSON object with the text key"),
    *[
        ("nq", json.dumps({"question": "q", "answer": wrong}), "row 1: expected a list of answers")
        for wrong in (None, "a", 3, [], [None], [["a"]], {"a": 1}, [""])
    ],
    ("coqa", official(answers=["Ann"]), "story 1: expected an object with source, story"),
    ("coqa", official(questions=["Who?"]), "story 1: expected an object with source, story"),
    ("coqa", official(answers=["strings"], questions=["s"]), "story 1: expected an object with"),
    (
        "coqa",
        official(answers=[{"input_text": "Ann", "turn_id": 2}]),
        "story 1: expected an object with source, story",
    ),
    *[
        ("coqa", official(**{key: wrong}), "story 1: expected an object with source, story")
        for key in STORY
        for wrong in (None, 3, [None], [3], {"a": 1}, "")
        if not (key == "source" and wrong == "")
    ],
    ("coqa", official(additional_answers=[3]), "story 1: expected an object with source, story"),
    ("coqa", '{"data": {"a": 1}}', "expected a list of stories under 'data'"),
    ("cnn-dm", column("a,b\n"), "row 1: expected as many cells as columns"),
    ("cnn-dm", column("a,b,c,d\n"), "row 1: expected as many cells as columns"),
    ("cnn-dm", column('"a,b,c\n'), "row 1: unexpected end of data"),
    ("cnn-dm", column('"a"x,b,c\n'), "row 1: ',' expected after '\"'"),
    ("cnn-dm", column('a,"",c\n'), "row 1: expected text in the column highlights"),
    ("winograd", schema("<text/>"), "schema 1: expected text, pron, two answers"),
    ("winograd", "<a>" * 3, "expected XML: no element found"),
    ("winograd", '<?xml version="1.0" encoding="nosuch"?><a/>', "expected XML"),
    ("ptb", "no Capitals here\n", "line 1: expected lower-case text"),
    ("text8", "capital A", "expected only a-z and spaces"),
    # XML that grows when its entities are put in
    (
        "winograd",
        '<!DOCTYPE a [<!ENTITY a0 "xxxxxxxxxxxxxxxx">'
        + "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 16}">' for n in range(9))
        + "]><a>&a9;</a>",
        "expected XML: limit on input amplification",
    ),
]


@pytest.mark.parametrize(("task", "content", "words"), HOSTILE)
def test_hostile_files_are_one_line(
    tmp_path: Path, task: str, content: str | bytes, words: str
) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=f"^hostile (is not .*: )?{words}") as caught:
        load(source(task), Where(file=path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("english", "french", "words"),
    [
        (
            "One .\n",
            '<refset>\n<seg id="1">Un .</seg>\n</refset>\n',
            "expected two files of one format, got English in plain text and French in SGML",
        ),
        ("<srcset><seg id=1>One .</seg>", "Un .\n", "got English in SGML and French in plain text"),
        ("<a><seg id=1>One .</seg>", "<a><seg id=1>Un .", "segment 1: expected <seg ...>sentence"),
        ("<a><seg id=1", "<a><seg id=1>Un .</seg>", "segment 1: expected <seg ...>sentence"),
        (f"<a><seg id=1>&#{LONG};</seg>", "<a><seg id=1>Un .</seg>", "segment 1: a character ref"),
        ("One .\nTwo .\n", "Un .\n", "expected as many English lines as French ones, got 2 and 1"),
        ("One .\n\n", "Un .\nDeux .\n", "line 2: expected a sentence in both files"),
    ],
)
def test_two_files_that_do_not_belong_together(english: str, french: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        wmt14.parse(english.encode(), french.encode())


def changed_zip(
    content: bytes, at: int, value: bytes, *, compression: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """An archive with bytes of its central directory changed."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("enwik8", content)
    found = bytearray(buffer.getvalue())
    start = found.rfind(b"PK\x01\x02") + at
    found[start : start + len(value)] = value
    return bytes(found)


PLAIN_BYTES = b"<mediawiki> some text\n" * 2000


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (changed_zip(PLAIN_BYTES, 8, b"\x01\x00"), "member 'enwik8' is encrypted"),
        (changed_zip(PLAIN_BYTES, 10, b"\x63\x00"), "has compression 99; expected deflate"),
        (
            changed_zip(PLAIN_BYTES, 0, b"PK", compression=zipfile.ZIP_BZIP2),
            "has compression 12; expected deflate",
        ),
        (
            changed_zip(PLAIN_BYTES, 0, b"PK", compression=zipfile.ZIP_LZMA),
            "has compression 14; expected deflate",
        ),
        (
            changed_zip(PLAIN_BYTES, 24, (2**31).to_bytes(4, "little")),
            "says that 'enwik8' has 2,147,483,648 bytes, it has 44,000",
        ),
        (changed_zip(PLAIN_BYTES, 24, b"\x10\x00\x00\x00"), r"with the member 'enwik8' \(Bad CRC"),
        (changed_zip(PLAIN_BYTES, 42, b"\xff\xff\xff\x0f"), "with the member 'enwik8'"),
    ],
)
def test_archives_that_cannot_be_read(archive: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        wikipedia_dump.parse("test", "enwik8")(archive)


def test_an_archive_is_not_expanded_beyond_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wikipedia_dump, "FILE_BYTES", 1_000_000)
    monkeypatch.setattr(wikipedia_dump, "MILLION", 10_000)
    bomb = changed_zip(b"a" * 20_000_000, 0, b"PK")
    lying = changed_zip(b"a" * 20_000_000, 24, (500).to_bytes(4, "little"))
    tracemalloc.start()
    with pytest.raises(DataError, match="member 'enwik8' has more than 1,000,000 bytes"):
        wikipedia_dump.parse("test", "enwik8")(bomb)
    with pytest.raises(DataError):
        wikipedia_dump.parse("test", "enwik8")(lying)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    with pytest.raises(DataError, match="expected at most 1,000,000 bytes, got 1,000,001"):
        wikipedia_dump.parse("test", "enwik8")(b"a" * 1_000_001)


def test_no_file_is_read_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "MAX_FILE_BYTES", 10)
    path = tmp_path / "huge"
    path.write_text("12345\n12345\n")
    with pytest.raises(DataError, match="huge has more than 10 bytes, and no benchmark's file is"):
        load(source("lm1b"), Where(file=path))
    if Path("/dev/zero").exists():
        with pytest.raises(DataError, match="zero has more than 10 bytes"):
            load(source("lm1b"), Where(file=Path("/dev/zero")))


# --- long inputs ----------------------------------------------------------------------------

PARTS = (
    " ", '"', "'", "(", "?", "!", ".", "a", "'a", "'s", "n't", "a.", "?a!", "1,", "( ", " ) ",
    "= ", "`` ", "<seg ", "<seg >", "\u00a0",
)  # fmt: skip


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_no_text_takes_more_than_its_length(part: str) -> None:
    """Of all that looks at a text, on characters that a pattern could try over and over."""
    text = part * (30_000 // len(part))
    looks = [d.detokenise for d in DETOKENISERS.values()]
    looks += [d.retokenise for d in DETOKENISERS.values() if d.retokenise]
    looks += [normalise_answer, strip_punctuation, megatron_wikitext]
    looks += [lambda text, b=b: passage(text, b) for b in ("whitespace", "space")]
    looks += [lambda text: refusal(wmt14.parse, f"<{text}", f"<{text}")]
    looks += [lambda text: refusal(cbt.parse, f"1 {text}")]
    looks += [lambda text: refusal(ptb.parse, text), lambda text: refusal(wikitext.parse, text)]
    looks += [lambda text: enwik8.unescaped([text.encode()])]  # type: ignore[list-item]
    for look in looks:
        for hostile in (text, f"a{text}x"):
            begun = time.process_time()
            look(hostile)
            assert time.process_time() - begun < 1, "none takes 0.2 s; a square of the length, many"


def passage(text: str, boundary: str) -> object:
    options = {**load_task("lambada").protocol().options, "boundary": boundary}
    return lambada.read_row(Row(0, {"text": f"a {text} b c"}), options)


def refusal(parse: Callable[..., object], *texts: str) -> object:
    with suppress(DataError):
        return parse(*(text.encode() for text in texts))
    return None


@given(st.text(alphabet="ab'\".?!,()n t<>s1%-_", max_size=120), st.booleans())
def test_tokens_are_split_as_by_searching_the_whole_chunk(text: str, penn: bool) -> None:
    """The patterns applied to whole chunks, as the inverses of the detokenisers are defined."""
    if penn:
        tail, owns_stop = splitting.PENN_TAIL, splitting.penn_owns_stop
    else:
        tail, owns_stop = splitting.MOSES_TAIL, splitting.moses_owns_stop
    chunks = [*text.split(" "), ""]
    wanted = [
        token
        for chunk, following in itertools.pairwise(chunks)
        for token in split_slowly(chunk, following, tail, owns_stop)
    ]
    assert splitting.split(text, tail, owns_stop) == wanted


def split_slowly(
    chunk: str, following: str, tail: re.Pattern[str], owns_stop: Callable[[str, str], bool]
) -> list[str]:
    heads: list[str] = []
    while len(chunk) > 1 and (match := splitting._HEAD.match(chunk)):
        heads.append(match[0] + splitting.OPEN)
        chunk = chunk[match.end() :]
    ends: list[str] = []
    while match := tail.search(chunk):
        after = ends[-1] if ends else following
        if match[0] == "." and chunk[-2].isalnum() and owns_stop(chunk, after):
            break
        ends.append(match[0])
        chunk = chunk[: match.start()]
    return [*heads, chunk, *reversed(ends)]


@given(st.text(alphabet="ab'\"() []{}\n", max_size=60))
def test_pairs_are_closed_up_as_by_the_published_patterns(text: str) -> None:
    wanted = text
    for first, last in ("()", "[]", "{}", '""', "''"):
        one, two = re.escape(first), re.escape(last)
        wanted = re.sub(rf"{one}\s*([^{two}]*?)\s*{two}", rf"{first}\1{last}", wanted)
        text = megatron._closed_up(text, first, last)
    assert text == wanted


@given(st.text(alphabet="ab \t\n\u00a0\u2003", min_size=1, max_size=30))
def test_a_passage_is_split_as_by_its_pattern(text: str) -> None:
    stripped = text.strip()
    for boundary, pattern in (("whitespace", r"\s+\S+$"), ("space", r" [^ ]*$")):
        options = {"data": "openai", "quotes": "off", "boundary": boundary}
        last = re.search(pattern, stripped)
        if last is None:
            with pytest.raises(DataError, match="expected a passage of several words"):
                lambada.read_row(Row(0, {"text": text}), options)
            continue
        example = lambada.read_row(Row(0, {"text": text}), options)
        assert example.fields == {"context": stripped[: last.start()], "target": last.group()}


# --- corpora --------------------------------------------------------------------------------

TEXTS = ("the cat sat on the mat and ran", "a dog sat on a log and the cat ran on")
JSONL = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)


def zipped(data: bytes) -> bytes:
    """Data as gzip without the time, which would change the names of the tests."""
    return gzip.compress(data, mtime=0)


def grams_of(path: Path, how: corpora.CorpusFormat) -> set[int]:
    """Hashes of all runs of three words in a corpus."""
    blocks = ngrams.overlapping(map(ngrams.normalise, corpora.blocks(path, how)), 3)
    return {int(h) for block in blocks for h in ngrams.grams(block, 3).hashes}


@pytest.mark.parametrize("how", [name for name in SAVED if name != "last line without an end"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["corpus.txt", "corpus.jsonl"])
def test_how_a_corpus_was_saved_does_not_matter(
    tmp_path: Path, name: str, packed: bool, how: str
) -> None:
    content = (JSONL if name.endswith("jsonl") else "\n".join([*TEXTS, ""])).encode()
    reading = corpora.CorpusFormat(by_line=True)
    found = []
    for label, data in (("original", content), ("saved", SAVED[how](content))):
        path = tmp_path / f"{label}.{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
        found.append(grams_of(path, reading))
    assert found[0] == found[1]
    assert len(found[0]) == 6 + 9, "none across the lines"


@pytest.mark.parametrize("by_line", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "the cat".encode("utf-16"), "a.txt is UTF-16, expected UTF-8"),
        ("a.txt", "the cat".encode("utf-16-le"), "a.txt is UTF-16, expected UTF-8"),
        ("a.txt", "the cat".encode("utf-32"), "a.txt is UTF-32, expected UTF-8"),
        ("a.jsonl", JSONL.encode("utf-16-be"), "a.jsonl is UTF-16, expected UTF-8"),
        ("a.txt.gz", zipped("cat".encode("utf-16")), "a.txt.gz is UTF-16, expected UTF-8"),
        ("a.txt.gz", zipped(b"the cat" * 99)[:-9], "cannot read .*a.txt.gz"),
        ("a.txt.zst", b"\x28\xb5\x2f\xfdxxx", "cannot read .*a.txt.zst"),
        ("a.jsonl", DEEP.encode(), "a.jsonl line 1: .*nested too deeply"),
        ("a.jsonl", f'{{"text": "a", "x": {LONG}}}'.encode(), "a.jsonl line 1: .*5,000 digits"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "a.jsonl line 2: .*can't decode byte 0xff"),
        ("a.parquet", b"PAR1xxxxPAR1", "parquet"),
    ],
)
def test_hostile_corpora_are_one_line(
    tmp_path: Path, name: str, content: bytes, words: str, by_line: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        list(corpora.blocks(tmp_path / name, corpora.CorpusFormat(by_line=by_line)))
    assert "\n" not in str(caught.value)


def test_what_nobody_reads_in_a_corpus_may_be_odd(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "the cat sat", "loss": NaN, "x": "\\ud83d", "y": 1e999}\n')
    assert len(grams_of(path, corpora.CorpusFormat())) == 1
