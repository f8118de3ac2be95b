"""Scan a corpus for n-grams, in several processes that share its files."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.overlap.corpora import CorpusFormat, blocks
from harness.overlap.ngram_sets import BloomFilter, ExactSearch, NgramSet, random_ngrams
from harness.overlap.ngrams import count_grams, grams, overlapping

PROBES = 1_000_000  # as in Radford et al. 2019, section 4
BATCH_PROBES = 50_000

Source = Path | bytes  # a file, or a block of documents
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Corpus:
    """The texts that are scanned."""

    sources: Sequence[Source]
    form: CorpusFormat = field(default_factory=CorpusFormat)
    workers: int = 1


@dataclass(frozen=True, slots=True)
class FilterReport:
    """Size and measured quality of a Bloom filter."""

    expected: int  # n-grams in the corpus, which the filter has room for
    items: int  # distinct ones in it, estimated
    bytes: int
    rate: float  # of false positives, from the bits that are set
    probes: int  # random n-grams that no corpus has
    positives: int  # of the probes


@dataclass(frozen=True, slots=True)
class ScanResult:
    """Which n-grams occur in the corpus, and what the scan cost."""

    matched: NDArray[np.bool_]  # by n-gram of the set
    bytes: int  # of text, uncompressed
    seconds: float
    filter: FilterReport | None = None

    @property
    def speed(self) -> float:
        """Megabytes of text per second, over all processes."""
        return self.bytes / 1e6 / max(self.seconds, 1e-9)


def exact(corpus: Corpus, ngrams: NgramSet) -> ScanResult:
    """Search the corpus for each n-gram; where hashes are equal, words are compared."""
    started = perf_counter()
    results = _in_workers(partial(_search, corpus.form, ngrams), corpus)
    matched = np.logical_or.reduce([matched for matched, _ in results])
    return ScanResult(matched, sum(size for _, size in results), perf_counter() - started)


def bloom(corpus: Corpus, ngrams: NgramSet, rate: float) -> ScanResult:
    """Fill a Bloom filter with the corpus and look up each n-gram.

    The corpus is read twice: first its n-grams are counted, to give the filter the right size.
    Afterwards PROBES random n-grams are looked up to measure the rate of false positives.
    """
    started = perf_counter()
    expected = sum(_in_workers(partial(_count, corpus.form, ngrams.n), corpus))
    several = len(split(corpus.sources, corpus.workers)) > 1
    empty = partial(BloomFilter, expected, rate, picklable=several)
    results = _in_workers(partial(_fill, corpus.form, ngrams.n, empty), corpus)
    merged = results[0][0]
    for part, _ in results[1:]:
        merged.merge(part)
    matched = merged.contains(ngrams.hashes)
    seconds = perf_counter() - started
    positives = _positives(merged, ngrams.n)
    report = FilterReport(expected, merged.ngrams, merged.size, merged.rate, PROBES, positives)
    return ScanResult(matched, sum(size for _, size in results), seconds, report)


def _positives(filled: BloomFilter, n: int) -> int:
    """How many of PROBES random n-grams seem to be in a filter."""
    sizes = [min(BATCH_PROBES, PROBES - done) for done in range(0, PROBES, BATCH_PROBES)]
    return sum(
        int(filled.contains(random_ngrams(size, n, seed).hashes).sum())
        for seed, size in enumerate(sizes)
    )


class _Reader:
    """Normalised, overlapping blocks of all sources; counts the bytes that were read."""

    def __init__(self, form: CorpusFormat, n: int, sources: Sequence[Source]) -> None:
        self.bytes = 0
        self._form, self._n, self._sources = form, n, sources

    def __iter__(self) -> Iterator[bytes]:
        for source in self._sources:
            yield from overlapping(self._blocks(source), self._n)

    def _blocks(self, source: Source) -> Iterator[bytes]:
        for block in [source] if isinstance(source, bytes) else blocks(source, self._form):
            self.bytes += len(block)
            yield block


def _search(
    form: CorpusFormat, ngrams: NgramSet, sources: Sequence[Source]
) -> tuple[NDArray[np.bool_], int]:
    search, reader = ExactSearch(ngrams), _Reader(form, ngrams.n, sources)
    for text in reader:
        search.add(text)
    return search.matched, reader.bytes


def _count(form: CorpusFormat, n: int, sources: Sequence[Source]) -> int:
    return sum(count_grams(text, n) for text in _Reader(form, n, sources))


def _fill(
    form: CorpusFormat, n: int, empty: Callable[[], BloomFilter], sources: Sequence[Source]
) -> tuple[BloomFilter, int]:
    filled, reader = empty(), _Reader(form, n, sources)
    for text in reader:
        filled.add(grams(text, n).hashes)
    return filled, reader.bytes


def _in_workers(work: Callable[[Sequence[Source]], T], corpus: Corpus) -> list[T]:
    """Run the work on each worker's part of the sources."""
    groups = split(corpus.sources, corpus.workers)
    if len(groups) == 1:
        return [work(groups[0])]
    context = multiprocessing.get_context("spawn")  # a fork would copy locks held by threads
    with ProcessPoolExecutor(len(groups), context) as pool:
        return list(pool.map(work, groups))


def split(sources: Sequence[Source], workers: int) -> list[list[Source]]:
    """Divide the sources into at most `workers` groups of about equal size, none empty."""
    groups: list[list[Source]] = [[] for _ in range(max(1, min(workers, len(sources))))]
    sizes = [0] * len(groups)
    for source in sorted(sources, key=_size, reverse=True):
        smallest = sizes.index(min(sizes))
        groups[smallest].append(source)
        sizes[smallest] += max(1, _size(source))
    return groups


def _size(source: Source) -> int:
    if isinstance(source, bytes):
        return len(source)
    return source.stat().st_size if source.exists() else 0
