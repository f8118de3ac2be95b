"""Normalised words, n-grams across cuts, the exact set and the Bloom filter, against naive code."""

import gzip
import json
import pickle
from pathlib import Path

import naive_ngrams
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from harness.data.encodings import other_encoding
from harness.errors import DataError
from harness.overlap import corpora, ngram_sets, ngrams, scan
from harness.overlap.corpora import CorpusFormat, blocks, documents
from harness.overlap.ngram_sets import BloomFilter, ExactSearch, distinct_ngrams, random_ngrams
from harness.overlap.ngrams import count_grams, normalise, overlapping

# Letters of one to four bytes, some that change their size when lower-cased, and what separates.
ALPHABET = "abAB9_'-. \t\r\n\0éÉßẞİKΣςȺ²½中文𝔸😀“”̇"
TEXTS = st.text(ALPHABET, max_size=60) | st.text(max_size=30)
# Few words, so that n-grams repeat within a text and between texts.
REPEATING = st.lists(
    st.sampled_from(["a", "B", "é", "a-b", "\n", "averylongword" * 9]), max_size=40
)
SMALL = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def spelled(text: bytes, n: int) -> list[str]:
    """The n-grams of a normalised block, as words."""
    found = ngrams.grams(text, n)
    spans = zip(found.starts, found.ends, strict=True)
    return [" ".join(text[start:end].decode().split()) for start, end in spans]


@SMALL
@given(TEXTS)
def test_words_are_those_of_the_naive_way(text: str) -> None:
    data = text.encode("utf-8", "replace").replace(b"\0", b" ")
    assert normalise(data).decode().split() == naive_ngrams.words(data.decode())


@SMALL
@given(st.binary(max_size=40))
def test_bytes_that_are_no_text_separate_words(data: bytes) -> None:
    data = data.replace(b"\0", b" ")
    wanted_words = naive_ngrams.words(data.decode("utf-8", "replace"))
    assert normalise(data).decode().split() == wanted_words


@SMALL
@given(st.lists(TEXTS, max_size=4), st.integers(1, 9))
def test_no_ngram_crosses_a_document(texts: list[str], n: int) -> None:
    block = normalise(documents(texts))
    found = [gram for text in texts for gram in naive_ngrams.grams(text.replace("\0", " "), n)]
    assert spelled(block, n) == found
    assert count_grams(block, n) == len(found)


@SMALL
@given(TEXTS, st.integers(1, 9), st.integers(1, 20))
def test_no_ngram_is_lost_or_doubled_where_a_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, n: int, chunk: int
) -> None:
    path = tmp_path / "corpus.txt"
    data = text.encode("utf-8", "replace")
    assume(not other_encoding(data[:chunk]))  # a zero byte in a short file: taken for UTF-16
    path.write_bytes(data)
    monkeypatch.setattr(corpora, "CHUNK_BYTES", chunk)
    parts = list(overlapping(blocks(path, CorpusFormat()), n))
    assert [g for part in parts for g in spelled(part, n)] == naive_ngrams.grams(data.decode(), n)
    lines = list(overlapping(blocks(path, CorpusFormat(by_line=True)), n))
    ends = data.decode().replace("\r\n", "\n").replace("\r", "\n")
    by_line = [g for line in ends.split("\n") for g in naive_ngrams.grams(line, n)]
    assert [g for part in lines for g in spelled(part, n)] == by_line


def test_equal_ngrams_have_equal_hashes_and_others_others() -> None:
    rng = np.random.default_rng(0)
    text = " ".join(
        "".join(map(chr, rng.integers(97, 101, rng.integers(1, 90)))) for _ in range(500)
    )
    block = normalise(f"{text} | {text}".encode())
    hashes, words = ngrams.grams(block, 2).hashes.tolist(), spelled(block, 2)
    assert len(set(hashes)) == len(set(words)) == len(set(zip(hashes, words, strict=True)))
    ordered = ngrams.grams(b"a b c", 2).hashes
    assert ordered[0] != ngrams.grams(b"b a", 2).hashes[0]


def test_every_byte_of_a_word_counts() -> None:
    sizes = range(1, 150)
    words = [b"a" * k for k in sizes] + [b"a" * k + b"b" for k in sizes]
    assert len(set(ngrams.grams(b" ".join(words), 1).hashes.tolist())) == len(words)


def found_by_exact(items: list[str], corpus: list[str], n: int) -> tuple[int, int]:
    looked_for, which, _ = distinct_ngrams(normalise(documents(items)), n)
    exact = ExactSearch(looked_for)
    for text in overlapping((documents([document]) for document in corpus), n):
        exact.add(text)
    return len(which), int(exact.matched[which].sum())


@pytest.mark.parametrize("bits", [64, 1])
@SMALL
@given(st.lists(REPEATING, max_size=3), st.lists(REPEATING, max_size=3), st.integers(1, 4))
def test_exact_is_the_naive_count_even_if_hashes_collide(
    monkeypatch: pytest.MonkeyPatch,
    bits: int,
    items: list[list[str]],
    corpus: list[list[str]],
    n: int,
) -> None:
    keep = np.uint64(((1 << bits) - 1) << (64 - bits))

    def weak(text: bytes, n: int) -> ngrams.Grams:
        found = ngrams.grams(text, n)
        return found._replace(hashes=found.hashes & keep)

    monkeypatch.setattr(ngram_sets, "grams", weak)
    mine, theirs = ([" ".join(words) for words in side] for side in (items, corpus))
    assert found_by_exact(mine, theirs, n) == naive_ngrams.share(mine, theirs, n)


