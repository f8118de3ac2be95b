"""Outcomes of examples on disk: round trip, damage, and what is shown per kind of request."""

import gzip
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from console import made_record, refused
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.runs import load
from harness.core import (
    Example,
    Generate,
    Generated,
    Loglikelihood,
    NextWord,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Scored,
    Word,
)
from harness.errors import RecordError
from harness.files import atomic
from harness.records.folder import outcomes_path, read, read_outcomes, write
from harness.records.outcomes import (
    MAX_SHOWN_CHARS,
    MetricOutcomes,
    Outcomes,
    Shown,
    from_json,
    pack,
    show,
    to_json,
    unpack,
)
from harness.records.record import Record

TEXTS = st.text(st.characters(), max_size=12)  # any code point, halves of pairs included
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
NO_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999"]
"""Words of JSON, or what Python's reader makes of them, that are not finite numbers."""

ITEMS = Outcomes(
    ids=("0", "7"),
    shown=(Shown("the cat sat on the", "mat", "mat"), Shown("a “red”", "dog", "cat")),
    metrics={
        "ppl": MetricOutcomes((0, 1), ((2.25, 1.0), (0.125, 1.0))),
        "parts": MetricOutcomes((0, 0, 1), ((1.0,), (2.0,), (3.0,))),
        "none": MetricOutcomes((), ()),
    },
)


@st.composite
def made_items(draw: st.DrawFn) -> Outcomes:
    """Any outcomes: measures with several, one or none per example."""
    ids = draw(st.lists(TEXTS, max_size=4))
    shown = tuple(Shown(draw(TEXTS), draw(TEXTS), draw(TEXTS)) for _ in ids)
    outcomes = {}
    for name in draw(st.lists(TEXTS, max_size=3, unique=True)):
        of = draw(st.lists(st.integers(0, len(ids) - 1), max_size=5)) if ids else []
        width = draw(st.integers(1, 3))
        values = tuple(tuple(draw(NUMBERS) for _ in range(width)) for _ in of)
        outcomes[name] = MetricOutcomes(tuple(of), values)
    return Outcomes(tuple(ids), shown, outcomes)


def test_the_example_names_parts_by_item_and_place() -> None:
    assert ITEMS.keys("ppl") == [("0", 0), ("7", 0)]
    assert ITEMS.keys("parts") == [("0", 0), ("0", 1), ("7", 0)]
    assert ITEMS.keys("none") == []


@given(made_items())
def test_items_read_back_equal_and_pack_to_the_same_bytes(items: Outcomes) -> None:
    packed = pack(to_json(items))
    again = from_json(unpack(packed, "here"), "here")
    assert again == items
    assert pack(to_json(again)) == packed


def test_the_file_is_plain_json_in_gzip() -> None:
    plain = json.loads(gzip.decompress(pack(to_json(ITEMS))))
    assert plain == {
        "kind": "outcomes",
        "schema": 2,
        "ids": ["0", "7"],
        "shown": [["the cat sat on the", "mat", "mat"], ["a “red”", "dog", "cat"]],
        "metrics": {
            "ppl": {"examples": [0, 1], "values": [[2.25, 1.0], [0.125, 1.0]]},
            "parts": {"examples": [0, 0, 1], "values": [[1.0], [2.0], [3.0]]},
            "none": {"examples": [], "values": []},
        },
    }


# --- next to a record ---------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record on disk with its outcomes."""
    return write(made_record(outcomes=ITEMS), tmp_path)


def test_a_record_is_written_with_its_items(path: Path) -> None:
    [beside] = path.parent.glob(f"{path.stem}.*.items.json.gz")
    assert sorted(path.parent.iterdir()) == sorted([path, beside])
    assert outcomes_path(path) == beside
    record = read(path)
    assert record.outcomes is None, "a record stays small"
    assert record.outcomes_sha256 == hashlib.sha256(beside.read_bytes()).hexdigest()
    assert read_outcomes(path, record) == ITEMS


