"""Winograd Schema Challenge: whom a pronoun means. Levesque et al. 2012.

Radford et al. 2019, section 3.4: the formulation of Trinh and Le 2018 (arXiv:1806.02847), in which
each candidate replaces the pronoun; 70.70 % of 273. `partial` compares the probabilities of the
words after the candidate given those up to it, `full` those of the sentences.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from harness.core import Example, Fields, Hub, Loglikelihood, Request, Response, Row, Source
from harness.errors import DataError
from harness.metrics import ACCURACY, Outcome
from harness.metrics.extract import scored
from harness.prompt import Prompt
from harness.task import Measure, Option, Options, Step, Task

POSSESSIVE = ("my", "his", "her", "our", "their")
OPENINGS = ("a", "an", "the", "she", "he", "it", "they", *POSSESSIVE)
"""First words of a candidate that are lower case inside a sentence."""


def parse(data: bytes) -> list[Fields]:
    """Read the published XML file: text before, pronoun, text after, two candidates.

    One schema, shortened:

        <schema>
          <text><txt1>Ines lent Rosa a bicycle because</txt1><pron>she</pron>
                <txt2>had two.</txt2></text>
          <answers><answer>Ines</answer><answer>Rosa</answer></answers>
          <correctAnswer>A</correctAnswer>
        </schema>

    Raises:
        DataError: the file is not such XML, or a schema lacks a part.
    """
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, LookupError, ValueError) as error:  # the last two are about its encoding
        raise DataError(f"expected XML: {error}") from None
    rows: list[Fields] = []
    for number, schema in enumerate(root.iter("schema"), 1):
        candidates = tuple(_text(answer) for answer in schema.iterfind("answers/answer"))
        pronoun = _text(schema.find("text/pron"))
        letter = _text(schema.find("correctAnswer")).rstrip(".")
        if len(candidates) != 2 or not all(candidates) or not pronoun or letter not in ("A", "B"):
            raise DataError(
                f"schema {number}: expected text, pron, two answers and correctAnswer A or B"
            )
        rows.append(
            {
                "before": _text(schema.find("text/txt1")),
                "pronoun": pronoun,
                "after": _text(schema.find("text/txt2")),
                "candidates": candidates,
                "right": "AB".index(letter),
            }
        )
    return rows


def _text(element: ET.Element | None) -> str:
    return " ".join(((element.text if element is not None else "") or "").split())


def restore(rows: Iterable[Fields]) -> bytes:
    """Rows of the hub -> the XML file's form."""
    schemas = []
    for row in rows:
        at, pronoun = row["pronoun_loc"], row["pronoun"]
        parts = (row["text"][:at], pronoun, row["text"][at + len(pronoun) :])
        txt1, pron, txt2 = (escape(part) for part in parts)
        answers = "".join(f"<answer>{escape(option)}</answer>" for option in row["options"])
        schemas.append(
            f"<schema><text><txt1>{txt1}</txt1><pron>{pron}</pron><txt2>{txt2}</txt2></text>"
            f"<answers>{answers}</answers><correctAnswer>{'AB'[row['label']]}</correctAnswer>"
            "</schema>\n"
        )
    return f"<collection>\n{''.join(schemas)}</collection>\n".encode()


def source(options: Options) -> Source:
    """The collection; the hub's file has only its first 273 schemas."""
    return Source(
        title="Winograd Schema Challenge collection",
        files=("WSCollection.xml",),
        parse=parse,
        sample="samples/WSCollection.sample.xml",
        origin="https://cs.nyu.edu/faculty/davise/papers/WinogradSchemas/WSCollection.xml",
        sha256=("98c845a5b33c109f2c49742e726fac592bbb1fdc3b3706b604de12f9c9f58c91",),
        hub=Hub(
            "ErnestSDavis/winograd_wsc",
            "wsc273/test-00000-of-00001.parquet",
            "726df8970d7aa13179276fade14a545d52eafdd9",
            restore=restore,
        ),
    )


