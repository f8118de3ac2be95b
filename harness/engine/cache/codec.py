"""Answers to and from bytes. Nothing is pickled, and reading checks everything that it can.

    scores   log-probabilities as little-endian float32, then one bit each: is it the argmax?
    word     JSON: [text, skipped words]
    written  JSON: [text, tokens of the text, what ended it], a line break, then token ids as
             little-endian int32 and log-probabilities as float32

Nothing here needs torch, so that `harness cache check` is quick.
"""

import numpy as np
from numpy.typing import NDArray

from harness.core import Generated, Word
from harness.files import strict_json

ROUNDING = 0.01  # nats: a log-probability of 0 may come out this much too high in low precision
_ENDED = ("stop", "end", "length")


def plausible(logprobs: NDArray[np.float32]) -> bool:
    """Whether all numbers can be log-probabilities: finite, and at most 0 but for rounding."""
    return bool(np.isfinite(logprobs).all() and (logprobs <= ROUNDING).all())


def unpack_scores(value: bytes, count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Log-probabilities and argmax flags, each (count,).

    Raises:
        ValueError: the bytes are not the scores of so many tokens.
    """
    if len(value) != 4 * count + (count + 7) // 8:
        raise ValueError(f"{len(value)} bytes for the scores of {count} tokens")
    logprobs = np.frombuffer(value, "<f4", count).astype(np.float32)
    flags = np.unpackbits(np.frombuffer(value, np.uint8, offset=4 * count))
    if not plausible(logprobs) or flags[count:].any():
        raise ValueError("scores that are not log-probabilities")
    return logprobs, flags[:count].astype(np.bool_)


def unpack_word(value: bytes) -> Word:
    """The word.

    Raises:
        ValueError: the bytes do not hold one.
    """
    parts = strict_json.loads(value)
    if not (isinstance(parts, list) and len(parts) == 2 and isinstance(parts[0], str)):
        raise ValueError("not a word with skipped words")
    text, skipped = parts
    if not (isinstance(skipped, list) and all(isinstance(word, str) for word in skipped)):
        raise ValueError("skipped words that are not words")
    return Word(text, tuple(skipped))


def unpack_written(value: bytes) -> Generated:
    """The written text with its tokens.

    Raises:
        ValueError: the bytes do not hold one, or its parts contradict each other.
    """
    head, _, arrays = value.partition(b"\n")
    parts = strict_json.loads(head)
    if not (isinstance(parts, list) and [type(part) for part in parts] == [str, int, str]):
        raise ValueError("not a text with a number of tokens and what ended it")
    text, num_tokens, ended = parts
    count, rest = divmod(len(arrays), 8)
    if rest or not 0 <= num_tokens <= count or not count or ended not in _ENDED:
        raise ValueError(f"{len(arrays)} bytes for the tokens of a text")
    tokens = np.frombuffer(arrays, "<i4", count)
    logprobs = np.frombuffer(arrays, "<f4", offset=4 * count)
    if not plausible(logprobs) or (tokens < 0).any():
        raise ValueError("tokens or scores that cannot be")
    return Generated(text, tuple(tokens.tolist()), tuple(logprobs.tolist()), num_tokens, ended)


def check_any(value: bytes) -> None:
    """Make sure that the bytes can be the answer to some question, which is not known here.

    Raises:
        ValueError: they cannot.
    """
    if value[:1] != b"[":
        unpack_scores(value, max(len(value) * 8 // 33, 1))  # 33 bits for each token
        return
    try:
        (unpack_written if b"\n" in value else unpack_word)(value)
    except ValueError:
        unpack_scores(value, max(len(value) * 8 // 33, 1))  # a float may begin with any byte
