"""BLEU and chrF against sacrebleu's own command, naive counts, and values by hand."""

import json
import os
import subprocess
import sys
from collections import Counter
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from harness.metrics import Outcome
from harness.metrics.bleu import (
    BLEU_COUNTS,
    CHRF_COUNTS,
    bleu,
    bleu_counts,
    chrf,
    chrf_counts,
    signature,
)

Pairs = list[tuple[str, str]]
"""(translation, reference) of each sentence."""

CORPORA: dict[str, Pairs] = {
    "close": [
        ("The cat sat on the mat, quietly.", "The cat sat on a mat, quietly."),
        ("It paid $1,000.50 to the U.S. army.", "It paid 1,000 dollars to the US Army."),
        ("the Cat", "The cat ran away."),
        ("Nobody - not even he - knew what to do with it.", "Nobody (not even he) knew it."),
    ],
    "typography": [
        ("L’homme a dit «non» à 3 h.", "L'homme a dit « non » à 3h."),
        ("Il a payé 3,50€ – c’est cher…", "Il a payé 3,50 € — c'est cher..."),
        ("naïve cafe\u0301 猫 &amp; &quot;犬&quot;", "naïve café 猫 & \"犬\""),
    ],
    "no four words in a row": [("red sea and sand", "red sea, sand"), ("a b", "b a")],
    "nothing in common": [("un deux trois quatre", "5 6 7 8")],
    "too short": [("sand", "sand"), ("sea", "sea")],
    "empty lines": [("", "the house is red"), ("the house is red now", ""), ("  ", "sand")],
    "line breaks inside": [
        ("the sand\u2028and the\x85sea", "the sand and the sea"),
        ("the\rsand\x0band the sea", "the sand and the\u2029sea"),
        ("the sand<|endoftext|>and the sea", "the sand and the sea"),
    ],
}  # fmt: skip
WORDS = st.lists(st.sampled_from(["sea", "sand", "the", "gull"]), max_size=8).map(" ".join)
LETTERS = st.text(alphabet="abé \u00a0", max_size=12)


def command(folder: Path, pairs: Pairs, *options: str) -> Any:
    """What sacrebleu prints for two files, as JSON."""
    for place, name in enumerate(("hypotheses", "references")):
        text = "".join(f"{pair[place]}\n" for pair in pairs)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    done = subprocess.run(
        [sys.executable, "-m", "sacrebleu", "references", "-i", "hypotheses", *options],
        cwd=folder,
        env={**os.environ, "SACREBLEU_FORMAT": "json"},
        capture_output=True,
        check=True,
    )
    return json.loads(done.stdout)


def total(outcomes: list[Outcome]) -> list[float]:
    return [sum(column) for column in zip(*outcomes, strict=True)]


def bleu_sums(pairs: Pairs, tokenize: str = "13a") -> list[float]:
    return total([(*bleu_counts(*pair, tokenize), 1.0) for pair in pairs])


def chrf_sums(pairs: Pairs) -> list[float]:
    return total([(*chrf_counts(*pair), 1.0) for pair in pairs])


def ngrams(items: str | list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))


# --- against sacrebleu ----------------------------------------------------------------------


@pytest.mark.parametrize("tokenize", ["13a", "intl"])
@pytest.mark.parametrize("corpus", CORPORA)
def test_scores_equal_what_sacrebleu_prints(tmp_path: Path, corpus: str, tokenize: str) -> None:
    pairs = CORPORA[corpus]
    options = ("-m", "bleu", "chrf", "-tok", tokenize, "-b", "-w", "6")
    found = [bleu(1).compute(bleu_sums(pairs, tokenize)), chrf(1).compute(chrf_sums(pairs))]
    assert [round(score, 6) for score in found] == command(tmp_path, pairs, *options)


@pytest.mark.parametrize("tokenize", ["13a", "intl", "char"])
def test_signature_is_sacrebleus(tmp_path: Path, tokenize: str) -> None:
    printed = command(tmp_path, CORPORA["close"], "-tok", tokenize)["signature"]
    assert signature(tokenize).split(",") == printed.split("|")


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_counts_of_sentences_add_up_to_those_of_the_corpus(pairs: Pairs) -> None:
    hypotheses, references = [h for h, _ in pairs], [r for _, r in pairs]
    whole = BLEU().corpus_score(hypotheses, [references])
    sums = bleu_sums(pairs)
    assert sums == [*whole.counts, *whole.totals, whole.sys_len, whole.ref_len, len(pairs)]
    assert bleu(1).compute(sums) == pytest.approx(whole.score)
    score = CHRF().corpus_score(hypotheses, [references]).score
    assert chrf(1).compute(chrf_sums(pairs)) == pytest.approx(score)


# --- against naive counts -------------------------------------------------------------------


@given(WORDS, WORDS)
def test_bleu_counts_are_ngrams_of_words(translation: str, reference: str) -> None:
    ours, theirs = translation.split(), reference.split()
    want = {"length": len(ours), "reference_length": len(theirs)}
    for n in range(1, 5):
        found, wanted = ngrams(ours, n), ngrams(theirs, n)
        want |= {f"total{n}": found.total(), f"correct{n}": (found & wanted).total()}
    counts = bleu_counts(translation, reference, "13a")
    assert dict(zip(BLEU_COUNTS, counts, strict=True)) == want