def read(rows: Sequence[Row], options: Options) -> list[Example]:
    """The schemas of the chosen set."""
    last = 273 if options["set"] == "wsc273" else 285
    return [_example(row) for row in rows if row.number < last]


def _example(row: Row) -> Example:
    fields = row.fields
    texts = [substitute(fields, candidate) for candidate in fields["candidates"]]
    return Example(
        str(row.number),
        {"texts": tuple(texts), "right": fields["right"]},
        (fields["candidates"][fields["right"]],),
    )


def substitute(fields: Fields, candidate: str) -> tuple[str, str]:
    """The sentence up to and including the candidate in the pronoun's place, and the rest.

    >>> substitute({"before": "Ann took", "pronoun": "her", "after": "hat."}, "The aunt")
    ("Ann took the aunt's", ' hat.')
    """
    before, after = fields["before"], fields["after"]
    first, _, others = candidate.partition(" ")
    opens = not before or before[-1] in ".!?"
    if not opens and first.lower() in OPENINGS:
        candidate = f"{first.lower()} {others}".rstrip()
    elif opens:
        candidate = candidate[:1].upper() + candidate[1:]
    if fields["pronoun"].lower() in POSSESSIVE:
        candidate += "'s"
    gap = "" if not after or re.match(r"[.,;:!?')\"’”]", after) else " "
    return f"{before} {candidate}".lstrip(), gap + after


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """What follows each candidate, then the sentence with each candidate."""
    texts = example.fields["texts"]
    partial: list[Request] = [Loglikelihood(head, tail) for head, tail in texts]
    return [*partial, *(Loglikelihood("", head + tail) for head, tail in texts)]


def measures(options: Options) -> tuple[Measure, ...]:
    """Accuracy under both scorings; `score` chooses the one to compare with the paper's."""
    return _accuracy("partial", 0, options), _accuracy("full", 2, options)


def _accuracy(name: str, first: int, options: Options) -> Measure:
    """Accuracy by the two responses from place `first` on."""

    def values(responses: Sequence[Response]) -> list[float]:
        pair = [scored(response) for response in responses[first : first + 2]]
        by_token = options["norm"] == "tokens"
        return [score.logprob / (score.num_tokens if by_token else 1) for score in pair]

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        of_candidates, right = values(responses), example.fields["right"]
        return [(float(of_candidates[right] > of_candidates[1 - right]), 1.0)]  # a tie is wrong

    def steps(example: Example, responses: Sequence[Response]) -> Iterator[Step]:
        per_token = " per token" if options["norm"] == "tokens" else ""
        yield f"log-probabilities of the candidates{per_token}", values(responses)
        yield "right candidate", f"{'AB'[example.fields['right']]}: {example.references[0]}"

    return Measure(
        f"acc-{name}",
        ACCURACY,
        extract,
        (f"acc-{name}", "schemas"),
        "by the words after the candidate" if name == "partial" else "by the whole sentence",
        column="Winograd ACC" if options["score"] == name else None,
        steps=steps,
    )


TASK = Task(
    name="winograd",
    version=1,
    title="Winograd Schema Challenge: whom a pronoun means",
    description=(
        "Each of two candidates replaces a pronoun; the more probable sentence wins, by the words "
        "after the candidate (partial) or by all words (full). Ties are wrong."
    ),
    source=source,
    read=read,
    ask=ask,
    measures=measures,
    options=(
        Option("set", "wsc273", ("wsc273", "wsc285"), "the 273 schemas of the paper, or all"),
        Option("score", "partial", ("partial", "full"), "the accuracy to compare with the paper's"),
        Option("norm", "none", ("none", "tokens"), "whether log-probabilities are divided by the "
               "number of tokens"),
        Option("bos", "auto", ("auto", "eot"), "start token of the sentence"),
    ),
    protocols={"paper": {}},
)  # fmt: skip
