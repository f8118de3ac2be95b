"""n-grams the slow and plain way: the referee of several test files."""

import re
from functools import cache


def words(text: str) -> list[str]:
    """Runs of letters and digits, each character lower-cased on its own."""
    return re.findall(r"[^\W_]+", "".join(c.lower() for c in text))


def grams(text: str, n: int) -> list[str]:
    """All n-grams, words joined by a space."""
    found = words(text)
    return [" ".join(found[i : i + n]) for i in range(len(found) - n + 1)]


@cache
def of_all(documents: tuple[str, ...], n: int) -> list[str]:
    """The n-grams of some documents, each occurrence."""
    return [gram for document in documents for gram in grams(document, n)]


def share(looked_for: list[str], corpus: list[str], n: int) -> tuple[int, int]:
    """(occurrences of n-grams in some documents, those that a corpus of documents has)."""
    mine, known = of_all(tuple(looked_for), n), set(of_all(tuple(corpus), n))
    return len(mine), sum(gram in known for gram in mine)
