"""What `harness overlap` does: benchmarks' items -> n-grams -> a corpus -> shares and subsets."""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.analysis.runs import Run, load
from harness.commands.evaluate.run import table_protocols
from harness.commands.evaluate.session import job_for
from harness.commands.options import DataOptions, ProtocolOptions
from harness.display import terminal
from harness.display.overlaps import show_overlaps, show_subsets
from harness.errors import DataError, UsageError
from harness.overlap import scan
from harness.overlap.contents import Item, items
from harness.overlap.corpora import Reading
from harness.overlap.ngram_sets import wanted
from harness.overlap.ngrams import BREAK, Places, normalise
from harness.overlap.shares import (
    Overlap,
    Part,
    Subset,
    Texts,
    incompatibility,
    subsets,
    to_csv,
    to_json,
)
from harness.records.record import check_file, write_text
from harness.runner import Job


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for where, as the command line gives it."""

    tasks: tuple[str, ...]
    corpus: tuple[Path, ...]
    against: tuple[str, ...] = ()  # benchmarks whose data is a corpus too
    backend: str = "exact"
    rate: float = 1e-8  # of false positives of the Bloom filter
    ngram: int = 8
    field: str = "text"
    by_line: bool = False
    workers: int = 1
    record: tuple[Path, ...] = ()


class _Data(NamedTuple):
    """A benchmark's items as one block."""

    job: Job
    items: list[Item]
    block: bytes  # normalised; every item is a document
    begins: Places  # of each piece, in the block


def run_overlap(
    search: Search,
    data_options: DataOptions,
    protocol: ProtocolOptions,
    *,
    out: Path | None,
    as_json: bool,
) -> None:
    """Look for the n-grams of some benchmarks in a corpus; print, and write a file of items.

    Raises:
        UsageError: there is no corpus, or a name is unknown.
        DataError: data or corpus are missing or malformed.
        RecordError: a record is of other data, or the file cannot be written.
    """
    _check(search, data_options)
    if out:
        check_file(out, "--out")
    jobs, others = _jobs(search, data_options, protocol)
    runs = _runs(search.record, [_texts(job) for job in jobs])
    data = [_data(job) for job in jobs]
    corpus = scan.Corpus(
        [*search.corpus, *map(_whole, others)],
        Reading(search.field, search.by_line),
        search.workers,
    )
    overlaps, found = _overlaps(data, corpus, search)
    by_task = {overlap.task: overlap for overlap in overlaps}
    scores = [line for run in runs for line in subsets(run, by_task[run.record.task])]
    if out:
        write_text(out, to_csv(overlaps))
    if as_json:
        _print_json(search, overlaps, found, scores)
        return
    show_overlaps(overlaps, found, search.ngram)
    if scores:
        show_subsets(scores)
    if out:
        terminal.ERR.print(f"wrote {out}", markup=False)


def _check(search: Search, options: DataOptions) -> None:
    for path in search.corpus:
        if not path.is_file():
            raise DataError(f"no file {str(path)!r}; give --corpus files, or patterns of them")
    if not search.corpus and not search.against:
        raise UsageError("overlap with what? give --corpus FILES or --against BENCHMARK")
    if search.backend == "bloom" and importlib.util.find_spec("rbloom") is None:
        raise UsageError("--backend bloom needs rbloom; pip install 'zero-shot-harness[overlap]'")
    if options.data_file and len(search.tasks) + len(search.against) > 1:
        raise UsageError("--data-file names the file of one benchmark; several take --data-dir")


def _runs(paths: Sequence[Path], texts: Sequence[Texts]) -> list[Run]:
    """The runs of the same texts; others of the same benchmarks are named."""
    by_task = {of.task: of for of in texts}
    found = []
    for run in load(paths):
        of = by_task.get(run.record.task)
        why = incompatibility(run.record, of) if of else ""
        if why:
            terminal.note(f"{run.source} is of other texts of {run.record.task}: {why}")
        elif of:
            found.append(run)
    if paths and not found:
        raise UsageError(f"no record in --record of these texts of {', '.join(by_task)}")
    return found


def _texts(job: Job) -> Texts:
    protocol = job.protocol
    facts = job.data.facts()
    return Texts(job.task.name, job.task.version, protocol.label, protocol.options, facts)


def _jobs(
    search: Search, options: DataOptions, protocol_options: ProtocolOptions
) -> tuple[list[Job], list[Job]]:
    """The benchmarks that are looked for, and those that are a corpus."""
    pairs = table_protocols([*search.tasks, *search.against], protocol_options)
    jobs = [job_for(task, protocol, options) for task, protocol in pairs]
    return jobs[: len(search.tasks)], jobs[len(search.tasks) :]


def _data(job: Job) -> _Data:
    found = items(job)
    pieces: list[bytes] = []
    for item in found:
        pieces += [normalise(piece.replace(BREAK, b" ")) for piece in item.pieces]
        pieces[-1] += BREAK
    begins = np.cumsum([0, *map(len, pieces)])[:-1]
    return _Data(job, found, b"".join(pieces), begins)


def _whole(job: Job) -> bytes:
    """A benchmark's items as a corpus."""
    texts = (b"".join(item.pieces).replace(BREAK, b" ") + BREAK for item in items(job))
    return b"".join(texts)


def _overlaps(
    data: Sequence[_Data], corpus: scan.Corpus, search: Search
) -> tuple[list[Overlap], scan.Found]:
    """All benchmarks in one pass over the corpus."""
    looked_for, which, places = wanted(b"".join(d.block for d in data), search.ngram)
    with terminal.ERR.status(f"reading {len(corpus.sources)} file(s)"):
        if search.backend == "exact":
            found = scan.exact(corpus, looked_for)
        else:
            found = scan.bloom(corpus, looked_for, search.rate)
    overlaps = []
    begin = 0
    for one in data:
        mine = (places >= begin) & (places < begin + len(one.block))
        overlaps.append(_overlap(one, which[mine], places[mine] - begin, found))
        begin += len(one.block)
    return overlaps, found


def _overlap(data: _Data, which: Places, places: Places, found: scan.Found) -> Overlap:
    """One benchmark's share: `which` n-gram each occurrence is, and where it begins."""
    piece = np.searchsorted(data.begins, places, side="right") - 1
    grams = np.bincount(piece, minlength=len(data.begins)).tolist()
    hits = np.bincount(piece[found.found[which]], minlength=len(data.begins)).tolist()
    names = [(item.id, k) for item in data.items for k in range(len(item.pieces))]
    distinct = np.unique(which)
    parts = zip(names, grams, hits, strict=True)
    return Overlap(
        _texts(data.job),
        len(distinct),
        int(found.found[distinct].sum()),
        tuple(Part(*name, all_, some) for name, all_, some in parts),
    )


def _print_json(
    search: Search, overlaps: Sequence[Overlap], found: scan.Found, scores: Sequence[Subset]
) -> None:
    value: dict[str, Any] = {
        "ngram": search.ngram,
        "backend": search.backend,
        "corpus": [*map(str, search.corpus), *search.against],
        "bytes": found.bytes,
        "seconds": found.seconds,
        "mb_per_second": found.speed,
        "filter": asdict(found.probe) if found.probe else None,
        "tasks": [to_json(overlap) for overlap in overlaps],
        "subsets": [asdict(score) for score in scores],
    }
    terminal.print_json(value)
