"""Strict JSON: what is accepted reads as `json` reads it, what is refused says why in one line."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.files.strict_json import MAX_DIGITS, loads

LARGEST = 10**MAX_DIGITS - 1
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-LARGEST, LARGEST)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),  # whole characters, those beyond the first plane included
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(PLAIN, st.booleans())
def test_plain_values_read_back(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert loads(text) == value
    assert loads(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("[1,", "Expecting value"),
        ("\ufeff{}", "BOM"),
        (b"\xff", "can't decode byte 0xff"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("9" * 5000, "an integer has 5,000 digits, expected at most 300"),
        ("[1, -" + "9" * 400 + "]", "an integer has 400 digits"),
        ("NaN", "NaN is not a finite number"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ("1e999", "1e999 is not a finite number"),
        (r'"\ud83d"', r"half of a surrogate pair ('\ud83d')"),
        (r'{"\uDE00": 1}', r"half of a surrogate pair ('\ude00')"),
        ('"\ud800"', r"half of a surrogate pair ('\ud800')"),
    ],
)
def test_what_is_refused_says_why_in_one_line(text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are compared below
        loads(text)
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert len(message) < 200


def test_what_is_refused_by_default_can_be_allowed() -> None:
    assert math.isnan(loads("NaN", allow_nan=True))
    assert loads("[1e999, -Infinity]", allow_nan=True) == [math.inf, -math.inf]
    assert loads(r'"\ud83d"', allow_surrogates=True) == "\ud83d"
    assert loads(r'"\ud83d\ude00"') == "\U0001f600"