def test_a_record_says_nothing_of_its_items_but_the_checksum(path: Path) -> None:
    value = json.loads(path.read_text("utf-8"))
    assert "outcomes" not in value
    assert "the cat sat" not in path.read_text("utf-8")
    assert {**value, "outcomes_sha256": None} == json.loads(json.dumps(made_record().to_json()))


def test_the_same_run_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    again = write(made_record(outcomes=ITEMS), tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()
    assert outcomes_path(again).read_bytes() == outcomes_path(path).read_bytes()


# --- damage -------------------------------------------------------------------------------


def truncations(data: bytes) -> list[bytes]:
    return [data[:n] for n in range(len(data))]


def refusal(read_it: Callable[[], object], expected: object) -> str:
    """The message of a `RecordError`; empty if there is none, and then all is as expected."""
    try:
        found = read_it()
    except RecordError as error:
        return str(error)
    assert found == expected
    return ""


def one_line(message: str) -> bool:
    return bool(message) and "\n" not in message


def test_a_record_cut_at_any_byte_is_refused_or_whole(path: Path) -> None:
    whole, record = path.read_bytes(), read(path)
    assert whole.endswith(b"\n}\n")
    for length in reversed(range(len(whole))):
        os.truncate(path, length)
        message = refusal(lambda: read(path), record)
        assert one_line(message) or length == len(whole) - 1, "all but the last line break"


def test_items_cut_at_any_byte_are_refused(path: Path) -> None:
    record, beside = read(path), outcomes_path(path)
    for data in truncations(beside.read_bytes()):
        beside.write_bytes(data)
        message = refusal(lambda: read_outcomes(path, record), None)
        assert one_line(message)
        assert "does not belong to" in message


def test_packed_bytes_cut_anywhere_are_no_file_of_ours() -> None:
    for data in truncations(pack(to_json(ITEMS))):
        message = refusal(lambda data=data: unpack(data, "here"), None)  # type: ignore[misc]
        assert one_line(message)
        assert message.startswith("here is damaged or not written by the harness")


@given(st.data())
def test_a_changed_byte_is_refused_or_changes_nothing(data: st.DataObject) -> None:
    """gzip's header has a few bytes that say nothing; all others are under its checksum."""
    packed = bytearray(pack(to_json(ITEMS)))
    place = data.draw(st.integers(0, len(packed) - 1))
    packed[place] ^= data.draw(st.integers(1, 255))
    message = refusal(lambda: from_json(unpack(bytes(packed), "here"), "here"), ITEMS)
    assert "\n" not in message


@pytest.mark.parametrize("cut", [0, 1, 300, -2])
def test_the_command_line_refuses_a_cut_record_in_one_line(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:cut])
    line = refused("compare", path, path)
    assert path.name in line
    assert "is not a JSON file" in line


def test_the_command_line_refuses_cut_items_in_one_line(path: Path) -> None:
    beside = outcomes_path(path)
    beside.write_bytes(beside.read_bytes()[:-1])
    line = refused("compare", path, path)
    assert f"{beside.name} does not belong to {path.name}: the checksums differ" in line


@pytest.mark.parametrize("word", NO_NUMBERS)
@pytest.mark.parametrize("number", ["35.5", "36.5", "9.0"])
def test_a_record_with_what_is_no_number_is_refused(path: Path, number: str, word: str) -> None:
    text = path.read_text("utf-8")
    assert number in text
    path.write_text(text.replace(number, word), "utf-8")
    with pytest.raises(RecordError, match=path.name) as caught:
        read(path)
    assert "not a finite number" in str(caught.value)


def with_items_text(path: Path, text: str) -> Record:
    """The record, its outcomes replaced by another text that fits the checksum."""
    packed = gzip.compress(text.encode())
    record = replace(read(path), outcomes_sha256=hashlib.sha256(packed).hexdigest())
    outcomes_path(path, record).write_bytes(packed)
    return record


