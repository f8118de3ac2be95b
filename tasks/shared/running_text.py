"""What WikiText, PTB and 1BW have in common: files of lines that are scored as running text.

A line is a row. A whole file, an article or a single line becomes one `Example` whose text is
scored in one go; its pieces are lines, so that units and nats can be pooled over them. Units
are counted on the original line, before any detokeniser (Radford et al. 2019, section 3.1).
"""

from collections.abc import Callable, Mapping, Sequence

from harness.core import Example, Request, RollingLoglikelihood, Row
from harness.errors import DataError
from harness.metrics import perplexity
from harness.metrics.extract import piece_nats
from harness.prompt import Prompt
from harness.task import Measure, Option, Options
from harness.text import detokenise_lines

BLOCKS = 100  # of neighbouring lines, for the interval

MODE = Option(
    "mode",
    "checked",
    ("checked", "lossy"),
    "checked: a line whose original could not be recovered is scored as it is; lossy: never",
)
UNIT = Option(
    "unit",
    "words+eos",
    ("words+eos", "words", "tokens"),
    "what the log-probability is divided by: words and line ends, words, or the model's tokens",
)


def text_of(row: Row) -> str:
    """The row's line.

    Raises:
        DataError: it is no text.
    """
    text = row.fields["text"]
    if not isinstance(text, str):
        raise DataError(f"row {row.number}: expected a line of text, got {type(text).__name__}")
    return text


def example(
    rows: Sequence[Row], options: Options, *, detok: str, edit: Callable[[str], str] = str
) -> Example:
    """One text out of consecutive lines, each ended by a newline.

    `edit` changes a line before it is detokenised; words are counted before both.
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
    """The whole text."""
    del prompt, options
    return [RollingLoglikelihood(example.fields["pieces"])]


def measures(column: str) -> Callable[[Options], tuple[Measure, ...]]:
    """Perplexity per unit, for a column of Table 3."""

    def found(options: Options) -> tuple[Measure, ...]:
        unit = options["unit"]
        name = {"words+eos": "word or line end", "words": "word", "tokens": "token"}[unit]
        return (
            Measure(
                "ppl",
                perplexity(name),
                piece_nats(unit),
                ("nats", unit),
                f"exp(total nats / number of {unit} in the original text)",
                column=column,
                blocks=BLOCKS,
            ),
        )

    return found


def notes(examples: Sequence[Example], options: Options) -> Mapping[str, float]:
    """Counts on the original text, and how much of it was detokenised."""
    del options
    pieces = sum(len(e.fields["pieces"]) for e in examples)
    return {
        "texts": len(examples),
        "lines": pieces,
        "words": sum(sum(e.fields["words"]) for e in examples),
        "undetokenised": sum(e.fields["undetokenised"] for e in examples),
    }
