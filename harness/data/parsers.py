"""Parse the bytes of a benchmark's original file into the fields of its rows.

Lines end at LF, CR LF or, in a file that has no other line end, CR. `str.splitlines` would also
split at U+2028, form feed and others, which benchmark texts contain. Every parser names the first
line that it cannot read.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from harness.core import Fields
from harness.data.encodings import MARK, other_encoding, with_line_feeds
from harness.errors import DataError
from harness.files import strict_json

_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which JSON can escape


def decode(data: bytes) -> str:
    """The text of a UTF-8 file, without a byte-order mark and with LF for the file's line ends.

    Raises:
        DataError: the bytes are not UTF-8, or contain a zero byte.
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
    result = [line.removesuffix("\r") for line in decode(data).split("\n")]
    if result[-1] == "":
        result.pop()
    return result


def text_lines(data: bytes) -> list[Fields]:
    """One row per line, with the line as `text`.

    Raises:
        DataError: as `decode`.
    """
    return [{"text": line} for line in lines(data)]


def json_lines(data: bytes, *, required: Sequence[str]) -> list[Fields]:
    """One row per line: a JSON object with the keys `required`, whose values are text.

    Raises:
        DataError: a line is not such an object.
    """
    expected = f"a JSON object with the text key(s) {', '.join(required)}"
    rows: list[Fields] = []
    for number, line in enumerate(lines(data), 1):
        if not line.strip():
            continue
        row = json_value(line, f"line {number}", expected)
        if not isinstance(row, dict) or not is_text(*map(row.get, required)):
            raise DataError(f"line {number}: expected {expected}, got {line[:60]!r}")
        rows.append(row)
    return rows


def json_value(text: str, where: str, expected: str) -> Any:
    """Parse a JSON text.

    Args:
        text: The text.
        where: Its position in the file, for the message.
        expected: What the value should be, for the message.

    Raises:
        DataError: it is not strict JSON (see `harness.files.strict_json`).
    """
    try:
        return strict_json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: expected {expected}, got {text[:60]!r} ({error})") from None


def is_text(*values: object) -> bool:
    """Whether all of these JSON values are text that UTF-8 can encode."""
    return all(isinstance(value, str) and not _SURROGATE.search(value) for value in values)


def stretches(data: bytes, size: int) -> list[Fields]:
    """Cut `data` into rows of about `size` bytes; no row begins inside a UTF-8 character.

    The `bytes` of the rows join to `data` exactly, valid UTF-8 or not.
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
    """The bytes of a text file with these lines; restores the original file from parquet rows."""
    return "".join(line + "\n" for line in lines).encode()
