"""Which runs stand in one column of the page: a checkpoint under one protocol.

Unlike `harness.analysis.runs`, a record without its items is taken too; it has its place in the
tables and none in the comparison and among the items.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.analysis.leaderboard import row_key
from harness.analysis.runs import Run, label
from harness.errors import RecordError
from harness.records import lm_eval
from harness.records.items import Items
from harness.records.record import Record, files, items_path, read, read_items

LONGEST_LABEL = 60  # characters
KEY = ("origin", "name", "digest", "protocol", "road", "dtype", "device", "context")
"""What the parts of a column's key are."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record, with its items if they lie beside it."""

    record: Record
    items: Items | None
    source: str  # the file it came from

    @property
    def run(self) -> Run | None:
        """What can be compared item by item."""
        return None if self.items is None else Run(self.record, self.items, self.source)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a checkpoint under one protocol, the newest record of each benchmark."""

    label: str
    entries: tuple[Entry, ...]

    @property
    def records(self) -> list[Record]:
        """The records alone."""
        return [entry.record for entry in self.entries]

    @property
    def runs(self) -> list[Run]:
        """Those with items."""
        return [run for entry in self.entries if (run := entry.run)]


def load(paths: Iterable[Path]) -> list[Entry]:
    """The records in files and below folders, those in results files of lm-eval too.

    Raises:
        UsageError: a path does not exist or has no record.
        RecordError: a file is no record, or the items beside it are damaged.
    """
    found: list[Entry] = []
    for file in files(paths):
        found += _entries(file)
    return found


def _entries(path: Path) -> list[Entry]:
    if lm_eval.is_results(path):
        try:
            return [Entry(record, items, str(path)) for record, items in lm_eval.read(path)]
        except RecordError:  # samples were not logged; the scores are there all the same
            return [Entry(record, None, str(path)) for record in lm_eval.scores(path)]
    record = read(path)
    there = record.items_sha256 is not None and items_path(path, record).exists()
    return [Entry(record, read_items(path, record) if there else None, str(path))]


def columns(entries: Sequence[Entry]) -> list[Column]:
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


_Column = dict[tuple[str, str], Entry]


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
    shown = [k for k in KEY if k not in ("name", "road") and len({f[k] for f in same}) > 1]
    parts = (clip(fact[k][:8] if k == "digest" else fact[k], LONGEST_LABEL) for k in shown)
    return ", ".join([name, *parts])


def clip(text: str, longest: int) -> str:
    """`text`, or its beginning and how much is missing."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]}… ({len(text) - longest:,} more characters)"
