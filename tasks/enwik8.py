"""enwik8: bits per byte of a Wikipedia dump. Mahoney, mattmahoney.net/dc/textdata.

Radford et al. 2019, Table 3. The paper gives no split; the usual test split is the last 5,000,000
bytes. A split may begin or end inside a character, whose bytes are then single tokens.
"""

import re
from collections.abc import Iterable, Sequence
from html import unescape

from harness.core import Example, Fields, Hub, Row, Source
from harness.task import Option, Options, Task

from .shared import wikipedia_dump
from .shared.options import BOS, STRIDE, WINDOWS

_ENTITY = re.compile(rb"&(?:lt|gt|amp|quot);")
_OPEN_ENTITY = re.compile(rb"&[a-z]{0,4}\Z")


def restore(rows: Iterable[Fields]) -> bytes:
    """The single row of the hub -> the bytes of the file."""
    return "".join(row["text"] for row in rows).encode()


def source(options: Options) -> Source:
    """The dump or its beginning: <mediawiki xmlns="http://www.mediawiki.org/xml/export-0.3/" ..."""
    return Source(
        title="enwik8: the first 100,000,000 bytes of an English Wikipedia dump of 2006",
        files=("enwik8", "enwik8.zip", "enwik8.first*"),
        parse=wikipedia_dump.parse(options["split"], "enwik8"),
        sample="samples/enwik8.sample",
        origin="https://mattmahoney.net/dc/enwik8.zip",
        sha256=(
            "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
            "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
        ),
        hub=Hub(
            "LTCB/enwik8",
            "enwik8-raw/train/0000.parquet",
            "f31c6223854edd576304fd6d90f870f2dc350dfc",
            restore,
        ),
    )


def unescaped(pieces: Sequence[bytes]) -> list[bytes]:
    """Undo XML's four entities once; one that spans two pieces moves to the second."""
    unescaped_pieces: list[bytes] = []
    rest = b""
    for piece in pieces:
        piece = rest + piece
        open_entity = _OPEN_ENTITY.search(piece)
        rest = open_entity.group() if open_entity else b""
        body = piece[: len(piece) - len(rest)]
        unescaped_pieces.append(_ENTITY.sub(lambda m: unescape(m.group().decode()).encode(), body))
    unescaped_pieces[-1] += rest
    return unescaped_pieces


def read(rows: Sequence[Row], options: Options) -> Iterable[Example]:
    """One text."""
    pieces = [row.fields["bytes"] for row in rows]
    return [
        wikipedia_dump.example(rows, unescaped(pieces) if options["detok"] != "none" else pieces)
    ]


TASK = Task(
    name="enwik8",
    version=2,
    title="enwik8: bits per byte of a Wikipedia dump",
    description=(
        "The raw bytes of the split are scored as one text in disjoint windows; bits are divided "
        "by the number of bytes. detok=xml-unescape hides which characters were escaped, so it is "
        "not a strict likelihood."
    ),
    source=source,
    read=read,
    ask=wikipedia_dump.ask,
    measures=wikipedia_dump.measures("bpb", "byte", "enwik8 BPB"),
    notes=wikipedia_dump.notes,
    stream=True,
    options=(
        wikipedia_dump.SPLIT,
        Option("detok", "none", ("none", "xml-unescape"), "undo &lt; &gt; &amp; &quot; once"),
        STRIDE,
        WINDOWS,
        BOS,
    ),
    protocols={"paper": {}, "strided": {"stride": "32"}},
)  # fmt: skip
