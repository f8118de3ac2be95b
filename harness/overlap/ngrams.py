r"""Normalised words and their n-grams, as 64-bit hashes.

Radford et al. 2019, section 4: strings are normalised to lower-cased alphanumeric words separated
by a single space. Here a word is a maximal run of letters and digits (`str.isalnum`). Characters
are lower-cased one at a time (so a final capital sigma becomes σ): the result does not depend on
where a file was cut.

Text is processed in blocks of UTF-8. A zero byte ends a document, and no n-gram crosses it.

    b"The cat's 2 hats.\0Hi" --normalise--> b"the cat s 2 hats \0hi" --grams(n=4)-->
        hashes of "the cat s 2" and "cat s 2 hats"
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DOCUMENT_END = b"\0"
SPACE = 0x20  # in normalised text, no byte of a word is this small
MAX_VECTORISED_BYTES = 64  # longer words are hashed one at a time
MAX_CACHED_BYTES = 64  # longer runs of non-ASCII text are normalised each time they occur

Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]

_NOT_A_WORD = re.compile(r"[\W_]")
_ASCII = bytes(
    b if b == 0 or b >= 0x80 else ord(chr(b).lower()) if chr(b).isalnum() else SPACE
    for b in range(256)
)
_LOW_BYTES = np.array([(1 << 8 * k) - 1 for k in range(9)], np.uint64)  # masks of k bytes


class Grams(NamedTuple):
    """The n-grams of a block in order; each is `text[start:end]`, words one space apart."""

    hashes: Hashes
    starts: Offsets
    ends: Offsets


def normalise(block: bytes) -> bytes:
    """Lower-case words and replace everything between them by spaces; document ends stay.

    Bytes that are not valid UTF-8 separate words.
    """
    if not block.isascii():
        block = b"".join(_normalise_non_ascii(block))
    return block.translate(_ASCII)


def _normalise_non_ascii(block: bytes) -> Iterator[bytes]:
    """Yield the block in pieces: ASCII as it is, each run of other bytes normalised."""
    positions = np.flatnonzero(np.frombuffer(block, np.uint8) >= 0x80)
    gaps = np.flatnonzero(np.diff(positions) > 1) + 1
    starts, lasts = positions[[0, *gaps]].tolist(), positions[[*(gaps - 1), -1]].tolist()
    end = 0
    for start, last in zip(starts, lasts, strict=True):
        yield block[end:start]
        end = last + 1
        run = block[start:end]
        yield _cached_lower(run) if len(run) <= MAX_CACHED_BYTES else _lower(run)
    yield block[end:]


def _lower(run: bytes) -> bytes:
    text = run.decode("utf-8", "replace").replace("Σ", "σ").lower()
    return _NOT_A_WORD.sub(" ", text).encode()


_cached_lower = lru_cache(1 << 16)(_lower)


def overlapping(blocks: Iterable[bytes], n: int) -> Iterator[bytes]:
    """Normalise blocks and prepend to each the last n - 1 words of the text before it.

    No block may end inside a word. Every n-gram of the whole text is in exactly one result.
    """
    tail = b""
    for block in blocks:
        text = tail + b" " + normalise(block)
        yield text
        # Words on both sides of a document end count as one: no n-gram fits into the tail.
        words = text.rsplit(None, n - 1)
        tail = b" ".join(words[1:] if len(words) == n else words)


def _word_edges(text: bytes) -> tuple[Offsets, Offsets]:
    """Start and end of every word of a normalised text."""
    inside = np.frombuffer(text, np.uint8) > SPACE
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    return edges[0::2], edges[1::2]


def grams(text: bytes, n: int) -> Grams:
    """All n-grams of a normalised text that lie within one document."""
    starts, ends = _word_edges(text)
    count = len(starts) - n + 1
    if count <= 0:
        return Grams(np.empty(0, np.uint64), starts[:0], ends[:0])
    words = _word_hashes(text, starts, ends)
    hashes = np.zeros(count, np.uint64)
    for k, factor in enumerate(_factors(n)):
        hashes += words[k : count + k] * factor
    block = Grams(hashes, starts[:count], ends[n - 1 :])
    if DOCUMENT_END not in text:
        return block
    within = np.ones(count, bool)
    first_words = _first_words(text, starts)
    for k in range(1, n):  # n-grams that begin k words before the end of a document
        crossing = first_words - k
        within[crossing[(crossing >= 0) & (crossing < count)]] = False
    return Grams(hashes[within], block.starts[within], block.ends[within])


def count_grams(text: bytes, n: int) -> int:
    """The number of n-grams that `grams` returns, computed faster."""
    starts, _ = _word_edges(text)
    edges = np.concatenate([[0], _first_words(text, starts), [len(starts)]])
    return int(np.maximum(np.diff(edges) - n + 1, 0).sum())


def _first_words(text: bytes, starts: Offsets) -> Offsets:
    """For each end of a document, the index of the word that follows it."""
    return np.searchsorted(starts, np.flatnonzero(np.frombuffer(text, np.uint8) == 0))


def _word_hashes(text: bytes, starts: Offsets, ends: Offsets) -> Hashes:
    """Hash all words at once, eight bytes of each word at a time."""
    padded = text + bytes(8)
    eights = np.ndarray(len(text) + 1, np.dtype("<u8"), padded, strides=(1,))  # at every byte
    sizes = ends - starts
    hashes = _mix(eights[starts] & _LOW_BYTES[np.minimum(sizes, 8)])
    rest = np.flatnonzero(sizes > 8)
    for done in range(8, MAX_VECTORISED_BYTES, 8):
        left = sizes[rest] - done
        part = eights[starts[rest] + done] & _LOW_BYTES[np.minimum(left, 8)]
        hashes[rest] = _mix(hashes[rest] * _ODD + part)
        rest = rest[left > 8]
    for w in rest:
        digest = blake2b(text[starts[w] : ends[w]], digest_size=8).digest()
        hashes[w] = int.from_bytes(digest, "little")
    return hashes


_ODD = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele et al. 2014), a bijection."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache
def _factors(n: int) -> tuple[np.uint64, ...]:
    """An odd factor for each position in an n-gram."""
    return tuple(_mix(np.arange(1, n + 1, dtype=np.uint64) * _ODD) | np.uint64(1))
