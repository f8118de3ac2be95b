"""Which runs share a column of the page: those of one checkpoint under one protocol.

A run without outcomes is shown in the tables, but not in comparisons or among the examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.leaderboard import row_key
from harness.analysis.runs import Run, label
from harness.records.record import Record, short_name

MAX_LABEL_CHARS = 60
FACTS = ("origin", "name", "digest", "protocol", "source", "dtype", "device", "context")
"""What all runs of a column have in common."""


@dataclass(frozen=True, slots=True)
class Column:
    """A checkpoint under one protocol: the newest run of each benchmark."""

    label: str
    runs: tuple[Run, ...]

    @property
    def records(self) -> list[Record]:
        """The records of the runs."""
        return [run.record for run in self.runs]


def columns(runs: Sequence[Run]) -> list[Column]:
    """Columns, in the order in which their first run was given.

    Benchmarks of one checkpoint share a column even if their numbers of rows differ. A benchmark
    that was run on several subsets of rows gets further columns.
    """
    groups: dict[tuple[str, ...], list[dict[tuple[str, str], Run]]] = {}
    for run in runs:
        group = groups.setdefault(_facts(run.record), [])
        name = label(run.record)
        for members in group:
            if name not in members or _rows(members[name].record) == _rows(run.record):
                break
        else:
            members = {}
            group.append(members)
        if name not in members or members[name].record.created <= run.record.created:
            members[name] = run
    result = []
    for text, group in zip(_labels(list(groups)), groups.values(), strict=True):
        for number, members in enumerate(group):
            rows = dict.fromkeys(_rows(run.record) for run in members.values())
            suffix = f", {' and '.join(rows)}" if number else ""
            result.append(Column(text + suffix, tuple(members.values())))
    return result


def _facts(record: Record) -> tuple[str, ...]:
    """A row of the leaderboard stands for the same, and for a selection of rows (part 4)."""
    key = row_key(record)
    return (*key[:4], *key[5:])


def _rows(record: Record) -> str:
    rows = "all rows" if record.limit is None else f"{record.limit:,} rows, seed {record.seed}"
    return f"{rows}, {record.extent}" if record.stopped else rows


def _labels(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Short names of checkpoints, followed by the facts that tell equal names apart."""
    facts = [dict(zip(FACTS, key, strict=True)) for key in keys]
    names = [clip(short_name(fact["name"]), MAX_LABEL_CHARS) for fact in facts]
    labels = []
    for name, fact in zip(names, facts, strict=True):
        alike = [other for n, other in zip(names, facts, strict=True) if n == name]
        shown = [
            key
            for key in FACTS
            if key not in ("name", "source") and len({other[key] for other in alike}) > 1
        ]
        parts = (fact[key][:8] if key == "digest" else fact[key] for key in shown)
        labels.append(", ".join([name, *(clip(part, MAX_LABEL_CHARS) for part in parts)]))
    return labels


def clip(text: str, limit: int) -> str:
    """The text, or its start and how much is missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit:,} more characters)"