@given(LETTERS, LETTERS)
def test_chrf_counts_are_ngrams_of_letters(translation: str, reference: str) -> None:
    ours, theirs = "".join(translation.split()), "".join(reference.split())
    want = {}
    for n in range(1, 7):
        found, wanted = ngrams(ours, n), ngrams(theirs, n)
        want[f"hypothesis{n}"] = found.total() if wanted else 0  # as sacrebleu does
        want |= {f"reference{n}": wanted.total(), f"match{n}": (found & wanted).total()}
    counts = chrf_counts(translation, reference)
    assert dict(zip(CHRF_COUNTS, counts, strict=True)) == want


# --- by hand --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("translation", "reference", "score"),
    [
        ("a b c d e", "a b c d e", 100),
        ("a b c d e", "a b c d f", 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
        ("a b c d", "a b c d e", 100 * exp(1 - 5 / 4)),  # shorter than the reference
        ("a b c d e", "a b c d", 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
        # no four words in a row: half a match
        ("a b c x", "a b c y", 100 * (3 / 4 * 2 / 3 * 1 / 2 * 0.5 / 1) ** 0.25),
        # none of three or four: half and a quarter of a match
        ("a b x c d", "a b y c d", 100 * (4 / 5 * 2 / 4 * 0.5 / 3 * 0.25 / 2) ** 0.25),
        ("A b c d e", "a b c d e", 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
        ("x y", "a b", 0),
    ],
)
def test_bleu_by_hand(translation: str, reference: str, score: float) -> None:
    found = bleu(1).compute(bleu_sums([(translation, reference)]))
    assert found == pytest.approx(score, rel=1e-12)


@pytest.mark.parametrize(
    ("translation", "reference", "score"),
    [
        ("ab", "ac", 25),  # (1/2 + 0/1) / 2, precision and recall alike
        ("a b", "ab", 100),
        ("abc", "a", 100 * 5 * (1 / 3) * 1 / (4 * (1 / 3) + 1)),  # recall counts four times
        ("ab", "cd", 0),
        ("", "ab", 0),
    ],
)
def test_chrf_by_hand(translation: str, reference: str, score: float) -> None:
    found = chrf(1).compute(chrf_sums([(translation, reference)]))
    assert found == pytest.approx(score, rel=1e-12)


def test_tokenizers_part_quotation_marks_differently() -> None:
    length, matches = BLEU_COUNTS.index("length"), BLEU_COUNTS.index("correct1")
    plain, intl = (bleu_counts("«non»", "« non »", tokenize) for tokenize in ("13a", "intl"))
    assert (plain[length], plain[matches]) == (1, 0)
    assert (intl[length], intl[matches]) == (3, 3)


# --- several runs ---------------------------------------------------------------------------


def runs(*translations: str) -> list[float]:
    """Sums of one sentence that each run translates in its own way."""
    counts = [bleu_counts(translation, "a b c d e", "13a") for translation in translations]
    return total([(*(count for run in counts for count in run), 1.0)])


def test_mean_and_spread_over_runs_by_hand() -> None:
    sums = runs("a b c d e", "x y", "a b c d")
    scores = [100, 0, 100 * exp(1 - 5 / 4)]
    mean = sum(scores) / 3
    assert bleu(3).compute(sums) == pytest.approx(mean)
    variance = sum((score - mean) ** 2 for score in scores) / 2
    assert bleu(3, spread=True).compute(sums) == pytest.approx(variance**0.5)
    assert bleu(2, spread=True).compute(runs("a b", "a b")) == 0


def test_spread_is_better_the_smaller_it_is() -> None:
    assert bleu(3).higher_is_better
    assert chrf(3).higher_is_better
    assert not bleu(3, spread=True).higher_is_better


def test_mean_of_chrf_over_runs_by_hand() -> None:
    sums = total([(*chrf_counts("ab", "ac"), *chrf_counts("ac", "ac"), 1.0)])
    assert chrf(2).compute(sums) == pytest.approx((25 + 100) / 2)


def test_resamples_are_scored_as_single_corpora() -> None:
    pairs = [pair for corpus in CORPORA.values() for pair in corpus]
    cases = {
        bleu(2): [(*bleu_counts(h, r, "13a"), *bleu_counts(r, h, "13a"), 1.0) for h, r in pairs],
        bleu(2, spread=True): [
            (*bleu_counts(h, r, "13a"), *bleu_counts(h, h, "13a"), 1.0) for h, r in pairs
        ],
        chrf(2): [(*chrf_counts(h, r), *chrf_counts(r, h), 1.0) for h, r in pairs],
    }
    draws = np.random.default_rng(0).integers(0, len(pairs), (20, len(pairs)))
    for metric, outcomes in cases.items():
        sums = np.array(outcomes)[draws].sum(axis=1)  # (resamples, statistics)
        found = metric.compute([*sums.T])
        assert found.shape == (20,)
        assert found.tolist() == [metric.compute(row.tolist()) for row in sums]