@pytest.mark.parametrize("word", [*NO_NUMBERS, '"NaN"'])
def test_items_with_what_is_no_number_are_refused(path: Path, word: str) -> None:
    text = gzip.decompress(outcomes_path(path).read_bytes()).decode()
    record = with_items_text(path, text.replace("0.125", word))
    with pytest.raises(RecordError, match=outcomes_path(path, record).name):
        read_outcomes(path, record)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"schema":2', '"schema":3'),
        ('"kind":"outcomes"', '"kind":"record"'),
        ('"ids":["0","7"]', '"ids":["0"]'),
        ('"examples":[0,1]', '"examples":[0,2]'),
        ('"examples":[0,1]', '"examples":[0,-1]'),
        ('"examples":[0,1]', '"examples":[0]'),
        ('"examples":[0,1]', '"examples":null'),
        ("[0.125,1.0]", "[0.125]"),
        ("[0.125,1.0]", '["x",1.0]'),
        ('["a “red”","dog","cat"]', '["dog","cat"]'),
        ('"metrics":{', '"metrics":{"odd":3,'),
        ('"metrics"', '"results"'),
    ],
)
def test_items_that_contradict_themselves_are_refused(path: Path, old: str, new: str) -> None:
    text = gzip.decompress(outcomes_path(path).read_bytes()).decode()
    assert old in text
    record = with_items_text(path, text.replace(old, new))
    with pytest.raises(RecordError, match=outcomes_path(path, record).name) as caught:
        read_outcomes(path, record)
    assert one_line(str(caught.value))


@pytest.mark.parametrize("value", [None, [], {}, 3, "items", [{"schema": 1}], {"schema": 1}])
def test_other_json_holds_no_items(value: object) -> None:
    with pytest.raises(RecordError, match="here: expected a file of kind 'outcomes'"):
        from_json(value, "here")


def test_items_of_another_record_are_refused(path: Path, tmp_path: Path) -> None:
    fewer = replace(ITEMS, ids=("0", "8"))
    other = write(made_record(outcomes=fewer, protocol="lm-eval"), tmp_path)
    outcomes_path(path).write_bytes(outcomes_path(other).read_bytes())
    words = f"{outcomes_path(path).name} does not belong to {path.name}: the checksums differ"
    with pytest.raises(RecordError, match=words):
        read_outcomes(path, read(path))
    assert read_outcomes(other, read(other)) == fewer


def test_missing_items_say_to_run_again(path: Path) -> None:
    outcomes_path(path).unlink()
    line = refused("compare", path, path)
    assert f"{path.name} has no outcomes file next to it" in line
    assert "No such file" in line
    assert "run the benchmark again with the same command" in line


def test_a_record_that_never_had_items_says_the_same(tmp_path: Path) -> None:
    path = write(made_record(), tmp_path)
    assert list(path.parent.iterdir()) == [path]
    assert "run the benchmark again" in refused("power", path)


def test_a_folder_of_records_does_not_take_items_for_records(path: Path, tmp_path: Path) -> None:
    [run] = load([tmp_path])
    assert (run.record, run.outcomes, run.file) == (read(path), ITEMS, str(path))


# --- what is shown ------------------------------------------------------------------------

EXAMPLE = Example("3", {}, ("mat", "rug"))


def shown(*pairs: tuple[Request, Response]) -> Shown:
    return show(EXAMPLE, pairs)


def answer(*logprobs: float, greedy: bool = False) -> Scored:
    return Scored(logprobs, (greedy,) * len(logprobs))


def written(text: str) -> Generated:
    return Generated(text, (1, 2), (-1.0, -2.0), 2, "length")


def test_shown_of_one_continuation_is_its_probability() -> None:
    found = shown((Loglikelihood("the cat sat on the", " mat"), answer(-1.25, -2.5)))
    assert found == Shown("the cat sat on the", "mat | rug", "mat (-3.75 nats)")


def test_shown_of_a_continuation_says_that_it_was_the_first_choice() -> None:
    found = shown((Loglikelihood("on the", " mat"), answer(-0.5, -0.25, greedy=True)))
    assert found.response == "mat (-0.75 nats, argmax)"
    assert "argmax" not in shown((Loglikelihood("on the", " mat"), answer(-0.1))).response


