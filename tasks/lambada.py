"""LAMBADA: predict the last word of a passage. Paperno et al. 2016, arXiv:1606.06031.

Radford et al. 2019, section 3.3 and Table 3: last-word perplexity, and accuracy after a stop-word
filter, on a version of the text "without preprocessing". What the paper leaves open (quotes, a
newline in front, start token, what the filter compares) is an option. Three accuracies have names
of their own because they differ by up to 14 points.
"""

from functools import cache
from importlib.resources import files

from harness.core import Example, Hub, Loglikelihood, NextWord, Request, Row, Source
from harness.data.parsers import join_lines, json_lines, text_lines
from harness.errors import DataError, UsageError
from harness.metrics import ACCURACY, perplexity
from harness.metrics.extract import (
    Extract,
    Steps,
    all_greedy,
    greedy_steps,
    last_greedy,
    last_token_nats,
    nats_steps,
    same_word,
    same_word_steps,
    strip_punctuation,
    target_nats,
    token_nats,
)
from harness.prompt import Prompt
from harness.task import Measure, Option, Options, Task, per_row
from harness.text import DETOKENISERS

from .shared.options import BOS

OPENAI = Source(
    title="LAMBADA test set as OpenAI prepared it for GPT-2",
    files=("lambada_test.jsonl",),
    parse=lambda data: json_lines(data, required=("text",)),
    sample="samples/lambada_test.jsonl",
    origin="https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
    sha256=("4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",),
    rows=5153,
    hub=Hub(
        "EleutherAI/lambada_openai",
        "data/lambada_test.jsonl",
        "900124bf3b8235c6daf21033af9948b3f07346c4",
    ),
)
ORIGINAL = Source(
    title="LAMBADA test set as first published: lower case, tokenised",
    files=("lambada_test_plain_text.txt",),
    parse=text_lines,
    sample="samples/lambada_test_plain_text.txt",
    origin="https://zenodo.org/record/2630551/files/lambada-dataset.tar.gz",
    sha256=("4ab6062b68422bf2e83653d367c9765d42404f7ec21b8b59b6518b45606aaef2",),
    rows=5153,
    hub=Hub(
        "cimec/lambada",
        "plain_text/test/0000.parquet",
        "refs/convert/parquet",
        restore=lambda rows: join_lines(row["text"] for row in rows),
    ),
)


def source(options: Options) -> Source:
    """The file chosen by `data`."""
    return OPENAI if options["data"] == "openai" else ORIGINAL


def read_row(row: Row, options: Options) -> Example:
    """Context and target; the target keeps the white space in front of it.

    A row: {"text": "The ferry had stopped running at six, ... carrying this another step, Maren"}
    """
    text = row.fields["text"]
    if options["data"] == "original":
        text = DETOKENISERS["lambada"].checked(text)[0]
    if options["quotes"] == "on":
        text = DETOKENISERS["lambada-quotes"].detokenise(text)
    text = text.strip()
    # Not a regular expression: `\s+\S+$` is quadratic in the length of white space.
    before, space, _ = text.rpartition(" ")
    if options["boundary"] == "whitespace":
        words = text.rsplit(maxsplit=1)
        before, space = (words[0], " ") if len(words) == 2 else ("", "")
    if not space:
        raise DataError(f"row {row.number}: expected a passage of several words, got {text[:40]!r}")
    context, target = before, text[len(before) :]
    return Example(str(row.number), {"context": context, "target": target}, (target.strip(),))


def prompt(options: Options) -> Prompt:
    """The context, with or without a newline in front."""
    return Prompt.load("lambada.txt" if options["newline"] == "on" else "lambada-plain.txt")


@cache
def stop_words(name: str) -> frozenset[str]:
    """One of the stop lists in this package: `nltk127`, `nltk179` or `none`."""
    if name == "none":
        return frozenset()
    lines = (files("harness.tasks") / f"stopwords-{name}.txt").read_text("utf-8").split("\n")
    return frozenset(line for line in lines if line and not line.startswith("#"))


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """The target's probability and, for the filter, the best word that is not a stop word."""
    context = prompt.render(context=example.fields["context"])
    requests: list[Request] = [Loglikelihood(context, example.fields["target"])]
    if options["filter"] != "off":
        in_context = options["candidates"] == "in-context"
        words = frozenset(map(strip_punctuation, context.split())) if in_context else None
        skip = stop_words(options["stoplist"])
        requests.append(NextWord(context, skip, words, options["filter"]))  # type: ignore[arg-type]
    return requests


