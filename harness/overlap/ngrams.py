r"""Text -> n-grams of normalised words, as 64-bit hashes, a block of bytes at a time.

Radford et al. 2019, section 4: strings are normalised to lower-cased alphanumeric words with a
single space between them. Here a word is a maximal run of letters and digits as `str.isalnum`
has them; every character is lower-cased by itself (a capital sigma becomes σ at the end of a word
too), so that what a character becomes never depends on where a file was cut.

A block is bytes of UTF-8 in which the byte 0 ends a document; no n-gram crosses it.

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

BREAK = b"\0"  # ends a document
SPACE = 0x20  # this and smaller bytes are no part of a word, once normalised
LONGEST = 64  # bytes of a word that are hashed side by side with those of other words
REMEMBERED = 64  # bytes of a run outside ASCII that is normalised once only

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

_NO_WORD = re.compile(r"[\W_]")
_TABLE = bytes(
    b if b == 0 or b >= 0x80 else ord(chr(b).lower()) if chr(b).isalnum() else SPACE
    for b in range(256)
)
_LOW_BYTES = np.array([(1 << 8 * k) - 1 for k in range(9)], np.uint64)  # the first k bytes of 8


class Grams(NamedTuple):
    """The n-grams of a block, in order: each is `text[start:end]` once its spaces are single."""

    hashes: Hashes
    starts: Places
    ends: Places


def normalise(block: bytes) -> bytes:
    """Lower-cased words in UTF-8, spaces in place of everything else; document ends stay.

    Bytes that are no UTF-8 are no part of a word.
    """
    if not block.isascii():
        block = b"".join(_ascii_and_words(block))
    return block.translate(_TABLE)


def _ascii_and_words(block: bytes) -> Iterator[bytes]:
    """ASCII as it is, and what takes the place of each run of other bytes, in turn."""
    foreign = np.flatnonzero(np.frombuffer(block, np.uint8) >= 0x80)
    new = np.flatnonzero(np.diff(foreign) > 1) + 1
    starts, lasts = foreign[[0, *new]].tolist(), foreign[[*(new - 1), -1]].tolist()
    end = 0
    for start, last in zip(starts, lasts, strict=True):
        yield block[end:start]
        end = last + 1
        run = block[start:end]
        yield _remembered(run) if len(run) <= REMEMBERED else _lower_words(run)
    yield block[end:]


def _lower_words(run: bytes) -> bytes:
    """A run of bytes outside ASCII, lower-cased; other than letters and digits become spaces."""
    text = run.decode("utf-8", "replace").replace("Σ", "σ").lower()
    return _NO_WORD.sub(" ", text).encode()


_remembered = lru_cache(1 << 16)(_lower_words)


def overlapping(blocks: Iterable[bytes], n: int) -> Iterator[bytes]:
    """Normalised blocks that each begin with the last n - 1 words of the one before.

    Every n-gram of the blocks' common text lies in exactly one of them.

    Args:
        blocks: none ends inside a word.
        n: words of an n-gram.
    """
    tail = b""
    for block in blocks:
        text = tail + b" " + normalise(block)
        yield text
        # What hangs together over a document's end counts once, so that no n-gram is in the tail.
        words = text.rsplit(None, n - 1)
        tail = b" ".join(words[1:] if len(words) == n else words)


def word_edges(text: bytes) -> tuple[Places, Places]:
    """(first byte, byte after the last) of every word of a normalised text."""
    inside = np.frombuffer(text, np.uint8) > SPACE
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    before = [0] if text and inside[0] else []
    after = [len(text)] if text and inside[-1] else []
    edges = np.concatenate([before, edges, after]).astype(np.int64)
    return edges[0::2], edges[1::2]


def grams(text: bytes, n: int) -> Grams:
    """All n-grams of a normalised text that lie within one document."""
    starts, ends = word_edges(text)
    count = len(starts) - n + 1
    if count <= 0:
        return Grams(np.empty(0, np.uint64), starts[:0], ends[:0])
    words = _word_hashes(text, starts, ends)
    hashes = np.zeros(count, np.uint64)
    for k, factor in enumerate(_factors(n)):
        hashes += words[k : count + k] * factor
    found = Grams(hashes, starts[:count], ends[n - 1 :])
    firsts = _first_words(text, starts)
    if not len(firsts):
        return found
    whole = np.ones(count, bool)
    for k in range(1, n):  # an n-gram that begins up to n - 1 words before a document's end
        begins = firsts - k
        whole[begins[(begins >= 0) & (begins < count)]] = False
    return Grams(found.hashes[whole], found.starts[whole], found.ends[whole])


def count_grams(text: bytes, n: int) -> int:
    """How many n-grams `grams` would find; quicker."""
    starts, _ = word_edges(text)
    edges = np.concatenate([[0], _first_words(text, starts), [len(starts)]])
    return int(np.maximum(np.diff(edges) - n + 1, 0).sum())


def _first_words(text: bytes, starts: Places) -> Places:
    """For every document's end, the number of the next word."""
    if BREAK not in text:
        return np.empty(0, np.int64)
    breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == 0)
    return np.searchsorted(starts, breaks)


def _word_hashes(text: bytes, starts: Places, ends: Places) -> Hashes:
    """A hash of each word: eight bytes at a time, those of all words side by side."""
    padded = text + bytes(8)
    eights = np.ndarray(len(text) + 1, np.dtype("<u8"), padded, strides=(1,))  # at every byte
    sizes = ends - starts
    hashes = _mix(eights[starts] & _LOW_BYTES[np.minimum(sizes, 8)])
    rest = np.flatnonzero(sizes > 8)
    for done in range(8, LONGEST, 8):
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
    """The finaliser of SplitMix64 (Steele et al. 2014): one to one, every bit moves every other."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@lru_cache
def _factors(n: int) -> tuple[np.uint64, ...]:
    """An odd factor for each place of an n-gram."""
    return tuple(_mix(np.arange(1, n + 1, dtype=np.uint64) * _ODD) | np.uint64(1))
