"""Detect other encodings than UTF-8 and normalise line ends.

Line ends and a byte-order mark belong to the storage of a text, not to the text. CR LF becomes LF,
as does CR in files without LF, and the mark of UTF-8 is dropped.
"""

import codecs

MARK = codecs.BOM_UTF8
_OTHER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def other_encoding(data: bytes) -> str:
    """`UTF-16` or `UTF-32` if the first bytes of a file have that encoding, else an empty string.

    UTF-16 without a mark shows by the zero bytes of ASCII letters: they are most of the bytes at
    even positions, or most of those at odd positions.
    """
    for mark, name in _OTHER_MARKS:
        if data.startswith(mark):
            return name
    even, odd = (half.count(0) > len(half) / 2 for half in (data[0:1000:2], data[1:1000:2]))
    return "UTF-16" if even != odd and len(data) > 1 else ""


def with_line_feeds(text: str) -> str:
    r"""Replace the text's line ends CR LF or CR by LF: `"a\r\nb\r\n"` gives `"a\nb\n"`.

    The end of the first line decides which they are. A carriage return elsewhere is text.
    """
    first = text.find("\r")
    if first < 0 or text.find("\n", 0, first) >= 0:
        return text
    if text.startswith("\n", first + 1):
        return text.replace("\r\n", "\n")
    return text.replace("\r", "\n") if "\n" not in text.removesuffix("\n") else text