def measures(options: Options) -> tuple[Measure, ...]:
    """Three perplexities and the accuracies; `acc` chooses the one for Table 3."""
    if options["acc"] == "word-stopfilter" and options["filter"] == "off":
        raise UsageError("acc=word-stopfilter needs a filter; set filter=word or another acc")

    def accuracy(name: str, extract: Extract, steps: Steps, help: str) -> Measure:
        column = "LAMBADA ACC" if options["acc"] == name else None
        statistics = (f"acc-{name}", "words")
        return Measure(f"acc-{name}", ACCURACY, extract, statistics, help, column, steps=steps)

    ignore_case = options["case"] == "lower"
    filtered = accuracy(
        "word-stopfilter",
        same_word(ignore_case=ignore_case),
        same_word_steps(ignore_case=ignore_case),
        "the model's best whole word that is not a stop word is the last word",
    )
    return (
        Measure(
            "ppl",
            perplexity("word"),
            target_nats,
            ("nats", "words"),
            "exp of the mean surprisal of the last word",
            column="LAMBADA PPL",
            steps=nats_steps,
        ),
        Measure(
            "ppl-last-token",
            perplexity("last token"),
            last_token_nats,
            ("last_token_nats", "words"),
            "exp of the mean surprisal of the last token of the word",
            steps=nats_steps,
        ),
        Measure(
            "ppl-per-token",
            perplexity("token"),
            token_nats,
            ("nats", "tokens"),
            "exp of the mean surprisal per token of the last words",
            steps=nats_steps,
        ),
        accuracy(
            "word-greedy",
            all_greedy,
            greedy_steps,
            "every token of the last word is the model's first choice",
        ),
        accuracy(
            "last-token",
            last_greedy,
            greedy_steps,
            "the last token of the word is the model's first choice",
        ),
        *([filtered] if options["filter"] != "off" else []),
    )


_PLAIN: Options = {"quotes": "off", "newline": "off", "filter": "off"}

TASK = Task(
    name="lambada",
    version=2,
    title="LAMBADA: the last word of a passage",
    description=(
        "The model reads a passage without its last word. Perplexity is per word. Accuracy has "
        "three variants that the paper does not clearly tell apart: the whole word, its last "
        "token, or the whole word after stop words are filtered out (the paper's text)."
    ),
    source=source,
    read=per_row(read_row),
    prompt=prompt,
    ask=ask,
    measures=measures,
    options=(
        Option("data", "openai", ("openai", "original"), "text with case and punctuation, or as "
               "first published (lower case, tokenised; detokenised where that can be undone)"),
        Option("quotes", "on", ("on", "off"), "replace curly double quotes by straight ones"),
        Option("newline", "on", ("on", "off"), "a line break in front of the passage"),
        Option("boundary", "whitespace", ("whitespace", "space"), "the target follows the last "
               "white space, or the last space (they differ in 7 passages)"),
        BOS,
        Option("acc", "word-stopfilter", ("word-stopfilter", "word-greedy", "last-token"),
               "the accuracy to compare with the paper's"),
        Option("filter", "word", ("word", "first-token", "every-token", "off"), "what is compared "
               "with the stop list; off omits the filtered accuracy"),
        Option("stoplist", "nltk127", ("nltk127", "nltk179", "none"), "the stop list"),
        Option("case", "exact", ("exact", "lower"), "how the filtered word is compared"),
        Option("candidates", "all", ("all", "in-context"), "allow any word, or only words of the "
               "passage"),
    ),
    protocols={
        "paper": {},
        "lm-eval": {
            **_PLAIN, "bos": "tokenizer", "boundary": "space", "acc": "word-greedy",
        },
        "last-token": {**_PLAIN, "bos": "none", "acc": "last-token"},
        "every-token-filter": {
            "quotes": "off", "newline": "off", "bos": "none", "filter": "every-token",
            "case": "lower",
        },
        "original": {"data": "original"},
    },
)  # fmt: skip