@SMALL
@given(st.lists(REPEATING, max_size=3), st.lists(REPEATING, max_size=3), st.integers(1, 4))
def test_bloom_is_exact_where_its_rate_leaves_no_error(
    monkeypatch: pytest.MonkeyPatch, items: list[list[str]], corpus: list[list[str]], n: int
) -> None:
    monkeypatch.setattr(scan, "PROBES", 10)
    mine, theirs = ([" ".join(words) for words in side] for side in (items, corpus))
    looked_for, which, _ = distinct_ngrams(normalise(documents(mine)), n)
    found = scan.bloom(scan.Corpus([documents(theirs)]), looked_for, 1e-8).matched
    assert (len(which), int(found[which].sum())) == naive_ngrams.share(mine, theirs, n)


@pytest.mark.parametrize(("count", "picklable"), [(30_000, True), (260_000, False)])
def test_a_filter_has_no_misses_and_the_rate_and_size_that_were_asked_for(
    count: int, picklable: bool
) -> None:
    rng = np.random.default_rng(1)
    inside = rng.integers(0, 1 << 64, count, np.uint64, endpoint=False)
    rate = 0.01
    filled = BloomFilter(count, rate, picklable=picklable)
    for part in np.array_split(inside, 7):
        filled.add(part)
    assert filled.contains(inside).all()
    probes = 100_000
    positives = filled.contains(random_ngrams(probes, 8).hashes).sum()
    spread = 5 * (rate * probes) ** 0.5
    assert rate * probes * 0.9 - spread < positives < rate * probes + spread
    assert filled.rate == pytest.approx(rate, rel=0.15)
    bits = -count * np.log(rate) / np.log(2) ** 2
    assert bits <= 8 * filled.size < 1.03 * bits
    assert filled.ngrams == pytest.approx(count, rel=0.01)


def test_filters_join_after_a_way_through_pickle() -> None:
    hashes = random_ngrams(120_000, 3).hashes
    parts = [BloomFilter(len(hashes), 1e-8, picklable=True) for _ in range(2)]
    parts[0].add(hashes[:70_000])
    parts[1].add(hashes[70_000:])
    parts[0].merge(pickle.loads(pickle.dumps(parts[1])))
    assert parts[0].contains(hashes).all()
    assert not parts[1].contains(hashes[:70_000]).any()


# --- files --------------------------------------------------------------------------------

DOCUMENTS = ["The cat's 2 hats", "É\nlines of one text", "", "no end 中文"]


def written(folder: Path, name: str) -> Path:
    """DOCUMENTS in a file of the form that its name says."""
    path = folder / name
    lines = "\n".join(json.dumps({"text": text}) for text in DOCUMENTS).encode()
    if name.endswith(".parquet"):
        parquet.write_table(
            pa.table({"n": [1, 2, 3, 4], "text": DOCUMENTS}), path, row_group_size=2
        )
    elif name.endswith(".gz"):  # two members, as logs and shards that were joined have
        path.write_bytes(gzip.compress(lines[:50], mtime=0) + gzip.compress(lines[50:], mtime=0))
    elif name.endswith(".zst"):
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(lines[:50])
        with path.open("ab") as file:
            file.write(bytes(pa.compress(lines[50:], "zstd", asbytes=True)))
    else:
        path.write_bytes(lines)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.ndjson.zst", "a.parquet", "A.JSONL"])
def test_every_form_gives_the_same_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(corpora, "CHUNK_BYTES", 16)
    monkeypatch.setattr(corpora, "BATCH_ROWS", 1)
    assert b"".join(blocks(written(tmp_path, name), CorpusFormat())) == documents(DOCUMENTS)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.zst", "README"])
def test_plain_text_is_one_document(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    joined = b"".join(blocks(path, CorpusFormat())).decode()
    assert joined == "\n".join(json.dumps({"text": text}) for text in DOCUMENTS) + "\0"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.jsonl", b'{"text": "x"}\n[1]', "line 2: expected a JSON object with a text field"),
        ("a.jsonl", b'{"body": "x"}', 'got \'{"body": "x"}\'; choose the field with --field'),
        ("a.jsonl", b'{"text": null}', "choose the field with --field"),
        ("a.parquet", b"PAR1 but not really", "a.parquet is not a Parquet file"),
        ("a.gz", gzip.compress(b"some text" * 99, mtime=0)[:-9], "Truncated compressed stream"),
        ("a.zst", b"no zstd", "Unknown frame descriptor"),
        ("a.txt", None, "No such file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(blocks(path, CorpusFormat()))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("body", "has no column 'body'; choose one with --field: n, text"),
        ("n", "expected text, got int"),
    ],
)
def test_a_column_that_is_no_text_is_named(tmp_path: Path, column: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        list(blocks(written(tmp_path, "a.parquet"), CorpusFormat(field=column)))


def test_shares_are_balanced_and_complete(tmp_path: Path) -> None:
    sources = [bytes(size) for size in (5, 9, 1, 1, 8, 3)]
    groups = scan.split(sources, 2)
    assert sorted(map(len, sources)) == sorted(len(s) for group in groups for s in group)
    assert [sum(map(len, group)) for group in groups] in ([14, 13], [13, 14])
    assert len(scan.split(sources, 99)) == 6
    assert scan.split([tmp_path / "missing"], 4) == [[tmp_path / "missing"]]
