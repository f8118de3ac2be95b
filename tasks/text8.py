"""text8: bits per character of cleaned Wikipedia text. Mahoney, mattmahoney.net/dc/textdata.

Radford et al. 2019, Table 3. The text has only a-z and spaces, so a character is a byte. The usual
test split is the last 5,000,000. Case and punctuation cannot be recovered.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from harness.core import Example, Fields, Hub, Row, Source
from harness.errors import DataError
from harness.task import Options, Task

from .shared import wikipedia_dump
from .shared.options import BOS, STRIDE, WINDOWS

_STRAY = re.compile(rb"[^a-z ]")


def parse(split: str) -> Callable[[bytes], Sequence[Fields]]:
    """A parser of one split that refuses anything but a-z and spaces."""
    read_rows = wikipedia_dump.parse(split, "text8")

    def checked(data: bytes) -> Sequence[Fields]:
        rows = read_rows(data)
        for row in rows:
            if stray := _STRAY.search(row["bytes"]):
                raise DataError(
                    f"expected only a-z and spaces, got {stray.group()!r} in {row['bytes'][:40]!r}"
                )
        return rows

    return checked


def restore(rows: Iterable[Fields]) -> bytes:
    """The single row of the hub's test split -> its characters."""
    return "".join(row["text"] for row in rows).encode()


def source(options: Options) -> Source:
    """The text or its beginning: ` a village oven is an oven that belongs to nobody ...`."""
    return Source(
        title="text8: 100,000,000 characters of English Wikipedia, a-z and space",
        files=("text8", "text8.zip", "text8.first*"),
        parse=parse(options["split"]),
        sample="samples/text8.sample",
        origin="https://mattmahoney.net/dc/text8.zip",
        sha256=(
            "6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
            "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
        ),
        hub=Hub(
            "afmck/text8",
            "data/test-00000-of-00001.parquet",
            "58c74e966ccc66eab2de6b52fad5b14ddb259fa4",
            restore,
        )
        if options["split"] == "test"  # the hub has one file per split
        else None,
    )


def read(rows: Sequence[Row], options: Options) -> Iterable[Example]:
    """One text."""
    return [wikipedia_dump.example(rows, [row.fields["bytes"] for row in rows])]


TASK = Task(
    name="text8",
    version=2,
    title="text8: bits per character of cleaned Wikipedia text",
    description=(
        "The characters of the split are scored as one text in disjoint windows; bits are divided "
        "by their number."
    ),
    source=source,
    read=read,
    ask=wikipedia_dump.ask,
    measures=wikipedia_dump.measures("bpc", "character", "text8 BPC"),
    notes=wikipedia_dump.notes,
    stream=True,
    options=(wikipedia_dump.SPLIT, STRIDE, WINDOWS, BOS),
    protocols={"paper": {}, "strided": {"stride": "32"}},
)
