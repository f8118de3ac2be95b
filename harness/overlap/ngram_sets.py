"""Which of some n-grams occur in a corpus: an exact set, or a Bloom filter.

`Exact` holds the n-grams that are looked for and lets the corpus pass by: its memory is that of
the benchmark, whatever the corpus. A hash only says where to look; an n-gram counts as found
when its words are equal, byte by byte.

`Filter` holds the n-grams of the corpus, as in Radford et al. 2019, section 4: it may say yes to
one that is not there, at a known rate, and its memory is known beforehand. It is many small
filters of `rbloom`, each n-gram in the one that its hash names: one of them fits the processor's
cache, a whole one does not.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.overlap.ngrams import Grams, Hashes, Places, grams

PART = 50_000  # n-grams of a small filter: 240 kB at a rate of 1e-8
BATCH = 1 << 20  # n-grams that wait to be sorted by their filters
SPREAD = 4  # standard deviations of a small filter's share that it has room for


@dataclass(frozen=True, slots=True)
class Wanted:
    """The distinct n-grams of some data, sorted by their hashes."""

    text: bytes  # normalised
    n: int
    hashes: Hashes
    starts: Places  # in the text, of one occurrence
    ends: Places


def wanted(text: bytes, n: int) -> tuple[Wanted, Places, Places]:
    """The distinct n-grams of a normalised text; of each occurrence which it is, and its start."""
    found = grams(text, n)
    seen: dict[bytes, int] = {}
    spans = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    which = np.fromiter(
        (seen.setdefault(_words(text, start, end), len(seen)) for start, end in spans),
        np.int64,
        len(found.starts),
    )
    _, first = np.unique(which, return_index=True)
    order = first[np.argsort(found.hashes[first], kind="stable")]
    rank = np.empty(len(order), np.int64)
    rank[which[order]] = np.arange(len(order))
    distinct = Wanted(text, n, found.hashes[order], found.starts[order], found.ends[order])
    return distinct, rank[which], found.starts


def _words(text: bytes, start: int, end: int) -> bytes:
    return b" ".join(text[start:end].split())


class Exact:
    """Which of the wanted n-grams have passed by."""

    def __init__(self, looked_for: Wanted) -> None:
        self.found: NDArray[np.bool_] = np.zeros(len(looked_for.hashes), bool)
        self._wanted = looked_for
        _, first, counts = np.unique(looked_for.hashes, return_index=True, return_counts=True)
        self._left = np.zeros(len(self.found), np.int64)  # at the first n-gram of a hash: how many
        self._left[first] = counts  # with that hash have not been found
        bits = min(24, len(self.found).bit_length() + 4)
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, bool)  # by the first bits of a hash: most are not there
        self._maybe[looked_for.hashes >> self._shift] = True

    def add(self, text: bytes) -> None:
        """Let a normalised block pass by."""
        passing = grams(text, self._wanted.n)
        near = np.flatnonzero(self._maybe[passing.hashes >> self._shift])
        hashes = passing.hashes[near]
        places = np.searchsorted(self._wanted.hashes, hashes)
        places[places == len(self.found)] = 0
        same = (self._wanted.hashes[places] == hashes) & (self._left[places] > 0)
        for gram, place in zip(near[same].tolist(), places[same].tolist(), strict=True):
            self._compare(_words(text, passing.starts[gram], passing.ends[gram]), place)

    def _compare(self, words: bytes, first: int) -> None:
        """Mark the wanted n-gram of these words, if there is one among those of its hash."""
        known, k = self._wanted, first
        while k < len(self.found) and known.hashes[k] == known.hashes[first]:
            if not self.found[k] and _words(known.text, known.starts[k], known.ends[k]) == words:
                self.found[k] = True
                self._left[first] -= 1
                return
            k += 1


class Filter:
    """A Bloom filter of n-grams, in parts."""

    def __init__(self, capacity: int, rate: float, *, sent: bool = False) -> None:
        """Make room for `capacity` n-grams; `sent` if other processes will get the filter."""
        from rbloom import Bloom

        parts = max(1, round(capacity / PART))
        mean = max(1, capacity) / parts
        room = math.ceil(mean + (SPREAD * math.sqrt(mean) if parts > 1 else 0))
        # A saved filter begins with how many of its bits stand for an item.
        self._asked = int.from_bytes(Bloom(1, rate, int).save_bytes()[:8], "little")
        # n-grams are hashes already. A filter that takes them by Python's own `hash` is filled in
        # less time than one with a function, and cannot be sent.
        self._parts = [Bloom(room, rate, int if sent else None) for _ in range(parts)]
        self._waiting: list[Hashes] = []

    def add(self, hashes: Hashes) -> None:
        """Put n-grams in."""
        if len(hashes):
            self._waiting.append(hashes)
        if sum(map(len, self._waiting)) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        hashes = np.sort(np.concatenate(self._waiting))
        hashes = hashes[np.append(hashes[1:] != hashes[:-1], True)]
        self._waiting = []
        numbers = np.arange(len(self._parts) + 1, dtype=np.uint64)
        edges = np.searchsorted(self._part(hashes), numbers)
        values = hashes.view(np.int64)
        for k, part in enumerate(self._parts):
            part.update(values[edges[k] : edges[k + 1]].tolist())

    def _part(self, hashes: Hashes) -> Hashes:
        """The part of each n-gram; it grows with the hash."""
        half = np.uint64(32)
        return ((hashes >> half) * np.uint64(len(self._parts))) >> half

    def holds(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Which n-grams are there, or seem to be."""
        self._flush()
        pairs = zip(hashes.view(np.int64).tolist(), self._part(hashes).tolist(), strict=True)
        return np.fromiter((value in self._parts[k] for value, k in pairs), bool, len(hashes))

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return sum(part.size_in_bits for part in self._parts) // 8

    @property
    def items(self) -> int:
        """About how many distinct n-grams are in it, from the bits that are set."""
        self._flush()
        return round(sum(part.approx_items for part in self._parts))

    @property
    def rate(self) -> float:
        """How often an n-gram that is not there seems to be, from the bits that are set."""
        self._flush()
        fill = [self._asked * part.approx_items / part.size_in_bits for part in self._parts]
        return sum((1 - math.exp(-x)) ** self._asked for x in fill) / len(fill)

    def join(self, other: "Filter") -> None:
        """Put in what is in another filter of the same capacity and rate."""
        self._flush()
        other._flush()
        for part, more in zip(self._parts, other._parts, strict=True):
            part.update(more)

    def __getstate__(self) -> tuple[int, list[bytes]]:
        self._flush()
        return self._asked, [part.save_bytes() for part in self._parts]

    def __setstate__(self, state: tuple[int, list[bytes]]) -> None:
        from rbloom import Bloom

        self._asked = state[0]
        self._parts = [Bloom.load_bytes(part, int) for part in state[1]]
        self._waiting = []


def unseen(count: int, n: int, seed: int = 0) -> Grams:
    """So many n-grams of words that no corpus has: 16 random letters each."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(ord("a"), ord("z"), (count + n - 1, 17), np.uint8, endpoint=True)
    letters[:, -1] = ord(" ")
    return grams(letters.tobytes(), n)
