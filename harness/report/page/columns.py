"""Which runs stand in one column of the page: a checkpoint under one protocol.

A record without outcomes is shown in the tables, but not in the comparison or among the items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.leaderboard import row_key
from harness.analysis.runs import Run, label
from harness.records.record import Record

LONGEST_LABEL = 60  # characters
KEY = ("origin", "name", "digest", "protocol", "source", "dtype", "device", "context")
"""What the parts of a column's key are."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a checkpoint under one protocol, the newest record of each benchmark."""

    label: str
    entries: tuple[Run, ...]

    @property
    def records(self) -> list[Record]:
        """The records alone."""
        return [entry.record for entry in self.entries]

    @property
    def runs(self) -> list[Run]:
        """Those with items."""
        return [run for run in self.entries if run.has_outcomes]


def columns(entries: Sequence[Run]) -> list[Column]:
    """Columns in the order in which their first record was given.

    Benchmarks of one checkpoint share a column whatever their numbers of rows are. A benchmark that
    was run on several selections of rows gets further columns.
    """
    groups: dict[tuple[str, ...], list[_Column]] = {}
    for entry in entries:
        columns = groups.setdefault(_key(entry.record), [])
        name = label(entry.record)
        for column in columns:
            if name not in column or _rows(column[name].record) == _rows(entry.record):
                break
        else:
            column = {}
            columns.append(column)
        if name not in column or column[name].record.created <= entry.record.created:
            column[name] = entry
    labels = _labels(list(groups))
    return [
        Column(text if place == 0 else f"{text}, {_only_rows(column)}", tuple(column.values()))
        for text, columns in zip(labels, groups.values(), strict=True)
        for place, column in enumerate(columns)
    ]


_Column = dict[tuple[str, str], Run]


def _key(record: Record) -> tuple[str, ...]:
    """What a column stands for: a row of the leaderboard, but for the selection of rows."""
    parts = dict(zip((*KEY[:4], "rows", *KEY[4:]), row_key(record), strict=True))
    return tuple(parts[name] for name in KEY)


def _rows(record: Record) -> str:
    return "all rows" if record.limit is None else f"{record.limit:,} rows, seed {record.seed}"


def _only_rows(column: _Column) -> str:
    """The selections of a further column, in words."""
    return " and ".join(dict.fromkeys(_rows(entry.record) for entry in column.values()))


def _labels(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Short names of checkpoints; those that share one name what tells them apart."""
    facts = [dict(zip(KEY, key, strict=True)) for key in keys]
    names = [clip(Path(fact["name"]).name or fact["name"], LONGEST_LABEL) for fact in facts]
    return [_label(name, fact, names, facts) for name, fact in zip(names, facts, strict=True)]


def _label(
    name: str, fact: dict[str, str], names: Sequence[str], facts: Sequence[dict[str, str]]
) -> str:
    same = [other for n, other in zip(names, facts, strict=True) if n == name]
    shown = [k for k in KEY if k not in ("name", "source") and len({f[k] for f in same}) > 1]
    parts = (clip(fact[k][:8] if k == "digest" else fact[k], LONGEST_LABEL) for k in shown)
    return ", ".join([name, *parts])


def clip(text: str, longest: int) -> str:
    """`text`, or its beginning and how much is missing."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… ({len(text) - longest:,} more characters)"
