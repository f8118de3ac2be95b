"""The share of a benchmark's n-grams that a corpus has.

Radford et al. 2019, section 4 and Table 6. Shares count every occurrence of an n-gram. Running text
is divided into the lines that its scores are made of; an n-gram belongs to the line in which its
first word begins.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import StringIO
from typing import Any, NamedTuple

import numpy as np

from harness.overlap.example_text import example_texts
from harness.overlap.ngram_sets import NgramSet, distinct_ngrams
from harness.overlap.ngrams import DOCUMENT_END, normalise
from harness.overlap.scan import ScanResult
from harness.runner import Job

PAPER_CORPORA = ("WebText", "own training set")  # of Table 6
ITEM_FIELDS = ("item", "part", "grams", "found", "percent")  # in files
LARGE_PERCENT = 15.0  # Radford et al. 2019, section 4, about LAMBADA


class PieceOverlap(NamedTuple):
    """The n-grams of one example, or of one line of running text."""

    example: str
    part: int
    grams: int
    matches: int  # n-grams that the corpus has

    @property
    def percent(self) -> float | None:
        """The share that the corpus has; None if the text is shorter than an n-gram."""
        return 100 * self.matches / self.grams if self.grams else None


@dataclass(frozen=True, slots=True)
class Overlap:
    """One benchmark's data and a corpus."""

    job: Job
    distinct: int  # n-grams
    distinct_matches: int
    pieces: tuple[PieceOverlap, ...]

    @property
    def task(self) -> str:
        """The benchmark's name."""
        return self.job.task.name

    @property
    def data(self) -> Mapping[str, Any]:
        """The data, described as in a record."""
        return self.job.data.facts()

    @property
    def total(self) -> PieceOverlap:
        """All pieces together."""
        grams = sum(piece.grams for piece in self.pieces)
        return PieceOverlap("", 0, grams, sum(piece.matches for piece in self.pieces))

    def percent_above(self, least: float) -> float:
        """The percentage of pieces whose overlap is above `least` percent."""
        above = sum((piece.percent or 0) > least for piece in self.pieces)
        return 100 * above / max(len(self.pieces), 1)


@cache
def published() -> dict[tuple[str, str], float]:
    """The paper's percentages of 8-grams by (benchmark, corpus)."""
    text = (files("harness.results.paper") / "overlap.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return {(row["task"], row["corpus"]): float(row["value"]) for row in rows}


def measure_overlaps(
    jobs: Sequence[Job], n: int, scan: Callable[[NgramSet], ScanResult]
) -> tuple[list[Overlap], ScanResult]:
    """Look up the n-grams of all benchmarks in one pass over the corpus."""
    texts = [example_texts(job) for job in jobs]
    pieces: list[bytes] = []
    for text in (text for examples in texts for text in examples):
        pieces += [normalise(piece.replace(DOCUMENT_END, b" ")) for piece in text.pieces]
        pieces[-1] += DOCUMENT_END
    ngrams, which, starts = distinct_ngrams(b"".join(pieces), n)
    result = scan(ngrams)
    piece_starts = np.cumsum([0, *map(len, pieces)])[:-1]
    piece_of = np.searchsorted(piece_starts, starts, side="right") - 1
    grams = np.bincount(piece_of, minlength=len(pieces)).tolist()
    matches = np.bincount(piece_of[result.matched[which]], minlength=len(pieces)).tolist()
    counts = zip(grams, matches, strict=True)
    overlaps = []
    begin = 0
    for job, examples in zip(jobs, texts, strict=True):
        names = [(text.id, part) for text in examples for part in range(len(text.pieces))]
        end = begin + len(names)
        distinct = np.unique(which[(begin <= piece_of) & (piece_of < end)])
        own = tuple(PieceOverlap(*name, *next(counts)) for name in names)
        overlaps.append(Overlap(job, len(distinct), int(result.matched[distinct].sum()), own))
        begin = end
    return overlaps, result


def to_csv(overlaps: Sequence[Overlap]) -> str:
    """A table with one line per example, or per line of running text."""
    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", *ITEM_FIELDS])
    for overlap in overlaps:
        writer.writerows([overlap.task, *piece, piece.percent] for piece in overlap.pieces)
    return text.getvalue()


def to_json(overlap: Overlap) -> dict[str, Any]:
    """A benchmark's overlap as plain JSON values."""
    job, total = overlap.job, overlap.total
    return {
        "task": overlap.task,
        "version": job.task.version,
        "protocol": job.protocol.label,
        "options": dict(job.protocol.options),
        "data": overlap.data,
        "grams": total.grams,
        "found": total.matches,
        "percent": total.percent,
        "distinct": overlap.distinct,
        "distinct_found": overlap.distinct_matches,
        "paper": {c: published().get((overlap.task, c)) for c in PAPER_CORPORA},
        "items": [
            dict(zip(ITEM_FIELDS, (*piece, piece.percent), strict=True)) for piece in overlap.pieces
        ],
    }
