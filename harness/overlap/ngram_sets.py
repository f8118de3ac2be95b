"""Which n-grams of the data occur in a corpus: an exact search, or a Bloom filter.

`ExactSearch` holds the n-grams of the data while the corpus is read, so its memory depends on the
data alone. A hash only selects candidates: n-grams match when their words are equal, byte by byte.

`BloomFilter` holds the n-grams of the corpus, as in Radford et al. 2019, section 4. It has false
positives at a known rate, and its size is known in advance. It consists of many small `rbloom`
filters, each small enough for the processor's cache; the hash of an n-gram selects one.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.overlap.ngrams import Grams, Hashes, Offsets, grams

GRAMS_PER_PART = 50_000  # of a Bloom filter: 240 kB at a rate of 1e-8
BUFFERED_GRAMS = 1 << 20  # collected before they are sorted into the parts
SPARE_DEVIATIONS = 4  # room in a part, in standard deviations of the n-grams that it gets


@dataclass(frozen=True, slots=True)
class NgramSet:
    """The distinct n-grams of a normalised text, sorted by hash."""

    text: bytes
    n: int
    hashes: Hashes
    starts: Offsets  # of one occurrence in the text
    ends: Offsets

    def words(self, index: int) -> bytes:
        """The words of an n-gram."""
        return _words(self.text, self.starts[index], self.ends[index])


def distinct_ngrams(text: bytes, n: int) -> tuple[NgramSet, Offsets, Offsets]:
    """The distinct n-grams of a normalised text; index and start of each occurrence."""
    occurrences = grams(text, n)
    numbers: dict[bytes, int] = {}
    spans = zip(occurrences.starts.tolist(), occurrences.ends.tolist(), strict=True)
    which = np.fromiter(
        (numbers.setdefault(_words(text, start, end), len(numbers)) for start, end in spans),
        np.int64,
        len(occurrences.starts),
    )
    _, first = np.unique(which, return_index=True)
    order = first[np.argsort(occurrences.hashes[first], kind="stable")]
    rank = np.empty(len(order), np.int64)
    rank[which[order]] = np.arange(len(order))
    distinct = NgramSet(
        text, n, occurrences.hashes[order], occurrences.starts[order], occurrences.ends[order]
    )
    return distinct, rank[which], occurrences.starts


def _words(text: bytes, start: int, end: int) -> bytes:
    return b" ".join(text[start:end].split())


class ExactSearch:
    """Marks the n-grams of a set that occur in a corpus."""

    def __init__(self, ngrams: NgramSet) -> None:
        self.matched: NDArray[np.bool_] = np.zeros(len(ngrams.hashes), bool)
        self._ngrams = ngrams
        _, first, counts = np.unique(ngrams.hashes, return_index=True, return_counts=True)
        self._missing = np.zeros(len(self.matched), np.int64)  # n-grams not matched yet, counted at
        self._missing[first] = counts  # the first n-gram of each hash
        bits = min(24, len(self.matched).bit_length() + 4)
        self._shift = np.uint64(64 - bits)
        self._candidates = np.zeros(1 << bits, bool)  # by the high bits of a hash; rules most out
        self._candidates[ngrams.hashes >> self._shift] = True

    def add(self, text: bytes) -> None:
        """Search a normalised block of the corpus."""
        block = grams(text, self._ngrams.n)
        near = np.flatnonzero(self._candidates[block.hashes >> self._shift])
        hashes = block.hashes[near]
        places = np.searchsorted(self._ngrams.hashes, hashes)
        places[places == len(self.matched)] = 0
        same = (self._ngrams.hashes[places] == hashes) & (self._missing[places] > 0)
        for gram, place in zip(near[same].tolist(), places[same].tolist(), strict=True):
            self._mark(_words(text, block.starts[gram], block.ends[gram]), place)

    def _mark(self, words: bytes, first: int) -> None:
        """Mark the n-gram with these words among those that share the hash of `first`."""
        hashes = self._ngrams.hashes
        for index in range(first, int(np.searchsorted(hashes, hashes[first], side="right"))):
            if not self.matched[index] and self._ngrams.words(index) == words:
                self.matched[index] = True
                self._missing[first] -= 1
                return


class BloomFilter:
    """A Bloom filter of n-gram hashes, in parts."""

    def __init__(self, capacity: int, rate: float, *, picklable: bool = False) -> None:
        """Make an empty filter with room for `capacity` n-grams.

        `rate` is of false positives when it is full. One that is `picklable`, for other processes
        to receive it, is slower to fill.
        """
        from rbloom import Bloom

        count = max(1, round(capacity / GRAMS_PER_PART))
        mean = max(1, capacity) / count
        room = math.ceil(mean + (SPARE_DEVIATIONS * math.sqrt(mean) if count > 1 else 0))
        # The saved form of a filter begins with its number of hash functions.
        self._functions = int.from_bytes(Bloom(1, rate, int).save_bytes()[:8], "little")
        # Without a hash function of its own a filter uses Python's: faster, but not picklable.
        self._parts = [Bloom(room, rate, int if picklable else None) for _ in range(count)]
        self._buffer: list[Hashes] = []

    def add(self, hashes: Hashes) -> None:
        """Insert n-grams."""
        if len(hashes):
            self._buffer.append(hashes)
        if sum(map(len, self._buffer)) >= BUFFERED_GRAMS:
            self._flush()

    def _flush(self) -> None:
        if not self._buffer:
            return
        hashes = np.sort(np.concatenate(self._buffer))  # np.unique takes many times as long
        hashes = hashes[np.append(hashes[1:] != hashes[:-1], True)]
        self._buffer = []
        numbers = np.arange(len(self._parts) + 1, dtype=np.uint64)
        edges = np.searchsorted(self._part_of(hashes), numbers)
        values = hashes.view(np.int64)
        for k, part in enumerate(self._parts):
            part.update(values[edges[k] : edges[k + 1]].tolist())

    def _part_of(self, hashes: Hashes) -> Hashes:
        """The part of each n-gram; increases with the hash."""
        half = np.uint64(32)
        return ((hashes >> half) * np.uint64(len(self._parts))) >> half

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which n-grams are in the filter, false positives included."""
        self._flush()
        pairs = zip(hashes.view(np.int64).tolist(), self._part_of(hashes).tolist(), strict=True)
        return np.fromiter((value in self._parts[k] for value, k in pairs), bool, len(hashes))

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return sum(part.size_in_bits for part in self._parts) // 8

    @property
    def ngrams(self) -> int:
        """Distinct n-grams, estimated from the bits that are set."""
        self._flush()
        return round(sum(part.approx_items for part in self._parts))

    @property
    def rate(self) -> float:
        """The rate of false positives, from the bits that are set."""
        self._flush()
        loads = [self._functions * part.approx_items / part.size_in_bits for part in self._parts]
        return sum((1 - math.exp(-load)) ** self._functions for load in loads) / len(loads)

    def merge(self, other: "BloomFilter") -> None:
        """Insert the n-grams of another filter of the same capacity and rate."""
        self._flush()
        other._flush()
        for part, more in zip(self._parts, other._parts, strict=True):
            part.update(more)

    def __getstate__(self) -> tuple[int, list[bytes]]:
        self._flush()
        return self._functions, [part.save_bytes() for part in self._parts]

    def __setstate__(self, state: tuple[int, list[bytes]]) -> None:
        from rbloom import Bloom

        self._functions = state[0]
        self._parts = [Bloom.load_bytes(part, int) for part in state[1]]
        self._buffer = []


def random_ngrams(count: int, n: int, seed: int = 0) -> Grams:
    """N-grams of random words of 16 letters, which no corpus has."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(ord("a"), ord("z"), (count + n - 1, 17), np.uint8, endpoint=True)
    letters[:, -1] = ord(" ")
    return grams(letters.tobytes(), n)
