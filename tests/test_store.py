"""Answers on disk: nothing lost, nothing doubled, nothing wrong, whatever happens to the file."""

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from console import harness, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixed import REQUESTS, answers
from safetensors.torch import load_file, save_file

from harness.core import (
    Generate,
    Generated,
    Response,
    Tokens,
    Word,
)
from harness.engine.cache import sqlite_file
from harness.engine.cache.codec import check_any, pack, unpack
from harness.engine.cache.response_cache import key
from harness.engine.cache.store import FILE_NAME, CheckpointKey, Store, StoredAnswer, _crc
from harness.engine.checkpoint.load import Checkpoint, load
from harness.engine.checkpoint.settings import Settings
from harness.engine.decoding import generator
from harness.engine.engine import Engine
from harness.engine.queries.query import Answer, GenerationQuery, Query, Span, SpanScores, WordQuery

pytestmark = pytest.mark.usefixtures("self_tests_once")

ONE, TWO = (
    CheckpointKey("weights", "tokenizer", "float32"),
    CheckpointKey("others", "tokenizer", "float32"),
)


def put(store: Store, producer: CheckpointKey, **answers: str) -> None:
    found = {
        name.encode(): StoredAnswer(len(name), text.encode()) for name, text in answers.items()
    }
    store.put(producer, "model", found)


def texts(store: Store, producer: CheckpointKey, *names: str) -> dict[str, str]:
    found = store.get(producer, [name.encode() for name in names])
    return {k.decode(): stored.value.decode() for k, stored in found.items()}


# --- the file -------------------------------------------------------------------------------


def test_answers_are_kept_apart_by_what_produced_them(tmp_path: Path) -> None:
    first = Store(tmp_path)
    put(first, ONE, a="one", b="two")
    put(first, TWO, a="three")
    put(first, ONE, a="late")
    first.close()
    again = Store(tmp_path)
    assert texts(again, ONE, "a", "b", "c") == {"a": "one", "b": "two"}
    assert texts(again, TWO, "a", "b") == {"a": "three"}


def test_holdings_count_answers_and_hits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, ONE, a="one", b="two")
    texts(store, ONE, "a", "b", "c")
    texts(store, ONE, "a")
    [holding] = store.entries()
    assert (holding.key, holding.answers, holding.hits) == (ONE, 2, 3)


def test_two_processes_lose_and_double_nothing(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from harness.engine.cache.store import CheckpointKey, Store, StoredAnswer
store, first = Store(Path(sys.argv[1])), int(sys.argv[2])
for start in range(first, first + 1000, 10):
    keys = [b"%d" % n for n in range(start, start + 10)]
    store.get(CheckpointKey("w", "t", "n"), keys)
    store.put(CheckpointKey("w", "t", "n"), "m", {k: StoredAnswer(1, b"answer " + k) for k in keys})
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen([*command, first], **pipes) for first in ("0", "500")]  # type: ignore[call-overload]
    assert [process.communicate()[0] for process in both] == ["", ""]
    store = Store(tmp_path)
    keys = [b"%d" % n for n in range(1500)]
    found = store.get(CheckpointKey("w", "t", "n"), keys)
    assert {k: stored.value for k, stored in found.items()} == {k: b"answer " + k for k in keys}
    assert [holding.answers for holding in store.entries()] == [1500]


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("sound")
    store = Store(folder)
    put(store, ONE, **{f"k{n}": f"answer {n}" * 20 for n in range(40)})
    store.prune()  # moves everything from the log into the file
    store.close()
    return (folder / FILE_NAME).read_bytes()


@pytest.mark.parametrize("flips", [[(4048, 138), (23795, 31)], [(3988, 198), (1593, 151)]])
def test_damage_that_sqlite_quotes_in_its_message(
    flips: list[tuple[int, int]], sound_file: bytes, tmp_path: Path
) -> None:
    """Its message is then no UTF-8, which Python's module cannot decode."""
    content = bytearray(sound_file)
    for place, bits in flips:
        content[place] ^= bits
    (tmp_path / FILE_NAME).write_bytes(content)
    store = Store(tmp_path)
    assert texts(store, ONE, "k1") in ({"k1": "answer 1" * 20}, {})
    put(store, TWO, new="kept")
    assert texts(store, TWO, "new") == {"new": "kept"}


