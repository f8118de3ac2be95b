"""`harness overlap`: how much of the tasks' text a corpus has, and scores without it."""

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from harness.analysis.runs import Run, load
from harness.commands.evaluate.run import table_protocols
from harness.commands.evaluate.session import job_for
from harness.commands.inspect.options import SearchOptions
from harness.commands.options import DataOptions, ProtocolOptions
from harness.display import terminal
from harness.display.overlaps import show_overlaps, show_subset_scores
from harness.errors import DataError, UsageError
from harness.files.output import check_file, write_text
from harness.overlap import scan
from harness.overlap.corpora import CorpusFormat
from harness.overlap.example_text import as_documents, example_texts
from harness.overlap.scan import ScanResult, Source
from harness.overlap.shares import Overlap, measure_overlaps, to_csv, to_json
from harness.overlap.subset_scores import SubsetScore, incompatibility, subset_scores
from harness.runner import Job


def run_overlap(
    tasks: Sequence[str], search: SearchOptions, data: DataOptions, protocol: ProtocolOptions
) -> None:
    """Look up the n-grams of some tasks in a corpus, print the shares, write a CSV file."""
    names = [*tasks, *search.against]
    _check(search, data, names)
    jobs = [job_for(*pair, data) for pair in table_protocols(names, protocol)]
    jobs, others = jobs[: len(tasks)], jobs[len(tasks) :]
    runs = _runs(search.record, jobs)
    sources: list[Source] = [*search.corpus, *(as_documents(example_texts(job)) for job in others)]
    corpus = scan.Corpus(sources, CorpusFormat(search.field, search.by_line), search.workers)
    lookup = partial(scan.exact, corpus)
    if search.backend == "bloom":
        lookup = partial(scan.bloom, corpus, rate=search.rate)
    with terminal.ERR.status(f"reading {len(sources)} file(s)"):
        overlaps, result = measure_overlaps(jobs, search.ngram, lookup)
    by_task = {overlap.task: overlap for overlap in overlaps}
    scores = [score for run in runs for score in subset_scores(run, by_task[run.record.task])]
    if search.out:
        write_text(search.out, to_csv(overlaps))
    if search.as_json:
        _print_json(search, overlaps, result, scores)
        return
    show_overlaps(overlaps, result, search.ngram)
    if scores:
        show_subset_scores(scores)
    if search.out:
        terminal.ERR.print(f"wrote {search.out}")


def _check(search: SearchOptions, options: DataOptions, tasks: Sequence[str]) -> None:
    for path in search.corpus:
        if not path.is_file():
            raise DataError(f"no file {str(path)!r}; --corpus takes files, not folders")
    if not search.corpus and not search.against:
        raise UsageError("no corpus to compare with; give --corpus FILES or --against TASK")
    if search.backend == "bloom" and importlib.util.find_spec("rbloom") is None:
        raise UsageError("--backend bloom needs rbloom; pip install 'zero-shot-harness[overlap]'")
    if options.data_file and len(tasks) > 1:
        raise UsageError("--data-file is the file of one task; use --data-dir with several tasks")
    if search.out:
        check_file(search.out, "--out")


def _runs(paths: Sequence[Path], jobs: Sequence[Job]) -> list[Run]:
    """The runs on the same texts; a note names each run of a task on other texts."""
    by_task = {job.task.name: job for job in jobs}
    runs = []
    for run in load(paths):
        job = by_task.get(run.record.task)
        reason = incompatibility(run.record, job) if job else ""
        if reason:
            terminal.note(f"{run.file} has other texts of {run.record.task}: {reason}")
        elif job:
            runs.append(run)
    if paths and not runs:
        raise UsageError(f"no record in --record has these texts of {', '.join(by_task)}")
    return runs


def _print_json(
    search: SearchOptions,
    overlaps: Sequence[Overlap],
    result: ScanResult,
    scores: Sequence[SubsetScore],
) -> None:
    terminal.print_json(
        {
            "ngram": search.ngram,
            "backend": search.backend,
            "corpus": [*map(str, search.corpus), *search.against],
            "bytes": result.bytes,
            "seconds": result.seconds,
            "mb_per_second": result.speed,
            "filter": asdict(result.filter) if result.filter else None,
            "tasks": [to_json(overlap) for overlap in overlaps],
            "subsets": [asdict(score) for score in scores],
        }
    )