def test_shown_of_several_continuations_is_the_most_probable() -> None:
    nats = {" sofa": -5.0, " mat": -4.5, " rug": -7.25}
    found = shown(*((Loglikelihood("on the", word), answer(x)) for word, x in nats.items()))
    assert found == Shown("on the", "mat | rug", "mat (-4.50 nats)")


def test_shown_of_a_next_word_is_the_word_before_any_probability() -> None:
    probability = (Loglikelihood("on the", " mat"), answer(-9.0))
    word = (NextWord("on the", frozenset({"a"})), Word(" bed ", ("a",)))
    assert shown(word) == Shown("on the", "mat | rug", "bed")
    assert shown(probability, word) == Shown("on the", "mat | rug", "bed; mat (-9.00 nats)")


def test_shown_of_generated_text_is_the_last() -> None:
    first = (Generate(("Q: who", "? A:"), 8), written(" a dog\n"))
    second = (Generate(("Q: where? A:",), 8), written(" on the mat \n"))
    assert shown(first) == Shown("Q: who? A:", "mat | rug", "a dog")
    assert shown(first, second) == Shown("Q: who? A:", "mat | rug", "on the mat")


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ((" = Cats = \n", " They sit . \n"), " = Cats = \n They sit . \n"),
        ((b"caf\xc3", b"\xa9 \xff"), "café \\xff"),
    ],
)
def test_shown_of_a_rolling_text_is_its_beginning_and_nats(
    pieces: tuple[str, ...] | tuple[bytes, ...], text: str
) -> None:
    rolled = Rolled((answer(-1.5, -2.0), answer(-0.25)))
    assert shown((RollingLoglikelihood(pieces), rolled)) == Shown(text, "", "-3.75 nats")


def test_shown_of_nothing_is_empty() -> None:
    assert shown() == Shown("", "", "")


@pytest.mark.parametrize("length", [MAX_SHOWN_CHARS, MAX_SHOWN_CHARS + 1, 3 * MAX_SHOWN_CHARS])
def test_long_texts_keep_the_end_of_a_prompt_and_the_start_of_an_answer(length: int) -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(length))
    whole = length <= MAX_SHOWN_CHARS
    end = text if whole else "..." + text[length - MAX_SHOWN_CHARS :]
    start = text if whole else text[:MAX_SHOWN_CHARS] + "..."
    long = Example("3", {}, (text,))
    found = show(long, [(Generate((text,), 8), written(text))])
    assert found == Shown(end, start, start)
    rolled = show(long, [(RollingLoglikelihood((text,)), Rolled((answer(-1.0),)))])
    assert rolled == Shown(start, "", "-1.00 nats")


@given(st.lists(TEXTS, max_size=3), TEXTS, TEXTS)
def test_no_text_is_longer_than_the_limit_and_its_dots(
    references: Sequence[str], prompt: str, text: str
) -> None:
    example = Example("3", {}, tuple(reference * 40 for reference in references))
    found = show(example, [(Generate((prompt * 40,), 8), written(text * 40))])
    assert all(len(part) <= MAX_SHOWN_CHARS + 3 for part in found)


# --- kills and interleavings ----------------------------------------------------------------

RUNS = [made_record(seconds=float(n), outcomes=replace(ITEMS, ids=(str(n), "7"))) for n in (1, 2)]
WRITERS = {"write", "replace_content", "_remove_old_outcomes"}


