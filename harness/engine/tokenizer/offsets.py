"""Find the character of a text at which each token begins.

Tokenizers report a span of characters per token. With `trim_offsets` the span leaves out leading
spaces, a character of several bytes is in the spans of several tokens, and what a normaliser
removes is in none.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from harness.errors import EncodingError


def token_starts(
    text: str, spans: NDArray[np.int64], token_text: Callable[[int], str]
) -> NDArray[np.int64]:
    """Return the character at which each token begins, so that every character is in one token.

    A character of several tokens is in the first. White space that the spans leave out is in the
    token whose text has it; what no token has is in the next one.

    Args:
        text: what was encoded, not empty.
        spans: (tokens, 2); first and last (exclusive) character of each token.
        token_text: gives the text of the token with an index, inside a running text.

    Raises:
        EncodingError: the spans go back, or beyond the text.
    """
    starts, ends = spans[:, 0].copy(), spans[:, 1]
    # The end of all tokens before each one: characters from there to its start are in no span.
    previous_end = np.maximum.accumulate(np.concatenate([np.zeros(1, np.int64), ends]))[:-1]
    invalid = (np.diff(starts, prepend=0) < 0) | (ends < starts) | (ends > len(text))
    if invalid.any():
        k = int(invalid.argmax())
        raise EncodingError(
            f"the tokenizer says that token {k} ({token_text(k)!r}) stands for the characters "
            f"{starts[k]} to {ends[k]} of a text of {len(text)}, where {previous_end[k]} are "
            "taken; expected tokens that follow one another"
        )
    for k in map(int, np.flatnonzero(starts > previous_end)):
        piece = token_text(k)
        leading = len(piece) - len(piece.lstrip())
        trimmed = min(leading, len(piece) - int(ends[k] - starts[k]))
        if trimmed > 0:
            starts[k] = max(previous_end[k], starts[k] - trimmed)
        elif not (k and token_text(k - 1)[-1:].isspace()):
            starts[k] = previous_end[k]
    return np.minimum(starts, len(text) - 1)
