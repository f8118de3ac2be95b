"""Answers to and from bytes. Nothing is pickled, and everything that can be checked is.

    scores     log-probabilities as little-endian float32, then one bit each: is it the argmax?
    word       JSON: [text, skipped words]
    generated  JSON: [text, number of tokens in the text, what ended it], a line break, token ids
               as little-endian int32, log-probabilities as float32

Nothing here imports torch, so that `harness cache check` starts quickly.
"""

import json

import numpy as np
from numpy.typing import NDArray

from harness.core import Generated, Word
from harness.engine.queries.query import Query, Span, SpanScores, WordQuery
from harness.files import strict_json

TOLERANCE = 0.01  # nats; in low precision a log-probability of 0 may come out this much too high
_ENDED = ("stop", "end", "length")
_BITS_PER_SCORE = 33


def pack(value: SpanScores | Word | Generated) -> bytes | None:
    """Convert an answer to bytes; None if some of its numbers cannot be log-probabilities."""
    if isinstance(value, Word):
        return json.dumps([value.text, value.skipped]).encode()
    if not _plausible(np.asarray(value.logprobs, np.float32)):
        return None
    if isinstance(value, SpanScores):
        flags = np.packbits(value.greedy)
        return value.logprobs.astype("<f4").tobytes() + flags.tobytes()
    head = json.dumps([value.text, value.num_tokens, value.ended]).encode()
    logprobs = np.array(value.logprobs, "<f4").tobytes()
    return head + b"\n" + token_bytes(value.tokens) + logprobs


def unpack(query: Query, value: bytes) -> SpanScores | Word | Generated:
    """Convert bytes to the answer to a query.

    Raises:
        ValueError: the bytes cannot be the answer to this query.
    """
    if isinstance(query, Span):
        return _unpack_scores(value, len(query.targets))
    if isinstance(query, WordQuery):
        return _unpack_word(value)
    generated = _unpack_generated(value)
    length, limit = len(generated.tokens), query.max_new_tokens
    if length > limit or (generated.ended == "length" and length < limit):
        raise ValueError(f"a text of {length} tokens, ended by {generated.ended}, limit {limit}")
    return generated


def check_any(value: bytes) -> None:
    """Check that bytes can be the answer to some query, which is not known here.

    Raises:
        ValueError: they cannot.
    """
    count = max(len(value) * 8 // _BITS_PER_SCORE, 1)
    if value[:1] != b"[":
        _unpack_scores(value, count)
        return
    try:
        (_unpack_generated if b"\n" in value else _unpack_word)(value)
    except ValueError:
        _unpack_scores(value, count)  # a float may begin with any byte


def token_bytes(tokens: tuple[int, ...]) -> bytes:
    """Token ids as little-endian int32."""
    return np.array(tokens, "<i4").tobytes()


def _plausible(logprobs: NDArray[np.float32]) -> bool:
    """Whether all numbers are finite and at most 0, up to rounding."""
    return bool(np.isfinite(logprobs).all() and (logprobs <= TOLERANCE).all())


def _unpack_scores(value: bytes, count: int) -> SpanScores:
    if len(value) != 4 * count + (count + 7) // 8:
        raise ValueError(f"{len(value)} bytes for the scores of {count} tokens")
    logprobs = np.frombuffer(value, "<f4", count).astype(np.float32)
    flags = np.unpackbits(np.frombuffer(value, np.uint8, offset=4 * count))
    if not _plausible(logprobs) or flags[count:].any():
        raise ValueError("scores that are not log-probabilities")
    return SpanScores(logprobs, flags[:count].astype(np.bool_))


def _unpack_word(value: bytes) -> Word:
    parts = strict_json.loads(value)
    if not (isinstance(parts, list) and len(parts) == 2 and isinstance(parts[0], str)):
        raise ValueError("not a word with skipped words")
    text, skipped = parts
    if not (isinstance(skipped, list) and all(isinstance(word, str) for word in skipped)):
        raise ValueError("skipped words that are not words")
    return Word(text, tuple(skipped))


def _unpack_generated(value: bytes) -> Generated:
    head, _, arrays = value.partition(b"\n")
    parts = strict_json.loads(head)
    if not (isinstance(parts, list) and [type(part) for part in parts] == [str, int, str]):
        raise ValueError("not a text with its number of tokens and what ended it")
    text, num_tokens, ended = parts
    count, rest = divmod(len(arrays), 8)
    if rest or not 0 <= num_tokens <= count or not count or ended not in _ENDED:
        raise ValueError(f"{len(arrays)} bytes for the tokens of a text")
    tokens = np.frombuffer(arrays, "<i4", count)
    logprobs = np.frombuffer(arrays, "<f4", offset=4 * count)
    if not _plausible(logprobs) or (tokens < 0).any():
        raise ValueError("tokens or scores that are out of range")
    return Generated(text, tuple(tokens.tolist()), tuple(logprobs.tolist()), num_tokens, ended)
