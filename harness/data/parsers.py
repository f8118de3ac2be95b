"""Bytes of a benchmark's original file -> fields of its rows.

Lines end at LF, CR LF or, in a file that has no other, CR: `str.splitlines` would also split at
U+2028, form feed and others that stand inside benchmark texts. Every parser names the first line
it cannot read.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from harness.core import Fields
from harness.data.encodings import MARK, other_encoding, with_line_feeds
from harness.errors import DataError
from harness.files import strict_json

_HALF = re.compile("[\ud800-\udfff]")  # JSON can escape half a character; that is no text


def decode(data: bytes) -> str:
    """The text of a UTF-8 file, without a byte-order mark and with LF for the file's line ends.

    Raises:
        DataError: the bytes are not UTF-8, or hold a zero byte; names the line.
    """
    if encoding := other_encoding(data):
        raise DataError(f"expected UTF-8, got {encoding}; save the file as UTF-8")
    data = data.removeprefix(MARK)
    zero = data.find(b"\0")
    if zero >= 0:
        line = data.count(b"\n", 0, zero) + 1
        raise DataError(f"line {line}: expected text, got a zero byte; get the original file")
    try:
        return with_line_feeds(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"line {line}: expected UTF-8, got byte 0x{data[error.start]:02x}; "
            "save the file as UTF-8 or get the original"
        ) from None


def lines(data: bytes) -> list[str]:
    r"""The lines of a UTF-8 file without their ends: `b" a b \r\n c\n"` gives `[" a b ", " c"]`.

    Raises:
        DataError: as `decode`.
    """
    found = [line.removesuffix("\r") for line in decode(data).split("\n")]
    if found[-1] == "":
        found.pop()
    return found


def text_lines(data: bytes) -> list[Fields]:
    """One row a line: the line as `text`.

    Raises:
        DataError: as `decode`.
    """
    return [{"text": line} for line in lines(data)]


def json_lines(data: bytes, *, required: Sequence[str]) -> list[Fields]:
    """One JSON object a line, each with the keys `required`, whose values are text.

    Raises:
        DataError: a line is not such an object.
    """
    rows: list[Fields] = []
    for number, line in enumerate(lines(data), 1):
        if not line.strip():
            continue
        row = json_value(line, f"line {number}", f"a JSON object with {_keys(required)}")
        if not isinstance(row, dict) or not all(is_text(row.get(k)) for k in required):
            raise DataError(
                f"line {number}: expected a JSON object with {_keys(required)}, got {line[:60]!r}"
            )
        rows.append(row)
    return rows


def _keys(required: Sequence[str]) -> str:
    return f"the text key(s) {', '.join(required)}"


def json_value(text: str, where: str, expected: str) -> Any:
    """The value of a JSON text.

    Args:
        text: of the value.
        where: the text stands in the file, for the message.
        expected: what the value should be, for the message.

    Raises:
        DataError: it is not JSON, too deeply nested, or has a number that is not finite or has too
            many digits.
    """
    try:
        return strict_json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: expected {expected}, got {text[:60]!r} ({error})") from None


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
