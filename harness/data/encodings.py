"""Bytes of a text file -> text, whatever program saved the file.

Line ends and a byte-order mark are how a file is stored, not what it says: CR LF and, in files
without LF, CR become LF, and the mark of UTF-8 is dropped. Other encodings are named, not guessed.
"""

import codecs

MARK = codecs.BOM_UTF8
_MARKS = (  # the longer first: UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def other_encoding(data: bytes) -> str:
    """`UTF-16` or `UTF-32` if a file's first bytes are of that encoding, else nothing.

    Without a byte-order mark it is told by the zero bytes beside the letters of ASCII: most bytes
    at even places, or most at odd ones.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    even, odd = (side.count(0) > len(side) / 2 for side in (data[0:1000:2], data[1:1000:2]))
    return "UTF-16" if even != odd and len(data) > 1 else ""


def with_line_feeds(text: str) -> str:
    r"""The text with LF where its own line ends are CR LF or CR: `"a\r\nb\r\n"` gives `"a\nb\n"`.

    A file's line ends are what ends its first line. A carriage return elsewhere is text.
    """
    first = text.find("\r")
    if first < 0 or text.find("\n", 0, first) >= 0:
        return text
    if text.startswith("\n", first + 1):
        return text.replace("\r\n", "\n")
    return text.replace("\r", "\n") if "\n" not in text.removesuffix("\n") else text
