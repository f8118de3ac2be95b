"""Summaries: sentences and ROUGE.

Sentences are split by sentencex, the splitter of the Wikimedia Foundation; ROUGE comes from
rouge-score, Google's port of ROUGE-1.5.5. ROUGE-L is the one of whole summaries, a sentence a
line (Lin 2004, section 3.2), which is what papers on CNN/DailyMail report.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from harness import moved

ROUGE = ("rouge-1", "rouge-2", "rouge-l")
SPLITTER = "sentencex"


def sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text, without outer white space."""
    from sentencex import segment

    parts = (part.strip() for part in segment(language, text))
    return [part for part in parts if part]


def lead_sentences(text: str, count: int) -> list[str]:
    """The first sentences of a text."""
    return sentences(text)[:count]


def random_sentences(text: str, count: int, seed: str) -> list[str]:
    """Sentences of a text taken at random, in their order."""
    found = sentences(text)
    chosen = random.Random(seed).sample(range(len(found)), min(count, len(found)))
    return [found[i] for i in sorted(chosen)]


def rouge(summary: Sequence[str], reference: str, *, stem: bool = False) -> tuple[float, ...]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L, each from 0 to 1.

    Args:
        summary: its sentences.
        reference: a sentence a line.
        stem: whether words are reduced to their stems first.
    """
    lines = (" ".join(sentence.split()) for sentence in summary)  # a break would be a sentence more
    found = _scorer(stem).score(reference, "\n".join(lines))
    return tuple(float(found[name].fmeasure) for name in ("rouge1", "rouge2", "rougeLsum"))


@cache
def _scorer(stem: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=stem)


if not TYPE_CHECKING:  # old names
    __getattr__ = moved.attributes(__name__)
