"""Exact match and F1 against worked values and a literal reading of the official scripts."""

import string
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.exact_match import (
    Compare,
    exact_match,
    f1,
    leave_one_out,
    max_over_references,
    normalise_answer,
)

PIECES = [
    *("a", "an", "the", "The", "A", "cat", "Cat's", "cats", "yes", "1,000", "U.S.", "theatre"),
    *("é", "É", "ß", "Σ", "İ", "“", "–", "_", "-", ".", "\u0301", "\u00a0", "\n", "\t", " ", "  "),
]
TEXT = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join),
    st.text(max_size=12),
)
REFERENCES = st.lists(TEXT, min_size=1, max_size=5)


def official_words(text: str) -> list[str]:
    """Lower case, punctuation deleted, articles made spaces, split at white space."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    runs = ["".join(run) for _, run in groupby(kept, key=str.isalnum)]
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def official_exact(prediction: str, reference: str) -> float:
    return float(official_words(prediction) == official_words(reference))


def official_f1(prediction: str, reference: str) -> float:
    found, wanted = official_words(prediction), official_words(reference)
    if not found or not wanted:
        return float(found == wanted)
    left = wanted.copy()
    for word in found:
        if word in left:
            left.remove(word)
    same = len(wanted) - len(left)
    if not same:
        return 0.0
    precision, recall = same / len(found), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def official_turn(compare: Compare, prediction: str, references: list[str]) -> float:
    """Each reference left out in turn, the best of the others, the mean of these."""
    if len(references) == 1:
        return compare(prediction, references[0])
    total = 0.0
    for i in range(len(references)):
        others = references[:i] + references[i + 1 :]
        total += max(compare(prediction, other) for other in others)
    return total / len(references)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("an apple a day", "apple day"),
        ("  two\t spaces\n\nand   lines ", "two spaces and lines"),
        ("U.S.", "us"),
        ("$1,000.50", "100050"),
        ("snake_case", "snakecase"),
        ("A", ""),
        ("The.", ""),
        ("", ""),
        ("?!", ""),
        ("theatre, banana", "theatre banana"),  # articles are whole words
        ("state-of-the-art", "stateoftheart"),  # punctuation goes first and leaves no space
        ("the-end", "theend"),
        ("A.N. Other", "other"),  # ... so that an article may come of it
        ("vitamin A", "vitamin"),
        ("École d’Été", "école d’été"),  # only ASCII punctuation goes
        ("“The” end", "“ ” end"),
        ("a–b", "–b"),  # a dash that is not ASCII ends a word
        ("a\u00a0cat\u2003sat", "cat sat"),
        ("a\u2028the\x85cat", "cat"),
        ("İstanbul", "i\u0307stanbul"),
        ("猫 and the 犬", "猫 and 犬"),
    ],
)
def test_squad_normalisation(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "reference", "em", "f1_"),
    [
        ("Saint Bernadette Soubirous.", "saint bernadette soubirous", 1, 1),
        ("the cat sat", "a cat", 0, 2 / 3),  # precision 1/2, recall 1
        ("cat cat cat", "cat", 0, 1 / 2),  # a word counts as often as in the other text
        ("cat cat dog", "cat dog dog", 0, 2 / 3),
        ("dog cat", "cat dog", 0, 1),
        ("yes", "no", 0, 0),
        ("", "no", 0, 0),
        ("no", "", 0, 0),
        ("", "", 1, 1),
        ("the", "...", 1, 1),  # both are empty after normalising
        ("the", "a cat", 0, 0),
        ("Beyoncé", "beyoncé", 1, 1),
        ("Beyonce\u0301", "Beyoncé", 0, 0),  # composed and decomposed letters are two words
    ],
)
def test_exact_match_and_f1_by_hand(prediction: str, reference: str, em: float, f1_: float) -> None:
    assert exact_match(prediction, reference) == em
    assert f1(prediction, reference) == pytest.approx(f1_, rel=1e-12)
    assert f1(reference, prediction) == pytest.approx(f1_, rel=1e-12)


# Four annotators each: Radford et al. 2019, table 16; then the first story of coqa-dev-v1.0.
CLIMB = ["unknown", "yes", "Yes", "yes"]
BARN = ["in a barn", "in a barn", "in a barn", "in a barn near"]
PAINT = ["the farmer", "the farmer's", "the old farmer's", "the farmer's"]
COLOUR = ["orange and white", "orange with white tiger stripes", "orange", "orange"]


@pytest.mark.parametrize(
    ("prediction", "references", "em", "f1_", "best_f1"),
    [
        ("Everest", CLIMB, 0, 0, 0),
        ("Yes.", CLIMB, 1, 1, 1),
        ("unknown", CLIMB, 3 / 4, 3 / 4, 1),  # with the answer itself left out, nothing agrees
        ("in the barn near", BARN, 3 / 4, (3 + 4 / 5) / 4, 1),
        ("The barn", BARN, 0, 2 / 3, 2 / 3),
        ("farmer", PAINT, 3 / 4, 3 / 4, 1),
        ("the farmer's paint", PAINT, 0, 2 / 3, 2 / 3),
        ("orange and black", COLOUR, 0, (3 * 2 / 3 + 1 / 2) / 4, 2 / 3),
        ("", CLIMB, 0, 0, 0),
        ("", ["the", "a", "cat"], 1, 1, 1),
        ("yes", ["yes", "no"], 1 / 2, 1 / 2, 1),
        ("yes", ["yes"], 1, 1, 1),
        ("big cat", ["cat"], 0, 2 / 3, 2 / 3),
    ],
)
def test_coqa_turns_by_hand(
    prediction: str, references: list[str], em: float, f1_: float, best_f1: float
) -> None:
    assert leave_one_out(exact_match, prediction, references) == pytest.approx(em, rel=1e-12)
    assert leave_one_out(f1, prediction, references) == pytest.approx(f1_, rel=1e-12)
    assert max_over_references(f1, prediction, references) == pytest.approx(best_f1, rel=1e-12)


@given(TEXT)
def test_normalising_follows_the_official_rules(text: str) -> None:
    assert normalise_answer(text) == " ".join(official_words(text))


@given(TEXT, TEXT)
def test_comparing_follows_the_official_rules(prediction: str, reference: str) -> None:
    assert exact_match(prediction, reference) == official_exact(prediction, reference)
    assert f1(prediction, reference) == pytest.approx(official_f1(prediction, reference), rel=1e-12)


@given(TEXT, REFERENCES)
def test_leaving_one_out_follows_the_official_script(
    prediction: str, references: list[str]
) -> None:
    em = official_turn(official_exact, prediction, references)
    assert leave_one_out(exact_match, prediction, references) == pytest.approx(em, rel=1e-12)
    mean = official_turn(official_f1, prediction, references)
    assert leave_one_out(f1, prediction, references) == pytest.approx(mean, rel=1e-12)


@given(TEXT, REFERENCES)
def test_best_is_what_any_reference_gives(prediction: str, references: list[str]) -> None:
    want = max(official_f1(prediction, reference) for reference in references)
    assert max_over_references(f1, prediction, references) == pytest.approx(want, rel=1e-12)
    agrees = any(official_exact(prediction, reference) for reference in references)
    assert max_over_references(exact_match, prediction, references) == agrees
