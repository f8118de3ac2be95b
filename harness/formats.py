"""Bytes of a benchmark's original file -> fields of its rows.

Lines end at LF only: `str.splitlines` would also split at U+2028, form feed and others that
stand inside benchmark texts. Every parser names the first line it cannot read.
"""

import json
import re
from collections.abc import Iterable, Sequence

from harness.core import Fields
from harness.errors import DataError

_HALF = re.compile("[\ud800-\udfff]")  # JSON can escape half a character; that is no text


def decode(data: bytes) -> str:
    """UTF-8 text of `data`.

    Raises:
        DataError: the bytes are no UTF-8; names the line and the byte.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"line {line}: expected UTF-8, got byte 0x{data[error.start]:02x}; "
            "save the file as UTF-8 or get the original"
        ) from None


def text_lines(data: bytes) -> list[Fields]:
    r"""One row a line, without its line end: `b" a b \n c\n"` gives texts `" a b "`, `" c"`."""
    lines = decode(data).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [{"text": line} for line in lines]


def json_lines(data: bytes, *, required: Sequence[str]) -> list[Fields]:
    """One JSON object a line, each with the keys `required`, whose values are text.

    Raises:
        DataError: a line is no such object.
    """
    rows: list[Fields] = []
    for number, line in enumerate(decode(data).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not all(is_text(row.get(k)) for k in required):
            keys = ", ".join(required)
            raise DataError(
                f"line {number}: expected a JSON object with the text key(s) {keys}, "
                f"got {line[:60]!r}"
            )
        rows.append(row)
    return rows


def is_text(value: object) -> bool:
    """Whether a JSON value is text that can be encoded."""
    return isinstance(value, str) and not _HALF.search(value)


def stretches(data: bytes, size: int) -> list[Fields]:
    """`data` in rows of about `size` bytes; no row begins inside a UTF-8 character.

    The rows' `bytes` join to `data` exactly, valid UTF-8 or not.
    """
    rows: list[Fields] = []
    start = 0
    while start < len(data):
        stop = min(start + size, len(data))
        while stop < len(data) and data[stop] & 0xC0 == 0x80 and stop - start < size + 4:
            stop += 1
        rows.append({"bytes": data[start:stop]})
        start = stop
    return rows


def join_lines(lines: Iterable[str]) -> bytes:
    """Lines -> the bytes of a text file; how parquet rows of the hub become the original file."""
    return "".join(line + "\n" for line in lines).encode()
