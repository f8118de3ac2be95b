"""Two runs of a benchmark -> the outcomes of their common items; or why they have none.

What `compare`, `check` and `power` stand on. A pair counts only if both runs measured the same
thing: same benchmark, version, options, data, prompt and example pairs. Other differences in the
signatures (number format, context, versions, ...) are named, and the pair stands.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import PluginError, RecordError, UsageError
from harness.metrics.hf_evaluate import ModuleMetric
from harness.plugins.registry import load_task
from harness.records import lm_eval
from harness.records.items import Items
from harness.records.record import Record, files, read_with_items
from harness.task import Measure

FIELDS = {
    "v": "version",
    "o": "options",
    "data": "data",
    "n": "rows",
    "prompt": "prompt",
    "pool": "example pairs",
    "tok": "tokenizer",
    "ctx": "context",
    "dtype": "dtype",
}
"""Part of a signature -> what it is called here."""
SAME = ("benchmark", "origin", "version", "options", "data", "prompt", "example pairs")
"""What two runs must have in common; a difference elsewhere is only marked."""


@dataclass(frozen=True, slots=True)
class Run:
    """A record with the outcomes of its items."""

    record: Record
    items: Items
    source: str  # the file it came from


class PairedOutcomes(NamedTuple):
    """The outcomes of the same items in two runs, in the order of the first; each (n, s)."""

    keys: tuple[tuple[str, int], ...]  # (item, part)
    a: NDArray[np.float64]
    b: NDArray[np.float64]


def load(paths: Iterable[Path]) -> list[Run]:
    """The runs in record files and below folders of them; results files of lm-eval too.

    Raises:
        UsageError: a path does not exist or has no record.
        RecordError: a file is no record, or its items are missing.
    """
    found: list[Run] = []
    for file in files(paths):
        found += load_file(file)
    return found


def load_file(path: Path) -> list[Run]:
    """The run in a record file, or those in a results file of lm-eval."""
    if lm_eval.is_results(path):
        return [Run(record, items, str(path)) for record, items in lm_eval.read(path)]
    return [Run(*read_with_items(path), str(path))]


def label(record: Record) -> tuple[str, str]:
    """(benchmark, protocol) that tell a run from others; equal names of other programs differ."""
    own = record.origin == "harness"
    return (record.task if own else f"{record.task} ({record.origin})", record.protocol)


def parts(record: Record) -> dict[str, str]:
    """The signature's parts by the names of `FIELDS`; the label of the protocol is left out."""
    signed = {k: v for k, v in record.signed_parts().items() if k not in ("p", "origin")}
    named = {FIELDS.get(name, name): value for name, value in signed.items()}
    return {"benchmark": record.task, "origin": record.origin, **named}


def differing(a: Record, b: Record) -> dict[str, tuple[str, str]]:
    """Field of the signatures -> its two values, where they differ; of options those alone."""
    one, two = parts(a), parts(b)
    found = {
        name: (one.get(name, "none"), two.get(name, "none"))
        for name in dict.fromkeys([*one, *two])
        if one.get(name) != two.get(name)
    }
    if "options" in found:
        names = [
            n for n in sorted({*a.options, *b.options}) if a.options.get(n) != b.options.get(n)
        ]
        first, second = (", ".join(f"{n}={r.options.get(n)}" for n in names) for r in (a, b))
        found["options"] = (first, second)
    return found


def in_words(fields: Mapping[str, tuple[str, str]]) -> str:
    """`dtype: float32 / bfloat16; rows: 20 / 10`."""
    return "; ".join(f"{name}: {a} / {b}" for name, (a, b) in fields.items())


def incompatibility(a: Record, b: Record) -> str:
    """Why two records measure different things; empty if they do not."""
    fields = {name: pair for name, pair in differing(a, b).items() if name in SAME}
    if fields:
        return f"they measure different things; {in_words(fields)}"
    return ""


def measures(record: Record) -> tuple[Measure, ...]:
    """The measures that a record's scores come from, those that can be compared pair by pair.

    Raises:
        RecordError: the benchmark is not installed, or in another version.
    """
    scored = {score.metric for score in record.scores}  # an optional measure may have no score
    if record.origin == lm_eval.ORIGIN:
        return lm_eval.measures(record)
    if record.origin != "harness":
        raise RecordError(
            f"a record of {record.task} was computed by {record.origin!r}; expected harness or "
            f"{lm_eval.ORIGIN}"
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
    return tuple(
        m
        for m in task.measures(options)
        if m.name in scored and m.baseline is None and not isinstance(m.metric, ModuleMetric)
    )


def main_measures(found: Sequence[Measure]) -> tuple[Measure, ...]:
    """Those that fill a column of the paper's tables; all of them if none does."""
    return tuple(m for m in found if m.column) or tuple(found)


def common(a: Run, b: Run, measure: str) -> PairedOutcomes:
    """A measure's outcomes on the items that both runs have.

    Raises:
        RecordError: a run has no such measure, or the two have no item in common.
    """
    for run in (a, b):
        if measure not in run.items.outcomes:
            known = ", ".join(run.items.outcomes) or "none"
            raise RecordError(f"{run.source} has no outcomes of {measure!r} (known: {known})")
    rows = {key: row for row, key in enumerate(b.items.keys(measure))}
    keys = [(row, key) for row, key in enumerate(a.items.keys(measure)) if key in rows]
    if not keys:
        raise RecordError(f"{a.source} and {b.source} have no item of {a.record.task} in common")
    first, second = a.items.outcomes[measure].values, b.items.outcomes[measure].values
    return PairedOutcomes(
        tuple(key for _, key in keys),
        np.array([first[row] for row, _ in keys], np.float64),
        np.array([second[rows[key]] for _, key in keys], np.float64),
    )
