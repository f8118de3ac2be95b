"""Rhymes: the last word of a couplet. Twelve couplets, written for this example."""

from harness.core import Example, Loglikelihood, Request, Row, Source
from harness.data.parsers import json_lines
from harness.metrics import ACCURACY, perplexity
from harness.metrics.extract import all_greedy, target_nats
from harness.prompt import Prompt
from harness.task import Measure, Option, Options, Task, per_row

PACKAGE = "harness_rhymes"
SOURCE = Source(
    title="rhyming couplets",
    files=("rhymes.jsonl",),
    parse=lambda data: json_lines(data, required=("text",)),
    sample="rhymes.jsonl",
    origin="the package harness-rhymes",
    rows=12,
    package=PACKAGE,
)


def read_row(row: Row, options: Options) -> Example:
    """The couplet without its last word, and that word."""
    couplet, _, word = row.fields["text"].rpartition(" ")
    shown = couplet if options["lines"] == "both" else couplet.rpartition("\n")[2]
    return Example(str(row.number), {"couplet": shown}, (word,))


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """One request; the space opens the word, as GPT-2's tokens do."""
    return [Loglikelihood(prompt.render(**example.fields), " " + example.references[0])]


TASK = Task(
    name="rhymes",
    version=1,
    title="Rhymes: the last word of a couplet",
    description="The model reads a couplet without its last word, which rhymes with line one.",
    source=lambda options: SOURCE,
    read=per_row(read_row),
    prompt=lambda options: Prompt.load("rhymes.txt", package=PACKAGE),
    ask=ask,
    measures=lambda options: (
        Measure("acc", ACCURACY, all_greedy, ("acc", "words"), "greedy decoding gives the word"),
        Measure("ppl", perplexity("word"), target_nats, ("nats", "words"), "of the last word"),
    ),
    options=(Option("lines", "both", ("both", "second"), "which lines the model reads"),),
    protocols={"paper": {}, "no-rhyme": {"lines": "second"}},
)
