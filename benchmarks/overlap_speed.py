"""Measure speed and memory of both backends of `harness overlap` on one core.

    OMP_NUM_THREADS=1 python -m benchmarks.overlap_speed [MEGABYTES]

The corpus consists of WikiText's words in random order, so that nearly every 8-gram is new; the
8-grams to find are those of WikiText's test set. Each backend runs in its own process.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import data_dir
from harness.overlap import scan
from harness.overlap.ngram_sets import distinct_ngrams
from harness.overlap.ngrams import normalise

N = 8
RATE = 1e-8


def main() -> None:
    """Print the table."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        write(path, megabytes)
        print("| back end | text, MB | MB/s | MB/s of processor time | filter, MB | predicted, MB "
              "| memory above the start, MB |")  # fmt: skip
        print("|---|--:|--:|--:|--:|--:|--:|")
        for backend in ("exact", "bloom"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(row, (backend, path)), flush=True)


def source() -> bytes:
    """WikiText's test set, 1.3 MB."""
    return (data_dir() / "wikitext-2-raw" / "wiki.test.raw").read_bytes()


def write(path: Path, megabytes: int) -> None:
    """So much text, in lines of 25 words."""
    words = np.array([*source().split(), b"\n"], object)
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        while file.tell() < megabytes * 1e6:
            drawn = words[rng.integers(0, len(words), (8000, 25))]
            file.write(b"".join(b" ".join(line) + b"\n" for line in drawn))


def row(backend: str, path: Path) -> str:
    """Speed and memory of one backend."""
    looked_for, _, _ = distinct_ngrams(normalise(source()), N)
    bloom = partial(scan.bloom, rate=RATE)
    run = scan.exact if backend == "exact" else bloom
    before, begun = _memory(), time.process_time()
    result = run(scan.Corpus([path]), looked_for)
    used = time.process_time() - begun
    size = result.bytes / 1e6
    cells = ["", ""]
    if result.filter:
        predicted = -result.filter.expected * np.log(RATE) / np.log(2) ** 2 / 8e6
        cells = [f"{result.filter.bytes / 1e6:.1f}", f"{predicted:.1f}"]
    figures = [f"{size:.1f}", f"{result.speed:.1f}", f"{size / used:.1f}", *cells]
    return f"| {backend} | {' | '.join(figures)} | {_memory() - before:.0f} |"


def _memory() -> float:
    """The peak memory of this process, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
