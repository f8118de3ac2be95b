"""Short answers against references: normalising, exact match, and F1 over words.

The rules are those of the official scripts: SQuAD v1.1's evaluate (Rajpurkar et al. 2016,
arXiv:1606.05250) and CoQA's evaluate-v1.0 (Reddy et al. 2019, arXiv:1808.07042), which normalise
alike. CoQA compares with several references by leaving each out in turn, as it does for people.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness import moved

Compare = Callable[[str, str], float]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces.

    >>> normalise("The  cat's hat, an old one!")
    'cats hat old one'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1 if both are the same after normalising, else 0."""
    return float(normalise_answer(prediction) == normalise_answer(reference))


def f1(prediction: str, reference: str) -> float:
    """F1 over the bags of normalised words, from 0 to 1; two empty texts agree."""
    found, wanted = normalise_answer(prediction).split(), normalise_answer(reference).split()
    if not found or not wanted:
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted))


def max_over_references(compare: Compare, prediction: str, references: Sequence[str]) -> float:
    """The best agreement with any of the references."""
    return max(compare(prediction, reference) for reference in references)


def leave_one_out(compare: Compare, prediction: str, references: Sequence[str]) -> float:
    """Mean, over the references left out, of the best agreement with the others.

    One reference is compared with directly. Equal references all count.
    """
    if len(references) == 1:
        return compare(prediction, references[0])
    # Leaving one out changes the maximum only if it is the one that holds it.
    scores = sorted((compare(prediction, reference) for reference in references), reverse=True)
    return ((len(scores) - 1) * scores[0] + scores[1]) / len(scores)


if not TYPE_CHECKING:  # old names
    __getattr__ = moved.attributes(__name__)