SHARES = st.floats(0, 1, exclude_max=True)  # where in the file


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    flips=st.lists(st.tuples(SHARES, st.integers(1, 255)), min_size=1, max_size=4),
    kept=SHARES | st.just(1.0),
)
def test_damage_is_never_a_crash_nor_a_wrong_answer(
    flips: list[tuple[float, int]],
    kept: float,
    sound_file: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(sound_file)
    for share, bits in flips:
        content[int(share * len(content))] ^= bits
    length = int(kept * len(content))
    (folder / FILE_NAME).write_bytes(content[:length])
    store = Store(folder)
    names = [f"k{n}" for n in range(40)]
    for name, text in texts(store, ONE, *names).items():
        assert text == f"answer {name[1:]}" * 20
    put(store, TWO, new="kept")
    store.close()
    again = Store(folder)
    assert texts(again, TWO, "new") in ({"new": "kept"}, {})


def test_a_file_that_is_no_store_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 100)
    store = Store(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert texts(store, ONE, "a") == {}
    assert "set aside" in caplog.text
    put(store, ONE, a="fresh")
    assert texts(store, ONE, "a") == {"a": "fresh"}
    assert (tmp_path / f"{FILE_NAME}.damaged1").read_bytes().startswith(b"no database")


def test_a_damaged_answer_is_dropped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    put(store, ONE, a="one", b="two")
    store.connection().execute("UPDATE answers SET value = x'00' WHERE key = ?", [b"a"])
    with caplog.at_level(logging.WARNING):
        assert texts(store, ONE, "a", "b") == {"b": "two"}
    assert "1 damaged answers" in caplog.text
    assert store.drop_damaged() == 0


def test_a_checkpoint_of_wrong_types_is_shown_and_taken_out_by_check(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, ONE, a="one")
    put(store, TWO, a="two", b="three")
    run = store.connection().execute
    run("UPDATE checkpoints SET used = 'x', hits = x'00', name = x'ff' WHERE weights = 'weights'")
    run("UPDATE checkpoints SET tokenizer = x'ff', used = 1e300 WHERE weights = 'others'")
    shown = {holding.name: holding for holding in store.entries()}
    assert (shown["unknown"].used, shown["unknown"].hits) == (0.0, 0)
    assert shown["model"].key.tokenizer == "unknown"
    assert harness("cache", "--cache", tmp_path).code == 0
    assert texts(store, ONE, "a") == {"a": "one"}
    assert texts(store, TWO, "a") == {}
    assert store.drop_damaged() == 2, "nothing leads to answers of a nameless checkpoint"
    assert [holding.key for holding in store.entries()] == [ONE]
    assert store.drop_damaged() == 0


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE answers DROP COLUMN stored",
        "ALTER TABLE answers ADD COLUMN colour TEXT",
        "ALTER TABLE checkpoints RENAME COLUMN hits TO clicks",
        "DROP TABLE answers; CREATE TABLE answers (checkpoint, key, asked, value, crc, stored)",
        "DROP TABLE answers; CREATE VIEW answers AS SELECT * FROM checkpoints",
    ],
)
def test_tables_of_another_schema_are_set_aside(
    change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    put(store, ONE, a="one")
    store.connection().executescript(change)
    store.close()
    with caplog.at_level(logging.WARNING):
        assert texts(store, ONE, "a") == {}
    assert caplog.text.count("set aside") == 1
    put(store, ONE, a="fresh")
    assert texts(store, ONE, "a") == {"a": "fresh"}
    assert (tmp_path / f"{FILE_NAME}.damaged1").exists()


def test_a_full_disk_stops_storing_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path)
    put(store, ONE, a="one")
    store.connection().execute("PRAGMA max_page_count = 1")
    with caplog.at_level(logging.WARNING):
        put(store, ONE, big="x" * 1_000_000)
        put(store, ONE, small="y")
    assert caplog.text.count("not written from here on") == 1
    assert texts(store, ONE, "a", "big", "small") == {"a": "one"}


def test_a_folder_that_cannot_be_made_stops_storing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "below")
    with caplog.at_level(logging.WARNING):
        put(store, ONE, a="one")
        assert texts(store, ONE, "a") == {}
    assert caplog.text.count("not written from here on") == 1


