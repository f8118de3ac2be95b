"""Read corpus files as blocks of bytes, without loading a whole file.

A block ends between two words; a zero byte in it ends a document (see `harness.overlap.ngrams`).
The file name tells the format: `.jsonl`, `.ndjson` and `.json` have one JSON object per line and
`.parquet` has a text column; everything else is plain text, one document per file or per line. All
but Parquet may be compressed (`.gz`, `.zst`).
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.encodings import MARK, other_encoding
from harness.errors import DataError, short_reason
from harness.files import strict_json
from harness.overlap.ngrams import DOCUMENT_END

CHUNK_BYTES = 1 << 18  # read at once: arrays computed from a chunk stay in the processor's cache
BATCH_ROWS = 1024  # of a Parquet file, read at once
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
_WORD_BYTES = bytes(b for b in range(256) if b >= 0x80 or chr(b).isalnum())


@dataclass(frozen=True, slots=True)
class CorpusFormat:
    """How files are divided into documents."""

    field: str = "text"  # of JSON objects and of Parquet files
    by_line: bool = False  # whether each line of a plain text file is a document


def blocks(path: Path, form: CorpusFormat) -> Iterator[bytes]:
    """Yield the text of a file.

    Raises:
        DataError: the file cannot be read, or does not have the format that its name tells.
    """
    *_, before, last = ["", "", *path.suffixes]
    compression = COMPRESSIONS.get(last.lower())
    kind = (before if compression else last).lower()
    try:
        if kind == ".parquet" and not compression:
            yield from _parquet(path, form.field)
            return
        with closing(_chunks(path, compression)) as contents:  # an error closes the file at once
            chunks = _as_text(path.name, contents)
            if kind in JSON_LINES:
                yield from _json_lines(path.name, chunks, form.field)
            else:
                yield from _plain(chunks, form.by_line)
    except OSError as error:  # pyarrow raises it for damaged files, too
        raise DataError(
            f"cannot read {str(path)!r}: {error.strerror or short_reason(error)}; give --corpus a "
            "readable file in the format that its name tells"
        ) from error


def documents(texts: Iterable[str]) -> bytes:
    """Join texts into one block; a zero byte inside a text becomes a space."""
    encoded = (text.encode("utf-8", "replace").replace(DOCUMENT_END, b" ") for text in texts)
    return b"".join(text + DOCUMENT_END for text in encoded)


def _chunks(path: Path, compression: str | None) -> Generator[bytes, None, None]:
    if compression is None:
        with path.open("rb") as file:
            yield from iter(lambda: file.read(CHUNK_BYTES), b"")
        return
    from pyarrow import input_stream

    with input_stream(str(path), compression=compression) as stream:
        yield from iter(lambda: stream.read(CHUNK_BYTES), b"")


def _as_text(name: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Remove the byte-order mark and replace CR LF and CR by LF; refuse UTF-16 and UTF-32."""
    after_cr = False
    for number, chunk in enumerate(chunks):
        if number == 0:
            if encoding := other_encoding(chunk):
                raise DataError(f"{name} is {encoding}, expected UTF-8; save it as UTF-8")
            chunk = chunk.removeprefix(MARK)
        if after_cr:  # the CR of a CR LF ended the last chunk
            chunk = chunk.removeprefix(b"\n")
        after_cr = chunk.endswith(b"\r")
        yield chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _plain(chunks: Iterable[bytes], by_line: bool) -> Iterator[bytes]:
    for block in _cut(chunks, lambda chunk: len(chunk.rstrip(_WORD_BYTES))):
        text = block.replace(DOCUMENT_END, b" ")
        yield text.replace(b"\n", DOCUMENT_END) if by_line else text
    yield DOCUMENT_END


def _cut(chunks: Iterable[bytes], position: Callable[[bytes], int]) -> Iterator[bytes]:
    """Cut the same bytes at one position per chunk; position 0 makes no cut."""
    pending: list[bytes] = []
    for chunk in chunks:
        if cut := position(chunk):
            yield b"".join([*pending, chunk[:cut]])
            pending = []
        pending.append(chunk[cut:])
    yield b"".join(pending)


def _json_lines(name: str, chunks: Iterable[bytes], field: str) -> Iterator[bytes]:
    first = 1
    for block in _cut(chunks, lambda chunk: chunk.rfind(b"\n") + 1):
        lines = block.split(b"\n")
        yield documents(
            _text(line, field, f"{name} line {number}")
            for number, line in enumerate(lines, first)
            if line.strip()
        )
        first += len(lines) - 1


def _text(line: bytes, field: str, where: str) -> str:
    """The text of one JSON line."""
    reason = ""
    try:
        # Numbers and surrogates elsewhere in a row of the corpus do not matter here.
        row = strict_json.loads(line, allow_nan=True, allow_surrogates=True)
    except ValueError as error:
        row, reason = None, f" ({error})"
    if isinstance(row, dict) and isinstance(row.get(field), str):
        return str(row[field])
    raise DataError(
        f"{where}: expected a JSON object with a text field {field!r}, "
        f"got {line[:60].decode('utf-8', 'replace')!r}{reason}; choose the field with --field"
    )


def _parquet(path: Path, field: str) -> Iterator[bytes]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise DataError(
                    f"{path.name} has no column {field!r}; choose one with --field: "
                    f"{', '.join(names)}"
                )
            for batch in file.iter_batches(BATCH_ROWS, columns=[field]):
                cells = batch.column(0).to_pylist()
                yield documents(_cell(cell, f"{path.name}, column {field!r}") for cell in cells)
    except ArrowInvalid as error:
        raise DataError(f"{path.name} is not a Parquet file: {short_reason(error)}") from error


def _cell(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    raise DataError(
        f"{where}: expected text, got {type(value).__name__}; choose another column with --field"
    )
