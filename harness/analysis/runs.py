"""Records as loaded for comparing: their outcomes, their measures, and whether two can be paired.

Two runs are comparable only if both measured the same thing: same benchmark, version, options,
data, prompt and few-shot examples. Other differences in the signatures (dtype, context, versions)
are reported, and the runs are compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError, RecordError, UsageError
from harness.metrics.hf_evaluate import ModuleMetric
from harness.plugins.registry import load_task
from harness.records import folder, schema
from harness.records.outcomes import NO_OUTCOMES, Outcomes
from harness.records.readers import find, reported
from harness.records.record import Record
from harness.records.signature import MUST_AGREE, in_words
from harness.task import Measure

Need = Literal["required", "optional", "no"]
OTHER_KINDS = tuple(kind for kind in schema.KINDS if kind != "record")


@dataclass(frozen=True, slots=True)
class Run:
    """A record with the outcomes of its examples."""

    record: Record
    outcomes: Outcomes  # NO_OUTCOMES if they were not loaded or do not exist
    file: str  # that the record came from

    @property
    def has_outcomes(self) -> bool:
        """Whether the run can be compared example by example."""
        return bool(self.outcomes.ids)


@dataclass(frozen=True, slots=True)
class Incomparable:
    """Why two runs, or one of their scores, cannot be compared."""

    reason: str


class PairedOutcomes(NamedTuple):
    """The outcomes of the same examples in two runs, in the order of the first; each (n, s)."""

    keys: tuple[tuple[str, int], ...]  # (example, part)
    a: NDArray[np.float64]
    b: NDArray[np.float64]


def load(paths: Iterable[Path], outcomes: Need = "required") -> list[Run]:
    """The runs in record files, in files of other programs, and in folders of both.

    Other files that the harness writes, such as a jitter file, are skipped in folders.

    Raises:
        UsageError: a path does not exist or has no record.
        RecordError: a file is not a record, or its outcomes are damaged, or missing though
            required.
    """
    return [run for path in paths for run in _load_path(path, outcomes)]


def _load_path(path: Path, outcomes: Need) -> list[Run]:
    runs = []
    for file, reader, results in find.find(path):
        if reader:
            runs += _runs_of_another_program(reader, results, file, outcomes)
            continue
        value = schema.load(file)
        if not (path.is_dir() and schema.kind_of(value) in OTHER_KINDS):
            runs.append(_own_run(value, file, outcomes))
    if not runs:
        raise UsageError(f"no record in {str(path)!r}; expected a record or a folder with records")
    return runs


def _own_run(value: object, file: Path, outcomes: Need) -> Run:
    """The run in a file of ours; read again if another run replaces it at the same time."""
    while True:
        record = Record.from_json(value, str(file))
        exists = record.outcomes_sha256 and folder.outcomes_path(file, record).exists()
        if outcomes == "no" or (outcomes == "optional" and not exists):
            return Run(record, NO_OUTCOMES, str(file))
        try:
            return Run(record, folder.read_outcomes(file, record), str(file))
        except RecordError:
            value = schema.load(file)
            if Record.from_json(value, str(file)).outcomes_sha256 == record.outcomes_sha256:
                raise


def _runs_of_another_program(
    reader: find.Reader, results: reported.Results, file: Path, outcomes: Need
) -> list[Run]:
    try:
        records = reader.records(results, file, samples=outcomes != "no")
    except RecordError:
        if outcomes != "optional":
            raise
        records = reader.records(results, file, samples=False)  # they may not have been logged
    return [Run(*record, str(file)) for record in records]


def label(record: Record) -> tuple[str, str]:
    """(benchmark, protocol) of a run; the benchmark of another program carries its name."""
    own = record.origin == "harness"
    return (record.task if own else f"{record.task} ({record.origin})", record.protocol)


def incomparable(a: Record, b: Record) -> Incomparable | None:
    """Why two records measure different things; None if they measure the same."""
    differences = a.signature.diff(b.signature)
    decisive = {name: values for name, values in differences.items() if name in MUST_AGREE}
    if not decisive:
        return None
    return Incomparable(f"they measure different things; {in_words(decisive)}")


def measures(record: Record, *others: Record) -> tuple[Measure, ...]:
    """The measures behind a record's scores that can be compared example by example.

    `others` are the records that it is compared with.

    Raises:
        RecordError: the benchmark is not installed, or in another version.
    """
    if record.origin in find.ORIGINS:
        return reported.measures(record, *others)
    if record.origin != "harness":
        raise RecordError(
            f"a record of {record.task} was computed by {record.origin!r}; expected "
            f"{', '.join(('harness', *find.ORIGINS))}"
        )
    try:
        task = load_task(record.task)
    except (PluginError, UsageError) as error:
        raise RecordError(
            f"a record is of {record.task}, which is not installed: {error}"
        ) from error
    if task.version != record.version:
        raise RecordError(
            f"a record is of {record.task} version {record.version}, installed is version "
            f"{task.version}; expected records of that version"
        )
    options = {name: str(value) for name, value in record.options.items()}
    scored = {score.metric for score in record.scores}  # an optional measure may have no score
    return tuple(
        m
        for m in task.measures(options)
        if m.name in scored and m.baseline is None and not isinstance(m.metric, ModuleMetric)
    )


def main_measures(measures: Sequence[Measure]) -> tuple[Measure, ...]:
    """The measures that fill a column of the paper's tables; all of them if none does."""
    return tuple(m for m in measures if m.column) or tuple(measures)


def blocks_of(measure: Measure, *runs: Run) -> int | None:
    """How many blocks of neighbours are compared: at most the parts of a run that was stopped."""
    used = [run.record.stopped["used"] for run in runs if run.record.stopped]
    return min([measure.blocks, *used]) if measure.blocks else None


def common(a: Run, b: Run, measure: str) -> PairedOutcomes:
    """A measure's outcomes on the examples, or pieces of a text, that both runs have."""
    for run in (a, b):
        if measure not in run.outcomes.metrics:
            available = ", ".join(run.outcomes.metrics) or "none"
            raise RecordError(f"{run.file} has no outcomes of {measure!r} (available: {available})")
    rows = {key: row for row, key in enumerate(b.outcomes.keys(measure))}
    keys = [(row, key) for row, key in enumerate(a.outcomes.keys(measure)) if key in rows]
    if not keys:
        raise RecordError(f"{a.file} and {b.file} have no example of {a.record.task} in common")
    first, second = a.outcomes.metrics[measure].values, b.outcomes.metrics[measure].values
    return PairedOutcomes(
        tuple(key for _, key in keys),
        np.array([first[row] for row, _ in keys], np.float64),
        np.array([second[rows[key]] for _, key in keys], np.float64),
    )
