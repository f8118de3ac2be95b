"""A corpus -> which n-grams occur in it, in several processes, each with files of its own."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.overlap.corpora import Reading, blocks
from harness.overlap.ngram_sets import Exact, Filter, Wanted, unseen
from harness.overlap.ngrams import count_grams, grams, overlapping

PROBES = 1_000_000  # as in Radford et al. 2019, section 4
AT_ONCE = 50_000  # of them

Source = Path | bytes  # a file, or a block of documents
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is searched, and how it is read."""

    sources: Sequence[Source]
    how: Reading = field(default_factory=Reading)
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Probe:
    """What a Bloom filter came to."""

    expected: int  # n-grams it has room for: those of the corpus
    items: int  # distinct ones in it, about
    bytes: int
    rate: float  # of false positives, from the bits that are set
    probes: int  # n-grams of words that are in no corpus
    positives: int  # of them that seem to be in it


@dataclass(frozen=True, slots=True)
class Found:
    """Which n-grams occur, and what it cost to know."""

    found: NDArray[np.bool_]  # a wanted n-gram each
    bytes: int  # of text, uncompressed
    seconds: float
    probe: Probe | None = None

    @property
    def speed(self) -> float:
        """Megabytes of text a second, all processes together."""
        return self.bytes / 1e6 / max(self.seconds, 1e-9)


def exact(corpus: Corpus, wanted: Wanted) -> Found:
    """Compare the corpus with the wanted n-grams, word by word where hashes are equal.

    Raises:
        DataError: a file cannot be read.
    """
    begun = perf_counter()
    results = _each(partial(_exact, corpus.how, wanted), corpus)
    found = np.logical_or.reduce([found for found, _ in results])
    return Found(found, sum(size for _, size in results), perf_counter() - begun)


def bloom(corpus: Corpus, wanted: Wanted, rate: float) -> Found:
    """Ask a Bloom filter of the corpus for the wanted n-grams.

    The corpus is read twice: its n-grams are counted, so that the filter has room for them. Then
    it is asked for PROBES n-grams that no corpus has.

    Raises:
        DataError: a file cannot be read.
    """
    begun = perf_counter()
    expected = sum(_each(partial(_count, corpus.how, wanted.n), corpus))
    sent = len(shares(corpus.sources, corpus.workers)) > 1
    empty = partial(Filter, expected, rate, sent=sent)
    filled = _each(partial(_fill, corpus.how, wanted.n, empty), corpus)
    whole = filled[0][0]
    for other, _ in filled[1:]:
        whole.join(other)
    size = sum(read for _, read in filled)
    found = whole.holds(wanted.hashes)
    seconds = perf_counter() - begun
    probe = Probe(
        expected, whole.items, whole.size, whole.rate, PROBES, _positives(whole, wanted.n)
    )
    return Found(found, size, seconds, probe)


def _positives(whole: Filter, n: int) -> int:
    """How many of PROBES n-grams that no corpus has seem to be in a filter."""
    sizes = [min(AT_ONCE, PROBES - done) for done in range(0, PROBES, AT_ONCE)]
    return sum(int(whole.holds(unseen(m, n, seed).hashes).sum()) for seed, m in enumerate(sizes))


def _exact(
    how: Reading, wanted: Wanted, sources: Sequence[Source]
) -> tuple[NDArray[np.bool_], int]:
    looked_for, read = Exact(wanted), _Meter(how)
    for source in sources:
        for text in overlapping(read(source), wanted.n):
            looked_for.add(text)
    return looked_for.found, read.bytes


def _count(how: Reading, n: int, sources: Sequence[Source]) -> int:
    read = _Meter(how)
    return sum(count_grams(text, n) for source in sources for text in overlapping(read(source), n))


def _fill(
    how: Reading, n: int, empty: Callable[[], Filter], sources: Sequence[Source]
) -> tuple[Filter, int]:
    found, read = empty(), _Meter(how)
    for source in sources:
        for text in overlapping(read(source), n):
            found.add(grams(text, n).hashes)
    return found, read.bytes


class _Meter:
    """Blocks of sources, and the bytes that were read."""

    def __init__(self, how: Reading) -> None:
        self.bytes = 0
        self._how = how

    def __call__(self, source: Source) -> Iterator[bytes]:
        for block in [source] if isinstance(source, bytes) else blocks(source, self._how):
            self.bytes += len(block)
            yield block


def _each(work: Callable[[Sequence[Source]], T], corpus: Corpus) -> list[T]:
    """The work on each worker's share of the sources."""
    groups = shares(corpus.sources, corpus.workers)
    if len(groups) == 1:
        return [work(groups[0])]
    context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
    with ProcessPoolExecutor(len(groups), context) as pool:
        return list(pool.map(work, groups))


def shares(sources: Sequence[Source], workers: int) -> list[list[Source]]:
    """The sources in at most so many groups of about equal size, none empty."""
    groups: list[list[Source]] = [[] for _ in range(max(1, min(workers, len(sources))))]
    sizes: list[Any] = [0] * len(groups)
    for source in sorted(sources, key=_size, reverse=True):
        least = sizes.index(min(sizes))
        groups[least].append(source)
        sizes[least] += max(1, _size(source))
    return groups


def _size(source: Source) -> int:
    if isinstance(source, bytes):
        return len(source)
    return source.stat().st_size if source.exists() else 0
