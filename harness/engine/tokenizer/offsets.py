"""At which character of a text each token begins: what a tokenizer says of it, checked.

Tokenizers give each token a span of characters. With `trim_offsets` the spaces in front are left
out, a character of several bytes is in the spans of several tokens, and what a normaliser removes
is in none.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.errors import EncodingError


def token_starts(
    text: str, spans: Sequence[tuple[int, int]], piece: Callable[[int], str]
) -> NDArray[np.int64]:
    """The character at which each token begins, such that every character is in one token.

    A character of several tokens is in the first. White space that the spans leave out is in the
    token whose text has it; what no token has is in the next one.

    Args:
        text: what was encoded, not empty.
        spans: first and last (exclusive) character of each token.
        piece: place of a token -> its text inside a running text.

    Raises:
        EncodingError: the spans go back, or beyond the text.
    """
    table = np.array(spans, np.int64).reshape(-1, 2)
    starts, ends = table[:, 0].copy(), table[:, 1]
    reached = np.maximum.accumulate(ends)  # characters taken up to and with each token
    before = np.concatenate([np.zeros(1, np.int64), reached])[:-1]
    wrong = (np.diff(starts, prepend=0) < 0) | (ends < starts) | (ends > len(text))
    if wrong.any():
        k = int(wrong.argmax())
        raise EncodingError(
            f"the tokenizer says that token {k} ({piece(k)!r}) stands for the characters "
            f"{starts[k]} to {ends[k]} of a text of {len(text)}, where {before[k]} are taken; "
            "expected tokens that follow one another"
        )
    for k in map(int, np.flatnonzero(starts > before)):
        own = piece(k)
        leading = len(own) - len(own.lstrip())
        trimmed = min(leading, len(own) - int(ends[k] - starts[k]))
        if trimmed > 0:
            starts[k] = max(before[k], starts[k] - trimmed)
        elif not (k and piece(k - 1)[-1:].isspace()):
            starts[k] = before[k]
    return np.minimum(starts, len(text) - 1)