# --- a file that cannot be written ------------------------------------------------------------


def without_rights(action: Callable[[], object]) -> None:
    """Run an action as a user who owns nothing here, for root may write whatever the mode says."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status == 0, "the action failed; its error is above"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that others may enter, and nobody may write to once it is closed."""
    with TemporaryDirectory() as name:  # pytest's own folders are for their owner alone
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("left", ["nothing", "log", "log and index"])
def test_a_store_in_a_folder_that_cannot_be_written_is_read(
    left: str, read_only: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Store(read_only)
    put(writer, ONE, a="one", b="two")
    if left == "nothing":
        writer.close()
    else:  # what a killed process leaves: answers are in the log alone
        copies = {path: path.read_bytes() for path in read_only.iterdir()}
        writer.close()
        for path, content in copies.items():
            if left == "log and index" or not path.name.endswith("-shm"):
                path.write_bytes(content)
    for path in read_only.iterdir():
        path.chmod(0o444)
    read_only.chmod(0o555)
    wanted = {} if left == "log" else {"a": "one", "b": "two"}

    def use() -> None:
        store = Store(read_only)
        assert texts(store, ONE, "a", "b", "c") == wanted
        put(store, ONE, c="three")
        assert texts(store, ONE, "a", "b", "c") == wanted
        assert not store.writable
        assert caplog.text.count("not written from here on") == 1
        assert caplog.text.count("\n") == 1, caplog.text
        if wanted:
            assert [holding.answers for holding in store.entries()] == [2]
            assert store.drop_damaged() == 0
            assert store.prune(size=0) == 0

    with caplog.at_level(logging.WARNING):
        without_rights(use)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_file_that_cannot_be_written_in_a_folder_that_can_is_read(
    read_only: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Store(read_only)
    put(writer, ONE, a="one")
    writer.close()
    (read_only / FILE_NAME).chmod(0o444)
    read_only.chmod(0o777)

    def use() -> None:
        store = Store(read_only)
        assert texts(store, ONE, "a") == {"a": "one"}, "counting what was taken fails, no more"
        put(store, ONE, b="two")
        assert texts(store, ONE, "a", "b") == {"a": "one"}
        assert caplog.text.count("not written from here on") == 1

    with caplog.at_level(logging.WARNING):
        without_rights(use)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "TIMEOUT", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("opened_before", [True, False])
def test_a_store_that_another_process_writes_to_is_read(
    opened_before: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Store(tmp_path)
    put(other, ONE, a="one")
    store = Store(tmp_path)
    if opened_before:
        store.connection()
    other.connection().execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.WARNING):
        assert texts(store, ONE, "a") == {"a": "one"}
        put(store, ONE, b="two")
        assert texts(store, ONE, "a", "b") == {"a": "one"}
    assert caplog.text.count("not written from here on: database is locked") == 1


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_locked_for_good_is_waited_for_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Store(tmp_path)
    put(first, ONE, a="one")
    first.close()
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("UPDATE checkpoints SET hits = 0")
    store = Store(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert texts(store, ONE, "a") == {}
        start = time.monotonic()
        for _ in range(20):
            assert texts(store, ONE, "a") == {}
            put(store, ONE, b="two")
    assert time.monotonic() - start < 2, "20 times 0.2 s if each waited"
    assert caplog.text.count("not written from here on: database is locked") == 1
    other.close()
    assert texts(store, ONE, "a") == {"a": "one"}, "read again as soon as that is possible"


def test_pruning_by_age_size_and_checkpoint(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, ONE, a="one", b="two")
    put(store, TWO, a="three")
    by_producer = {holding.key: holding.id for holding in store.entries()}
    assert store.prune(checkpoints=[by_producer[TWO]]) == 1
    assert [holding.key for holding in store.entries()] == [ONE]
    assert store.prune(before=0.0) == 0
    assert store.prune(size=5) == 1
    assert store.prune(size=0) == 1
    assert store.entries() == []


# --- questions and answers as bytes ---------------------------------------------------------

IDS = st.lists(st.integers(0, 300), max_size=4).map(tuple)
WORDS = st.frozensets(st.sampled_from(["a", "b", "ab"]))
SMALL = st.integers(0, 2)
QUESTIONS: st.SearchStrategy[Query] = st.one_of(
    st.builds(Span, IDS, IDS, st.just(False)),
    st.builds(WordQuery, IDS, WORDS, st.none() | WORDS, st.sampled_from(["word", "first-token"])),
    st.builds(GenerationQuery, IDS, SMALL, st.lists(st.sampled_from("ab")).map(tuple), SMALL, IDS),
)


@given(st.lists(QUESTIONS, max_size=30))
def test_equal_questions_and_no_others_share_a_key(asked: list[Query]) -> None:
    ends = frozenset({0})
    assert len({key(question, ends) for question in asked}) == len(set(asked))


def test_what_ends_a_text_is_part_of_its_key_and_of_no_other() -> None:
    one, two = frozenset({0}), frozenset({0, 11})
    asked = GenerationQuery((1, 2), 5, ("\n",), 1, ())
    assert key(asked, one) != key(asked, two)
    assert key(asked, two) == key(asked, frozenset({11, 0}))
    for question in (Span((1, 2), (3,)), WordQuery((1, 2), frozenset(), None, "word")):
        assert key(question, one) == key(question, two)


LOGPROBS = st.floats(width=32, max_value=0, allow_nan=False, allow_infinity=False)


@given(st.lists(LOGPROBS, max_size=20), st.data())
def test_scores_come_back_bit_by_bit(logprobs: list[float], data: st.DataObject) -> None:
    n = len(logprobs)
    greedy = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    scores = SpanScores(np.array(logprobs, np.float32), np.array(greedy, np.bool_))
    back = unpack(Span((1,), (1,) * n), pack(scores))
    assert isinstance(back, SpanScores)
    assert back.logprobs.tobytes() == scores.logprobs.tobytes()
    assert back.greedy.tolist() == greedy


@given(st.text(), st.lists(LOGPROBS, min_size=1, max_size=20))
def test_texts_and_words_come_back(text: str, logprobs: list[float]) -> None:
    word = Word(text, ("the", text))
    assert unpack(WordQuery((1,), frozenset(), None, "word"), pack(word)) == word
    tokens = tuple(range(len(logprobs)))
    written = Generated(text, tokens, tuple(logprobs), len(tokens), "length")
    assert unpack(GenerationQuery((1,), len(tokens), (), 1, ()), pack(written)) == written


SPAN, SEARCH, WRITING = (
    Span((1, 2), (3, 4)),
    WordQuery((1, 2), frozenset(), None, "word"),
    GenerationQuery((1, 2), 3, (), 1, ()),
)
SCORES = np.array([-1, -2], "<f4").tobytes() + b"\x80"
TEXT = b'["ab", 2, "end"]\n' + np.array([7, 8], "<i4").tobytes() + SCORES[:8]
FORGED: list[tuple[Query, bytes]] = [
    *((question, value) for question in (SPAN, SEARCH, WRITING) for value in (
        b"", b"abc", b"NaN", b"[]", b"null", b"[" * 100_000, b"9" * 5000, b"\xff" * 9, b"{}\n",
    )),
    (SPAN, SCORES[:-1]),
    (SPAN, SCORES + b"\0"),
    (SPAN, SCORES[:8] + b"\x81"),  # a flag of a third token
    (SPAN, np.array([np.nan, -2], "<f4").tobytes() + b"\0"),
    (SPAN, np.array([-np.inf, -2], "<f4").tobytes() + b"\0"),
    (SPAN, np.array([-1, 0.5], "<f4").tobytes() + b"\0"),
    (SEARCH, b'["a"]'),
    (SEARCH, b'[1, []]'),
    (SEARCH, b'["a", "b"]'),
    (SEARCH, b'["a", [1]]'),
    (SEARCH, b'["\\ud800", []]'),
    (WRITING, TEXT.replace(b'"ab"', b"7")),
    (WRITING, TEXT.replace(b"2,", b"3,")),
    (WRITING, TEXT.replace(b"2,", b"-1,")),
    (WRITING, TEXT.replace(b"2,", b"true,")),
    (WRITING, TEXT.replace(b"2,", b"2.0,")),
    (WRITING, TEXT.replace(b"end", b"END")),
    (WRITING, TEXT.replace(b"end", b"length")),  # two tokens of three
    (WRITING, TEXT[:-1]),
    (WRITING, TEXT + bytes(16)),  # four tokens of three
    (WRITING, TEXT[:17]),
    (WRITING, TEXT.replace(np.array([8], "<i4").tobytes(), np.array([-8], "<i4").tobytes())),
    (WRITING, TEXT[:-8] + np.array([-1, np.nan], "<f4").tobytes()),
]  # fmt: skip


def test_what_the_forgeries_are_made_of_is_sound() -> None:
    for question, value in ((SPAN, SCORES), (SEARCH, b'["a", ["b"]]'), (WRITING, TEXT)):
        assert pack(unpack(question, value)) == value
        check_any(value)


@pytest.mark.parametrize(("question", "value"), FORGED, ids=lambda v: repr(v)[:40])
def test_a_forged_answer_is_refused_in_one_way(question: Query, value: bytes) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - any reason will do
        unpack(question, value)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=80), st.sampled_from([SPAN, SEARCH, WRITING]))
def test_any_bytes_are_an_answer_or_refused(value: bytes, question: Query) -> None:
    try:
        answer = unpack(question, value)
    except ValueError:
        return
    assert pack(unpack(question, pack(answer))) == pack(answer)
    check_any(value)


# --- runs -----------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(tiny: Checkpoint, tmp_path: Path) -> None:
    first = Engine(tiny, budget=128, store=Store(tmp_path))
    found = answers(first)
    assert first.tokens.cached == 0
    second = Engine(tiny, budget=128, store=Store(tmp_path))
    assert answers(second) == found
    asked = first.tokens.asked
    assert second.tokens == Tokens(asked=asked, computed=0, scored=0, cached=asked)


def test_without_a_store_the_answers_are_the_same(tiny: Checkpoint, tmp_path: Path) -> None:
    with_store = Engine(tiny, budget=128, store=Store(tmp_path))
    without = Engine(tiny, budget=128)
    assert answers(with_store) == answers(without)
    assert with_store.tokens == without.tokens


def stopped(engine: Engine, batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer until `batches` batches have been stored, as if the process were killed then."""
    left = iter(range(batches))
    real = engine._cache.keep

    def keep(found: dict[Query, object]) -> None:
        real(found)  # type: ignore[arg-type]
        if next(left, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine._cache, "keep", keep)
    with pytest.raises(KeyboardInterrupt):
        answers(engine)


@pytest.mark.parametrize("batches", [0, 1, 2, 4, 7, 8, 9])
def test_a_stopped_run_goes_on_to_the_same_bits(
    batches: int, tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "GROUP_SIZE", 2)
    whole = Engine(tiny, budget=64)
    wanted = answers(whole)
    first = Engine(tiny, budget=64, store=Store(tmp_path))
    stopped(first, batches, monkeypatch)
    rest = Engine(tiny, budget=64, store=Store(tmp_path))
    assert answers(rest) == wanted
    assert rest.tokens.cached > 0
    assert first.tokens.computed + rest.tokens.computed == whole.tokens.computed


def test_only_what_is_new_is_computed(tiny: Checkpoint, tmp_path: Path) -> None:
    some = REQUESTS[::2]
    answers(Engine(tiny, budget=128, store=Store(tmp_path)), some)
    engine = Engine(tiny, budget=128, store=Store(tmp_path))
    found = answers(engine)
    alone = Engine(tiny, budget=128)
    for one, two in zip(found, answers(alone), strict=True):
        if isinstance(one, Word):
            assert one == two
        else:
            assert one.logprob == pytest.approx(two.logprob, rel=1e-5)  # type: ignore[union-attr]
    known = Engine(tiny, budget=128)
    answers(known, some)
    assert engine.tokens.cached == known.tokens.asked


ROWS = "checkpoint, key, asked, value, crc FROM answers ORDER BY key"
DAMAGE: dict[str, str] = {
    "asked is text": "UPDATE answers SET asked = 'many' WHERE {some}",
    "asked is huge": "UPDATE answers SET asked = 9e18 * 9e18 WHERE {some}",
    "asked is negative": "UPDATE answers SET asked = asked - 4294967296 WHERE {some}",
    "value is text": "UPDATE answers SET value = 'text' WHERE {some}",
    "value is not UTF-8": "UPDATE answers SET value = CAST(x'ff' AS TEXT) WHERE {some}",
    "value is a number": "UPDATE answers SET value = 7 WHERE {some}",
    "crc is text": "UPDATE answers SET crc = 'right' WHERE {some}",
    "crc is large": "UPDATE answers SET crc = 9223372036854775807 WHERE {some}",
}
FORGERIES: dict[str, Callable[[int, bytes], tuple[int, bytes]]] = {
    "empty": lambda asked, value: (asked, b""),
    "three bytes": lambda asked, value: (asked, b"abc"),
    "NaN": lambda asked, value: (asked, b"NaN"),
    "deep": lambda asked, value: (asked, b"[" * 100_000),
    "half": lambda asked, value: (asked, value[: len(value) // 2]),
}


def damage(connection: sqlite3.Connection, kind: str) -> int:
    """Damage every third answer; how many."""
    rows = connection.execute(f"SELECT {ROWS}").fetchall()[::3]
    for checkpoint, name, asked, value, _ in rows:
        if kind in DAMAGE:
            some = "checkpoint = ? AND key = ?"
            connection.execute(DAMAGE[kind].format(some=some), [checkpoint, name])
        else:
            made = FORGERIES[kind](asked, value)
            connection.execute(
                "UPDATE answers SET asked = ?, value = ?, crc = ? WHERE checkpoint = ? AND key = ?",
                [*made, _crc(name, *made), checkpoint, name],
            )
    return len(rows)


@pytest.fixture(scope="module")
def answered(
    tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Response], Path]:
    """What a run answers, and the store that it leaves."""
    folder = tmp_path_factory.mktemp("answered")
    engine = Engine(tiny, budget=128, store=Store(folder))
    return answers(engine), folder


@pytest.mark.parametrize("kind", [*DAMAGE, *FORGERIES])
def test_damaged_and_forged_answers_are_asked_again(
    kind: str,
    answered: tuple[list[Response], Path],
    tiny: Checkpoint,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted, sound = answered
    folder = copied(sound, tmp_path / "store")
    store = Store(folder)
    count = damage(store.connection(), kind)
    assert count > 5
    engine = Engine(tiny, budget=128, store=store)
    with caplog.at_level(logging.WARNING):
        found = answers(engine)
    for one, two in zip(found, wanted, strict=True):  # batches of the rest are other batches
        assert close(one, two)
    assert 0 < engine.tokens.cached < engine.tokens.asked
    path = folder / FILE_NAME
    notices = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
    assert notices == [f"{count} damaged answers in the response cache {path} are computed again"]
    again = Engine(tiny, budget=128, store=store)
    assert answers(again) == found
    assert again.tokens.computed == 0, "the damaged ones were replaced"


# Half of an answer may be a whole one to another question, and the check does not know which was.
@pytest.mark.parametrize("kind", [*DAMAGE, *(kind for kind in FORGERIES if kind != "half")])
def test_the_check_finds_damage_and_forgeries(
    kind: str, answered: tuple[list[Response], Path], tmp_path: Path
) -> None:
    folder = copied(answered[1], tmp_path / "store")
    store = Store(folder)
    total = store.entries()[0].answers
    count = damage(store.connection(), kind)
    store.close()
    found = harness("cache", "--cache", folder, "check").out
    assert found == f"{total - count:,} answers are sound, {count:,} damaged ones were dropped\n"
    assert "0 damaged ones" in harness("cache", "--cache", folder, "check").out


def close(one: Response, two: Response) -> bool:
    """Whether two responses are the same but for rounding."""
    if isinstance(one, Word):
        return one == two
    assert not isinstance(two, Word)
    return one.logprob == pytest.approx(two.logprob, rel=1e-5)


def test_a_text_is_asked_again_when_other_tokens_end_it(tiny: Checkpoint, tmp_path: Path) -> None:
    """The second run's answers are those of a run without a store."""
    requests = [r for r in REQUESTS if isinstance(r, Generate)]
    before = answers(Engine(tiny, budget=128, store=Store(tmp_path)), requests)
    [first] = {r.tokens[1] for r in before[:1] if isinstance(r, Generated)}
    other = replace(tiny, end_tokens=tiny.end_tokens | {first})
    after = answers(Engine(other, budget=128, store=Store(tmp_path)), requests)
    assert after == answers(Engine(other, budget=128), requests)
    assert after != before
    scored = [r for r in REQUESTS if not isinstance(r, Generate)]
    answers(Engine(tiny, budget=128, store=Store(tmp_path)), scored)
    engine = Engine(other, budget=128, store=Store(tmp_path))
    answers(engine, scored)
    assert engine.tokens.cached == engine.tokens.asked, "scores do not depend on it"


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def cached(checkpoint: Path, store: Path) -> Iterator[int]:
    """Tokens that separate requests would feed, and those of them answered from disk."""
    engine = Engine(load(str(checkpoint), Settings(device="cpu")), store=Store(store))
    answers(engine)
    yield from (engine.tokens.asked, engine.tokens.cached)


def test_the_same_weights_elsewhere_are_known_and_others_are_not(
    tiny_folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    asked, known = cached(tiny_folder, store)
    assert known == 0
    assert [*cached(copied(tiny_folder, tmp_path / "other-name"), store)] == [asked, asked]
    changed = copied(tiny_folder, tmp_path / "changed")
    weights = load_file(changed / "model.safetensors")
    name = "transformer.h.0.mlp.c_fc.weight"
    one = weights[name][0, 0]
    weights[name][0, 0] = torch.nextafter(one, one + 1)  # one unit in the last place
    save_file(weights, changed / "model.safetensors", metadata={"format": "pt"})
    assert [*cached(changed, store)][1] == 0


def test_other_numerics_are_other_answers(tiny_folder: Path, tmp_path: Path) -> None:
    asked, _ = cached(tiny_folder, tmp_path)
    settings = Settings(device="cpu", dtype="bfloat16")
    engine = Engine(load(str(tiny_folder), settings), store=Store(tmp_path))
    answers(engine)
    assert asked > 0
    assert engine.tokens.cached == 0


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def used(tiny_folder: Path, tmp_path: Path) -> Path:
    """A store that one run has used twice."""
    for _ in range(2):
        run = ("lambada", "--model", tiny_folder, "--sample", "--limit", 2, "--context", 128)
        result = harness(*run, "--out", tmp_path / "out", "--cache", tmp_path / "store", "--json")
        assert result.code == 0, result.err
    return tmp_path / "store"


def test_cache_shows_counts_and_hits(used: Path, tiny_folder: Path) -> None:
    [holding] = Store(used).entries()
    assert holding.name == str(tiny_folder)
    assert holding.answers == holding.hits > 0
    out = harness("cache", "--cache", used).out
    assert holding.key.weights[:12] in out
    assert str(used / FILE_NAME) in out


def test_cache_check_finds_all_sound(used: Path) -> None:
    assert "0 damaged ones" in harness("cache", "--cache", used, "check").out


def test_cache_prune_by_name_leaves_nothing(used: Path, tiny_folder: Path) -> None:
    [holding] = Store(used).entries()
    out = harness("cache", "--cache", used, "prune", "--checkpoint", str(tiny_folder)).out
    assert out == f"dropped {holding.answers:,} answers\n"
    assert Store(used).entries() == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("prune",), "--older AGE"),
        (("prune", "--older", "soon"), "such as 30d"),
        (("prune", "--above", "much"), "such as 2G"),
        (("prune", "--checkpoint", "nobody"), "the cache has nothing of"),
    ],
)
def test_cache_refuses_in_one_line(words: tuple[str, ...], expected: str, used: Path) -> None:
    assert expected in refused("cache", "--cache", used, *words)


def test_no_cache_stores_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    run = ("lambada", "--model", tiny_folder, "--sample", "--limit", 2, "--context", 128)
    assert harness(*run, "--no-cache", "--out", tmp_path / "out").code == 0
    assert "\nempty\n" in harness("cache").out
    assert "contradict" in refused(*run, "--no-cache", "--cache", tmp_path)


def test_numbers_that_are_none_are_not_kept(tmp_path: Path, tiny: Checkpoint) -> None:
    engine = Engine(tiny, store=Store(tmp_path))
    bad = SpanScores(np.array([np.nan], np.float32), np.array([False]))
    engine._cache.keep({Span((1,), (2,)): Answer(bad, 1)})
    assert engine._cache.recall([Span((1,), (2,))]) == {}
