"""Files of text -> blocks of bytes, never a whole file in memory.

A block ends between two words, and the byte 0 in it ends a document (`harness.overlap.ngrams`). The
name says what a file is: `.jsonl`, `.ndjson` and `.json` have a JSON object a line, `.parquet` a
column; everything else is plain text, one document a file unless lines are. All but parquet may
be compressed, `.gz` or `.zst`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.encodings import MARK, other_encoding
from harness.errors import DataError
from harness.files import strict_json
from harness.overlap.ngrams import BREAK

CHUNK = 1 << 18  # bytes read at once: what is computed from them stays in the processor's cache
ROWS = 1024  # of a parquet file, at once
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
_IN_WORD = bytes(b for b in range(256) if b >= 0x80 or chr(b).isalnum())


@dataclass(frozen=True, slots=True)
class Reading:
    """How files become documents."""

    field: str = "text"  # of JSON objects and of parquet files
    by_line: bool = False  # whether each line of a plain text is a document


def blocks(path: Path, how: Reading) -> Iterator[bytes]:
    """The text of a file.

    Raises:
        DataError: it cannot be read, or is not what its name says.
    """
    kinds = [suffix.lower() for suffix in path.suffixes]
    try:
        if kinds[-1:] == [".parquet"]:
            yield from _parquet(path, how)
            return
        compression = COMPRESSED.get(kinds[-1]) if kinds else None
        chunks = _as_text(path, _chunks(path, compression))
        if (kinds[:-1] if compression else kinds)[-1:] in [[kind] for kind in JSON_LINES]:
            yield from _json_lines(path, chunks, how)
        else:
            yield from _plain(chunks, how)
    except OSError as error:  # pyarrow's errors of a damaged file are among them
        reason = error.strerror or _first_line(error)
        raise DataError(
            f"cannot read {str(path)!r}: {reason}; give --corpus a readable file whose name says "
            "what it is"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def documents(texts: Iterable[str]) -> bytes:
    """Texts as one block; the byte 0 inside one becomes a space."""
    found = (text.encode("utf-8", "replace").replace(BREAK, b" ") for text in texts)
    return b"".join(text + BREAK for text in found)


def _chunks(path: Path, compression: str | None) -> Iterator[bytes]:
    if compression is None:
        with path.open("rb") as file:
            yield from iter(lambda: file.read(CHUNK), b"")
        return
    from pyarrow import input_stream

    with input_stream(str(path), compression=compression) as stream:
        yield from iter(lambda: stream.read(CHUNK), b"")


def _as_text(path: Path, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes without a byte-order mark, every line end (CR LF, CR or LF) as LF.

    Raises:
        DataError: the file is in another encoding than UTF-8.
    """
    after_cr = False
    for number, chunk in enumerate(chunks):
        if number == 0:
            if encoding := other_encoding(chunk):
                raise DataError(f"{path.name} is {encoding}, expected UTF-8; save it as UTF-8")
            chunk = chunk.removeprefix(MARK)
        if after_cr:  # a CR LF that was cut in two
            chunk = chunk.removeprefix(b"\n")
        after_cr = chunk.endswith(b"\r")
        yield chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _plain(chunks: Iterable[bytes], how: Reading) -> Iterator[bytes]:
    for block in _cut(chunks, lambda chunk: len(chunk.rstrip(_IN_WORD))):
        text = block.replace(BREAK, b" ")
        yield text.replace(b"\n", BREAK) if how.by_line else text
    yield BREAK


def _cut(chunks: Iterable[bytes], place: Callable[[bytes], int]) -> Iterator[bytes]:
    """The same bytes, cut where `place` says for each chunk; 0 is nowhere."""
    pending: list[bytes] = []
    for chunk in chunks:
        at = place(chunk)
        if at:
            yield b"".join([*pending, chunk[:at]])
            pending = []
        pending.append(chunk[at:])
    yield b"".join(pending)


def _json_lines(path: Path, chunks: Iterable[bytes], how: Reading) -> Iterator[bytes]:
    number = 0
    for block in _cut(chunks, lambda chunk: chunk.rfind(b"\n") + 1):
        lines = block.split(b"\n")
        texts = (_text(line, how, (path, number + k)) for k, line in enumerate(lines, 1))
        yield documents(text for text in texts if text is not None)
        number += len(lines) - 1


def _text(line: bytes, how: Reading, place: tuple[Path, int]) -> str | None:
    """The text of one line; None if it is blank."""
    if not line.strip():
        return None
    why = ""
    try:
        # A corpus may be odd where nobody looks at it: its numbers are not ours.
        row = strict_json.loads(line, allow_nan=True, allow_surrogates=True)
    except ValueError as error:
        row, why = None, f" ({error})"
    if isinstance(row, dict) and isinstance(row.get(how.field), str):
        return str(row[how.field])
    raise DataError(
        f"{place[0].name} line {place[1]}: expected a JSON object with the text {how.field!r}, "
        f"got {line[:60].decode('utf-8', 'replace')!r}{why}; --field names another one"
    )


def _parquet(path: Path, how: Reading) -> Iterator[bytes]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            names: Sequence[str] = file.schema_arrow.names
            if how.field not in names:
                raise DataError(
                    f"{path.name} has no column {how.field!r}; --field names one of: "
                    f"{', '.join(names)}"
                )
            for batch in file.iter_batches(ROWS, columns=[how.field]):
                yield documents(map(_cell(path, how), batch.column(0).to_pylist()))
    except ArrowInvalid as error:
        raise DataError(f"{path.name} is no parquet file: {_first_line(error)}") from error


def _cell(path: Path, how: Reading) -> Callable[[Any], str]:
    def text(value: Any) -> str:
        if isinstance(value, str):
            return value
        raise DataError(
            f"{path.name}, column {how.field!r}: expected text, got {type(value).__name__}; "
            "--field names another column"
        )

    return text
