"""What enwik8 and text8 have in common: 100,000,000 bytes, cut 90 / 5 / 5 million, scored raw."""

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

from harness.core import Example, Fields, Request, RollingLoglikelihood, Row
from harness.errors import DataError
from harness.extract import piece_nats
from harness.formats import stretches
from harness.metrics import bits
from harness.prompt import Prompt
from harness.task import Measure, Option, Options

from .lines import BLOCKS

MILLION = 1_000_000
WHOLE = 100 * MILLION
SPLITS = {"train": (0, 90), "valid": (90, 95), "test": (95, 100), "all": (0, 100)}  # millions
ROW = 500  # bytes; a row is a stretch of the file, for --limit and the interval

SPLIT = Option(
    "split",
    "test",
    ("test", "valid", "all"),
    "the last 5 million bytes, the 5 million before, or all; a partial file is taken whole",
)


def parse(split: str, member: str) -> Callable[[bytes], Sequence[Fields]]:
    """A reader of the file or of the zip archive around it, cut to a split."""

    def rows(data: bytes) -> Sequence[Fields]:
        if data[:4] == b"PK\x03\x04":
            data = _unzip(data, member)
        if len(data) == WHOLE:
            start, stop = SPLITS[split]
            data = data[start * MILLION : stop * MILLION]
        return stretches(data, ROW)

    return rows


def _unzip(data: bytes, member: str) -> bytes:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise DataError(f"expected a zip archive with the member {member!r} ({error})") from error


def example(rows: Sequence[Row], pieces: Sequence[bytes]) -> Example:
    """One text out of consecutive stretches; units are the original bytes."""
    sizes = tuple(len(row.fields["bytes"]) for row in rows)
    return Example(f"{rows[0].number}-{rows[-1].number}", {"pieces": tuple(pieces), "bytes": sizes})


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """The whole text, as bytes."""
    del prompt, options
    return [RollingLoglikelihood(example.fields["pieces"])]


def measures(name: str, unit: str, column: str) -> Callable[[Options], tuple[Measure, ...]]:
    """Bits per byte or character, for a column of Table 3."""
    measure = Measure(
        name,
        bits(unit),
        piece_nats("bytes"),
        ("nats", f"{unit}s"),
        f"total nats / (ln 2 * number of {unit}s in the original text)",
        column=column,
        blocks=BLOCKS,
    )
    return lambda options: (measure,)


def notes(examples: Sequence[Example], options: Options) -> Mapping[str, float]:
    """How many bytes were scored."""
    del options
    return {"texts": len(examples), "bytes": sum(sum(e.fields["bytes"]) for e in examples)}