def at_line(wanted: int, then: Callable[[], object], action: Callable[[], object]) -> bool:
    """Do an action; before the line of that number of its writing, do `then`. Whether it came."""
    passed = count()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_name not in WRITERS or "harness" not in frame.f_code.co_filename:
            return None
        if event == "line" and next(passed) == wanted:
            sys.settrace(None)
            then()
        return trace

    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(None)
    return next(passed) > wanted


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not forced to the disk: that is for power cuts, which are not tried here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def forked(action: Callable[[], object]) -> int:
    """The id of a process that does an action and ends with 0, or with 1 after an error."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def complete(path: Path, among: Sequence[Record]) -> Record:
    """The run on disk, which is one of these with its own outcomes."""
    [run] = load([path])
    record, items = run.record, run.outcomes
    [found] = [run for run in among if run.seconds == record.seconds]
    assert items == found.outcomes
    return record


@pytest.mark.usefixtures("quick")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_at_any_line_leaves_the_old_run_or_the_new_one(tmp_path: Path) -> None:
    seen, line, code = [], 0, 9
    while code == 9:
        folder = tmp_path / str(line)
        path = write(RUNS[0], folder)
        child = forked(partial(at_line, line, lambda: os._exit(9), partial(write, RUNS[1], folder)))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        seen.append(complete(path, RUNS).seconds)
        assert write(RUNS[1], folder) == path
        assert complete(path, RUNS).seconds == 2
        assert len(list(path.parent.iterdir())) == 2, "the next run sweeps what was left"
        line += 1
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}
    assert line > 30


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("before", [None, 0, 1])
def test_a_run_written_in_the_midst_of_another_leaves_one_of_them(
    before: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks, as some file systems are: at any line of the one, all of the other."""
    monkeypatch.setattr(atomic, "locked", lambda folder: nullcontext(False))
    line, came = 0, True
    while came:
        folder = tmp_path / str(line)
        if before is not None:  # the same bytes as one of the two are there already
            write(RUNS[before], folder)
        came = at_line(line, partial(write, RUNS[0], folder), partial(write, RUNS[1], folder))
        complete(folder / "gpt2-a1a1a1a1" / RUNS[1].filename(), RUNS)
        line += 1
    assert line > 30


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_writers_and_a_reader_see_whole_runs(tmp_path: Path) -> None:
    path = write(RUNS[0], tmp_path)

    def write_often(run: Record) -> None:
        for _ in range(40):
            write(run, tmp_path)

    writers = [forked(partial(write_often, run)) for run in RUNS]
    while writers:
        complete(path, RUNS)
        for pid in list(writers):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                assert status == 0
                writers.remove(pid)
    complete(path, RUNS)
    assert len(list(path.parent.iterdir())) == 2


def test_items_under_their_old_name_are_read_and_go_with_the_next_run(path: Path) -> None:
    old = path.with_name(path.name.replace(".json", ".items.json.gz"))
    outcomes_path(path).rename(old)
    assert outcomes_path(path) == old
    assert read_outcomes(path, read(path)) == ITEMS
    [run] = load([path])
    assert run.outcomes == ITEMS
    again = write(made_record(outcomes=ITEMS), path.parent.parent)
    assert again == path
    assert sorted(path.parent.iterdir()) == sorted([path, outcomes_path(path)])
    assert not old.exists()


def test_items_of_other_records_beside_it_stay(path: Path, tmp_path: Path) -> None:
    other = write(made_record(outcomes=ITEMS, protocol="lm-eval"), tmp_path)
    write(RUNS[0], tmp_path)
    assert read_outcomes(other, read(other)) == ITEMS


@pytest.mark.parametrize("name", ["../../other", "", 5, "0" * 64])
def test_a_checksum_that_is_none_leads_nowhere(path: Path, name: object) -> None:
    record = replace(read(path), outcomes_sha256=name)  # type: ignore[arg-type]
    assert outcomes_path(path, record).parent == path.parent
    with pytest.raises(RecordError, match="has no outcomes file next to it"):
        read_outcomes(path, record)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"schema":1,"ids":' + "9" * 5000 + "}", '{"schema":1,"ids":["0"],"of":1e999}'],
)
def test_items_that_no_parser_should_take_are_refused_in_one_line(path: Path, text: str) -> None:
    record = with_items_text(path, text)
    with pytest.raises(RecordError, match="is damaged or not written by the harness") as caught:
        read_outcomes(path, record)
    assert one_line(str(caught.value))
    assert len(str(caught.value)) < 250
