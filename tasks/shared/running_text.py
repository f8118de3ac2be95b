"""WikiText, PTB and 1BW: files of lines that are scored as running text.

A line is a row. A file, an article or a line becomes one `Example`, whose text is scored in one
request. Its pieces are lines, so that nats and units can be pooled over them. Units are counted on
the original line, before any detokeniser (Radford et al. 2019, section 3.1).
"""

from collections.abc import Callable, Mapping, Sequence

from harness.core import Example, Request, RollingLoglikelihood, Row
from harness.errors import DataError
from harness.metrics import perplexity
from harness.metrics.extract import piece_nats
from harness.prompt import Prompt
from harness.task import Measure, Option, Options
from harness.text import detokenise_lines

BLOCKS = 100  # blocks of neighbouring lines that the interval resamples

MODE = Option(
    "mode",
    "checked",
    ("checked", "lossy"),
    "checked: a line that cannot be detokenised without loss is scored unchanged; lossy: no check",
)
UNIT = Option(
    "unit",
    "words+eos",
    ("words+eos", "words", "tokens"),
    "what the log-probability is divided by: words and line ends, words, or tokens",
)


def text_of(row: Row) -> str:
    """The line of a row.

    Raises:
        DataError: it is not a text.
    """
    text = row.fields["text"]
    if not isinstance(text, str):
        raise DataError(f"row {row.number}: expected a line of text, got {type(text).__name__}")
    return text


def example(
    rows: Sequence[Row], options: Options, *, detok: str, edit: Callable[[str], str] = str
) -> Example:
    """Join consecutive lines, each with a newline, into one text.

    `edit` changes a line before it is detokenised; words are counted before that.
    """
    originals = [text_of(row) for row in rows]
    lines, kept = detokenise_lines(
        [edit(line) for line in originals],
        detok,
        "lossy" if options["mode"] == "lossy" else "checked",
    )
    words = [len(line.split()) for line in originals]
    return Example(
        f"{rows[0].number}-{rows[-1].number}",
        {
            "pieces": tuple(line + "\n" for line in lines),
            "words": tuple(words),
            "words+eos": tuple(n + 1 for n in words),
            "undetokenised": kept,
        },
    )


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """One request for the text."""
    return [RollingLoglikelihood(example.fields["pieces"])]


def measures(column: str) -> Callable[[Options], tuple[Measure, ...]]:
    """Perplexity per unit, for a column of Table 3."""

    def of_options(options: Options) -> tuple[Measure, ...]:
        unit = options["unit"]
        name = {"words+eos": "word or line end", "words": "word", "tokens": "token"}[unit]
        measure = Measure(
            "ppl",
            perplexity(name),
            piece_nats(unit),
            ("nats", unit),
            f"exp(total nats / number of {unit} in the original text)",
            column=column,
            blocks=BLOCKS,
        )
        return (measure,)

    return of_options


def notes(examples: Sequence[Example], options: Options) -> Mapping[str, float]:
    """Counts on the original text, and how many lines were not detokenised."""
    pieces = sum(len(e.fields["pieces"]) for e in examples)
    return {
        "texts": len(examples),
        "lines": pieces,
        "words": sum(sum(e.fields["words"]) for e in examples),
        "undetokenised": sum(e.fields["undetokenised"] for e in examples),
    }
