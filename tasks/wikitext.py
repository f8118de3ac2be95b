"""WikiText-2 and WikiText-103: perplexity of Wikipedia articles. Merity et al. 2016, 1609.07843.

Radford et al. 2019, section 3.1 and Table 3. Both test sets are the same 60 articles and differ
only in which words are `<unk>`; the raw file has none. The paper does not name the file, the
windows or the detokeniser, so each is an option. `lm-eval` scores the articles of the raw file
separately.

Rows: ` = <unk> Lighthouse = `, ` `, ` <unk> Lighthouse stands on a low <unk> about 3 @.@ 5 ...`
"""

import re
from collections.abc import Callable, Iterable, Sequence

from harness.core import Example, Fields, Hub, Row, Source
from harness.data.parsers import text_lines
from harness.errors import DataError, UsageError
from harness.task import Measure, Option, Options, Task
from harness.text import megatron_wikitext

from .shared import running_text
from .shared.options import BOS, STRIDE, WINDOWS

_REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
_MIRROR = "https://wikitext.smerity.com/"
_TOP_HEADING = re.compile(r" = [^=].* = ")


def restore(rows: Iterable[Fields]) -> bytes:
    """Rows of the hub -> the original file; on the hub a blank line is an empty string."""
    return "".join(row["text"] or " \n" for row in rows).encode()


def parse(data: bytes) -> list[Fields]:
    """Read the lines of the file.

    Raises:
        DataError: there is no heading of an article.
    """
    rows = text_lines(data)
    if not any(_TOP_HEADING.fullmatch(row["text"]) for row in rows):
        first = rows[0]["text"][:60] if rows else ""
        raise DataError(f"expected articles that begin with ' = Title = ', line 1 is {first!r}")
    return rows


def _source(config: str, folder: str, file: str, sample: str, sha256: str) -> Source:
    return Source(
        title=f"test set of {config}",
        files=(f"{folder}/{file}", f"{config}/{file}", f"./{file}"),
        parse=parse,
        sample=f"samples/{sample}",
        origin=f"{_MIRROR}{config}.zip",
        sha256=(sha256,),
        rows=4358,
        hub=Hub("Salesforce/wikitext", f"{config}/test-00000-of-00001.parquet", _REVISION, restore),
    )


_RAW = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"
V1 = {
    "wikitext2": _source(
        "wikitext-2-v1",
        "wikitext-2",
        "wiki.test.tokens",
        "wiki.test.v1.tokens",
        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    ),
    "wikitext103": _source(
        "wikitext-103-v1",
        "wikitext-103",
        "wiki.test.tokens",
        "wiki103.test.tokens",
        "56db52eb157b1ab5c89646eef70510c1eca6e12a3bfdb99f0d6b05b4eacb75b9",
    ),
}
RAW = _source("wikitext-2-raw-v1", "wikitext-2-raw", "wiki.test.raw", "wiki.test.raw", _RAW)


def split_articles(rows: Sequence[Row]) -> list[list[Row]]:
    """Group lines into articles, each of which begins with a top heading, ` = Title = `.

    Lines before the first heading of the file are dropped, as in the hub's document-level set. Rows
    from the middle of the file may begin inside an article. A line of formula that looks like a
    heading starts an article there, too.
    """
    articles: list[list[Row]] = [[]] if rows[0].number > 0 else []
    for row in rows:
        if _TOP_HEADING.fullmatch(running_text.text_of(row)):
            articles.append([])
        if articles:
            articles[-1].append(row)
    return [article for article in articles if article] or [list(rows)]


def megatron_article(rows: Sequence[Row]) -> Example:
    """An article as one piece under Megatron's rules, which cross lines.

    As in lm-eval, splitting at white space counts empty words at both ends.
    """
    text = "\n".join(running_text.text_of(row) for row in rows)
    words = len(re.split(r"\s+", text))
    return Example(
        f"{rows[0].number}-{rows[-1].number}",
        {
            "pieces": (megatron_wikitext(text),),
            "words": (words,),
            "words+eos": (words + len(rows),),
            "undetokenised": 0,
        },
    )


def hf_joined(example: Example) -> Example:
    """The text with two newlines between rows, as the Hugging Face guide joins the hub's rows."""
    pieces = [("" if piece.isspace() else piece) + "\n\n" for piece in example.fields["pieces"]]
    pieces[-1] = pieces[-1].removesuffix("\n\n")
    return Example(example.id, {**example.fields, "pieces": tuple(pieces)})


def read(rows: Sequence[Row], options: Options) -> Iterable[Example]:
    """One text per file or per article."""
    by_article = options["stream"] == "article"
    texts = split_articles(rows) if by_article else [list(rows)]
    if options["detok"] == "megatron":
        return [megatron_article(text) for text in texts]
    examples = [running_text.example(text, options, detok=options["detok"]) for text in texts]
    return [hf_joined(e) for e in examples] if options["join"] == "hf" else examples


def measures(column: str) -> Callable[[Options], tuple[Measure, ...]]:
    """Perplexity per unit, for a column of Table 3."""
    of_lines = running_text.measures(column)

    def checked(options: Options) -> tuple[Measure, ...]:
        if options["join"] == "hf" and options["detok"] == "megatron":
            raise UsageError(
                "join=hf joins lines, detok=megatron whole texts; set only one of them"
            )
        return of_lines(options)

    return checked


def _task(name: str, number: str, column: str) -> Task:
    def source(options: Options) -> Source:
        return RAW if options["file"] == "raw" else V1[name]

    return Task(
        name=name,
        version=2,
        title=f"WikiText-{number}: perplexity of Wikipedia articles, per original word",
        description=(
            "The test file is scored as one text in disjoint windows; nats are divided by the "
            "number of words and line ends of the tokenised original. The v1 file has <unk> for "
            "rare words; the raw file has none and is the same for WikiText-2 and WikiText-103."
        ),
        source=source,
        read=read,
        ask=running_text.ask,
        measures=measures(column),
        notes=running_text.notes,
        stream=True,
        options=(
            Option("file", "v1", ("v1", "raw"), "with <unk> for rare words, or the raw text"),
            Option("detok", "wikitext", ("wikitext", "megatron", "none"), "detokeniser; "
                   "megatron is lossy and works on whole texts"),
            running_text.MODE,
            running_text.UNIT,
            Option("stream", "file", ("file", "article"), "the text that is scored at once"),
            Option("join", "newline", ("newline", "hf"), "lines as in the file, or the hub's "
                   "rows joined by two newlines"),
            STRIDE,
            WINDOWS,
            BOS,
        ),
        protocols={
            "paper": {},
            "strided": {"stride": "32"},
            "lm-eval": {
                "file": "raw", "detok": "megatron", "stream": "article", "unit": "words",
                "windows": "lm-eval",
            },
            "hf": {
                "file": "raw", "detok": "none", "join": "hf", "unit": "tokens",
                "windows": "hf", "bos": "none",
            },
        },
    )  # fmt: skip


WIKITEXT2 = _task("wikitext2", "2", "WikiText2 PPL")
WIKITEXT103 = _task("wikitext103", "103", "WikiText103 PPL")
