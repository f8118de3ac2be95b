"""Winograd Schema Challenge: whom a pronoun means. Levesque et al. 2012.

Radford et al. 2019, section 3.4: the formulation of Trinh and Le 2018 (arXiv:1806.02847), in which
each candidate replaces the pronoun; 70.70 % of 273. `partial` compares the probabilities of the
words after the candidate given those up to it, `full` those of the sentences.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from harness.core import Example, Fields, Hub, Loglikelihood, Request, Response, Row, Source
from harness.errors import DataError
from harness.metrics import ACCURACY, mean
from harness.metrics.extract import nats_steps, scored, target_nats
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
    """Accuracy under both scorings; `score` chooses the one to compare with the paper's.

    Then, for each scoring, how probable the right candidate is, alone and against the other.
    """
    scorings = [Scoring("partial", 0, options), Scoring("full", 2, options)]
    accuracies = (scoring.accuracy() for scoring in scorings)
    others = (measure for s in scorings for measure in (s.nats(), s.margin()))
    return (*accuracies, *others)


@dataclass(frozen=True, slots=True)
class Scoring:
    """One of the two ways to compare the candidates, and its measures."""

    name: str
    first: int  # place of the response for the first candidate; the other's is the next
    options: Options

    @property
    def by_token(self) -> bool:
        """Whether log-probabilities are divided by the number of tokens."""
        return self.options["norm"] == "tokens"

    @property
    def words(self) -> str:
        """What is scored."""
        return "the words after the candidate" if self.name == "partial" else "the whole sentence"

    def accuracy(self) -> Measure:
        """Whether the right candidate is more probable; a tie is wrong."""
        return Measure(
            f"acc-{self.name}",
            ACCURACY,
            lambda example, responses: [(float(self._margin(example, responses) > 0), 1.0)],
            (f"acc-{self.name}", "schemas"),
            f"by {self.words}",
            column="Winograd ACC" if self.options["score"] == self.name else None,
            steps=self._steps,
        )

    def nats(self) -> Measure:
        """The surprisal of the right candidate's text, never divided by its length."""

        def response(example: Example, responses: Sequence[Response]) -> Sequence[Response]:
            return responses[self.first + example.fields["right"] :]

        return Measure(
            f"nats-{self.name}",
            mean("nats", higher_is_better=False),
            lambda example, responses: target_nats(example, response(example, responses)),
            (f"nats-{self.name}", "schemas"),
            f"mean surprisal of {self.words}, with the right candidate",
            steps=lambda example, responses: nats_steps(example, response(example, responses)),
        )

    def margin(self) -> Measure:
        """How much more probable the right candidate is than the other."""
        return Measure(
            f"margin-{self.name}",
            mean("nats per token" if self.by_token else "nats", higher_is_better=True),
            lambda example, responses: [(self._margin(example, responses), 1.0)],
            (f"margin-{self.name}", "schemas"),
            f"mean log-probability of {self.words} with the right candidate minus with the other",
            steps=self._steps,
        )

    def _margin(self, example: Example, responses: Sequence[Response]) -> float:
        of_candidates = self._values(responses)
        right: int = example.fields["right"]
        return of_candidates[right] - of_candidates[1 - right]

    def _values(self, responses: Sequence[Response]) -> list[float]:
        pair = [scored(response) for response in responses[self.first : self.first + 2]]
        return [score.logprob / (score.num_tokens if self.by_token else 1) for score in pair]

    def _steps(self, example: Example, responses: Sequence[Response]) -> Iterator[Step]:
        per_token = " per token" if self.by_token else ""
        yield f"log-probabilities of the candidates{per_token}", self._values(responses)
        yield "right candidate", f"{'AB'[example.fields['right']]}: {example.references[0]}"


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
