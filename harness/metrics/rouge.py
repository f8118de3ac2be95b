"""Sentences and ROUGE of summaries.

Sentences are split by sentencex, the splitter of the Wikimedia Foundation. ROUGE comes from
rouge-score, Google's port of ROUGE-1.5.5. ROUGE-L is the summary-level variant with one sentence
per line (Lin 2004, section 3.2), which papers on CNN/DailyMail report.
"""

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

ROUGE = ("rouge-1", "rouge-2", "rouge-l")
SPLITTER = "sentencex"


def sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text, without surrounding white space."""
    from sentencex import segment

    parts = (part.strip() for part in segment(language, text))
    return [part for part in parts if part]


def lead_sentences(text: str, count: int) -> list[str]:
    """The first sentences of a text."""
    return sentences(text)[:count]


def random_sentences(text: str, count: int, seed: str) -> list[str]:
    """A random subset of the sentences of a text, in text order."""
    all_sentences = sentences(text)
    places = range(len(all_sentences))
    chosen = random.Random(seed).sample(places, min(count, len(places)))
    return [all_sentences[place] for place in sorted(chosen)]


def rouge(summary: Sequence[str], reference: str, *, stem: bool = False) -> tuple[float, ...]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L, each from 0 to 1.

    Args:
        summary: the sentences of the summary.
        reference: one sentence per line.
        stem: whether to reduce words to their stems first.
    """
    # A line break inside a sentence would count as the beginning of another one.
    lines = (" ".join(sentence.split()) for sentence in summary)
    scores = _scorer(stem).score(reference, "\n".join(lines))
    return tuple(float(scores[name].fmeasure) for name in ("rouge1", "rouge2", "rougeLsum"))


@cache
def _scorer(stem: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=stem)
