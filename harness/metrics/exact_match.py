"""Exact match and F1 of short answers against references.

The rules are those of the official scripts of SQuAD v1.1 (evaluate-v1.1; Rajpurkar et al. 2016,
arXiv:1606.05250) and CoQA (evaluate-v1.0; Reddy et al. 2019, arXiv:1808.07042), which normalise
answers alike. CoQA leaves out each of several references in turn, as it does to score people.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

Compare = Callable[[str, str], float]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces.

    >>> normalise_answer("The  cat's hat, an old one!")
    'cats hat old one'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1 if the two are equal after normalising, else 0."""
    return float(normalise_answer(prediction) == normalise_answer(reference))


def f1(prediction: str, reference: str) -> float:
    """F1 over the bags of normalised words, from 0 to 1; two empty texts agree."""
    words, expected = normalise_answer(prediction).split(), normalise_answer(reference).split()
    if not words or not expected:
        return float(words == expected)
    common = sum((Counter(words) & Counter(expected)).values())
    return 2 * common / (len(words) + len(expected))


def max_over_references(compare: Compare, prediction: str, references: Sequence[str]) -> float:
    """The best score with any of the references."""
    return max(compare(prediction, reference) for reference in references)


def leave_one_out(compare: Compare, prediction: str, references: Sequence[str]) -> float:
    """`leave_one_out_mean` of the scores with each reference."""
    return leave_one_out_mean([compare(prediction, reference) for reference in references])


def leave_one_out_mean(scores: Sequence[float]) -> float:
    """Mean, over the references left out, of the best score with the others.

    `scores` has one score per reference; a single one is returned as it is.
    """
    if len(scores) == 1:
        return scores[0]
    # The maximum changes only if the reference that holds it is left out.
    first, second, *_ = sorted(scores, reverse=True)
    return ((len(scores) - 1) * first + second) / len(scores)
