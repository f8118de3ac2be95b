"""enwik8 and text8: 100,000,000 bytes, split 90 / 5 / 5 million, scored as they are."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

from harness.core import Example, Fields, Request, RollingLoglikelihood, Row
from harness.data.encodings import MARK, other_encoding
from harness.data.parsers import stretches
from harness.errors import DataError
from harness.metrics import bits
from harness.metrics.extract import piece_nats
from harness.prompt import Prompt
from harness.task import Measure, Option, Options

from .running_text import BLOCKS

MILLION = 1_000_000
FILE_BYTES = 100 * MILLION
SPLITS = {"train": (0, 90), "valid": (90, 95), "test": (95, 100), "all": (0, 100)}  # millions
ROW_BYTES = 500  # a row is a stretch of the file, for --limit and the interval

SPLIT = Option(
    "split",
    "test",
    ("test", "valid", "all"),
    "the last 5 million bytes, the 5 million before, or all; a partial file is not split",
)


def parse(split: str, member: str) -> Callable[[bytes], Sequence[Fields]]:
    """A parser of one split of the file, or of the zip archive that contains it.

    Nothing is converted, because the bytes are the data: a file that was saved as text, with a
    byte-order mark, in UTF-16 or with CR LF, is refused.
    """

    def rows(data: bytes) -> Sequence[Fields]:
        if data[:4] == b"PK\x03\x04":
            data = _unzip(data, member)
        if len(data) > FILE_BYTES:
            raise DataError(f"expected at most {FILE_BYTES:,} bytes, got {len(data):,}")
        _check_bytes(data)
        if len(data) == FILE_BYTES:
            start, stop = SPLITS[split]
            data = data[start * MILLION : stop * MILLION]
        return stretches(data, ROW_BYTES)

    return rows


def _check_bytes(data: bytes) -> None:
    """Refuse traces of conversion, none of which the original files have.

    Raises:
        DataError: the bytes have a byte-order mark, zero bytes, or CR LF for LF.
    """
    if (
        encoding := "UTF-8 with a byte-order mark"
        if data.startswith(MARK)
        else other_encoding(data)
    ):
        raise DataError(f"expected the original bytes, got {encoding}; get the original file")
    for wrong, name in ((b"\r\n", "CR LF"), (b"\0", "a zero byte")):
        place = data.find(wrong)
        if place >= 0:
            raise DataError(
                f"expected the original bytes, got {name} at byte {place:,}; get the original file"
            )


def _unzip(data: bytes, member: str) -> bytes:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return _member(archive, archive.getinfo(member))
    except DataError:
        raise
    except Exception as error:  # damaged archives raise any kind of error
        raise DataError(f"expected a zip archive with the member {member!r} ({error})") from error


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Read a member in pieces, because a few bytes can expand to gigabytes.

    Raises:
        DataError: it has more bytes than the file, or not as many as the archive declares.
    """
    if info.flag_bits & 1:
        raise DataError(f"the archive's member {info.filename!r} is encrypted; get the original")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # bzip2 and lzma ignore the limit of read() and return all that a piece expands to.
        raise DataError(
            f"the archive's member {info.filename!r} has compression {info.compress_type}; "
            "expected deflate, as the original has"
        )
    pieces: list[bytes] = []
    count = 0
    with archive.open(info) as file:
        while piece := file.read(MILLION):
            pieces.append(piece)
            count += len(piece)
            if count > FILE_BYTES:
                raise DataError(
                    f"the archive's member {info.filename!r} has more than {FILE_BYTES:,} bytes"
                )
    if count != info.file_size:
        raise DataError(
            f"the archive says that {info.filename!r} has {info.file_size:,} bytes, it has "
            f"{count:,}"
        )
    return b"".join(pieces)


def example(rows: Sequence[Row], pieces: Sequence[bytes]) -> Example:
    """Join consecutive stretches into one text; units are the original bytes."""
    sizes = tuple(len(row.fields["bytes"]) for row in rows)
    return Example(f"{rows[0].number}-{rows[-1].number}", {"pieces": tuple(pieces), "bytes": sizes})


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """One request for the text, as bytes."""
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
    """The number of scored bytes."""
    return {"texts": len(examples), "bytes": sum(sum(e.fields["bytes"]) for e in examples)}
