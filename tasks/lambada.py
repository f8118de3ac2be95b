"""LAMBADA: predict the last word of a passage. Paperno et al. 2016, arXiv:1606.06031.

Radford et al. 2019, section 3.3 and Table 3: last-word perplexity, and accuracy after a
stop-word filter on a version of the text "without preprocessing". What the paper leaves open
(quotes, a newline in front, start token, what the filter filters) are options here; three
readings of accuracy are reported under three names, since they differ by up to 14 points.
"""

from functools import cache
from importlib.resources import files

from harness.core import Example, Hub, Loglikelihood, NextWord, Request, Row, Source
from harness.data.parsers import join_lines, json_lines, text_lines
from harness.errors import DataError, UsageError
from harness.metrics import ACCURACY, perplexity
from harness.metrics.extract import (
    all_greedy,
    last_greedy,
    last_token_nats,
    same_word,
    strip_punctuation,
    target_nats,
    token_nats,
)
from harness.prompt import Prompt
from harness.task import Measure, Option, Options, Task, per_row
from harness.text import DETOKENISERS

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
    """The file that `data` names."""
    return OPENAI if options["data"] == "openai" else ORIGINAL


def read_row(row: Row, options: Options) -> Example:
    """Context and target; the target keeps the white space in front of it."""
    text = row.fields["text"]
    if options["data"] == "original":
        text = DETOKENISERS["lambada"].checked(text)[0]
    if options["quotes"] == "on":
        text = DETOKENISERS["lambada-quotes"].detokenise(text)
    text = text.strip()
    # No pattern: `\s+\S+$` tries every stretch of white space from each of its characters.
    before, space, _ = text.rpartition(" ")
    if options["boundary"] == "whitespace":
        words = text.rsplit(maxsplit=1)
        before, space = (words[0], " ") if len(words) == 2 else ("", "")
    if not space:
        raise DataError(f"row {row.number}: expected a passage of several words, got {text[:40]!r}")
    context, target = before, text[len(before) :]
    return Example(str(row.number), {"context": context, "target": target}, (target.strip(),))


def prompt(options: Options) -> Prompt:
    """The passage, with or without a newline in front."""
    return Prompt.load("lambada.txt" if options["newline"] == "on" else "lambada-plain.txt")


@cache
def stop_words(name: str) -> frozenset[str]:
    """A stop list of this package: `nltk127`, `nltk179` or `none`."""
    if name == "none":
        return frozenset()
    lines = (files("harness.tasks") / f"stopwords-{name}.txt").read_text("utf-8").split("\n")
    return frozenset(line for line in lines if line and not line.startswith("#"))


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """The target's probability and, for the filter, the best word that is no stop word."""
    context = prompt.render(context=example.fields["context"])
    asked: list[Request] = [Loglikelihood(context, example.fields["target"])]
    if options["filter"] != "off":
        inside = options["candidates"] == "in-context"
        among = frozenset(strip_punctuation(word) for word in context.split()) if inside else None
        skip = stop_words(options["stoplist"])
        asked.append(NextWord(context, skip, among, options["filter"]))  # type: ignore[arg-type]
    return asked


def measures(options: Options) -> tuple[Measure, ...]:
    """Three perplexities and the accuracies; `acc` chooses the one for Table 3."""
    if options["acc"] == "word-stopfilter" and options["filter"] == "off":
        raise UsageError("acc=word-stopfilter needs a filter; set filter=word or another acc")

    def accuracy(name: str) -> str | None:
        return "LAMBADA ACC" if options["acc"] == name else None

    same = same_word(ignore_case=options["case"] == "lower")
    found = [
        Measure(
            "ppl",
            perplexity("word"),
            target_nats,
            ("nats", "words"),
            "exp of the mean surprisal of the whole last word",
            column="LAMBADA PPL",
        ),
        Measure(
            "ppl-last-token",
            perplexity("last token"),
            last_token_nats,
            ("last_token_nats", "words"),
            "the same for the last token of the word only",
        ),
        Measure(
            "ppl-per-token",
            perplexity("token"),
            token_nats,
            ("nats", "tokens"),
            "exp of the mean surprisal of a token of the last words",
        ),
        Measure(
            "acc-word-greedy",
            ACCURACY,
            all_greedy,
            ("acc-word-greedy", "words"),
            "every token of the last word is the model's first choice",
            column=accuracy("word-greedy"),
        ),
        Measure(
            "acc-last-token",
            ACCURACY,
            last_greedy,
            ("acc-last-token", "words"),
            "the last token of the word is the model's first choice",
            column=accuracy("last-token"),
        ),
    ]
    if options["filter"] != "off":
        found.append(
            Measure(
                "acc-word-stopfilter",
                ACCURACY,
                same,
                ("acc-word-stopfilter", "words"),
                "the model's best whole word that is no stop word is the last word",
                column=accuracy("word-stopfilter"),
            )
        )
    return tuple(found)


_PLAIN: Options = {"quotes": "off", "newline": "off", "filter": "off"}

TASK = Task(
    name="lambada",
    version=2,
    title="LAMBADA: the last word of a passage",
    description=(
        "The model reads a passage without its last word. Perplexity is per word; accuracy has "
        "three readings that the paper does not tell apart clearly: the whole word, its last "
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
        Option("quotes", "on", ("on", "off"), "curly double quotes become straight ones"),
        Option("newline", "on", ("on", "off"), "a line break in front of the passage"),
        Option("boundary", "whitespace", ("whitespace", "space"), "the target follows the last "
               "white space, or the last space (they differ in 7 items)"),
        Option("bos", "auto", ("auto", "eot", "tokenizer", "none"), "start token before the "
               "passage: the tokenizer's own, <|endoftext|>, what it adds by itself, or none"),
        Option("acc", "word-stopfilter", ("word-stopfilter", "word-greedy", "last-token"),
               "which accuracy stands in Table 3"),
        Option("filter", "word", ("word", "first-token", "every-token", "off"), "what the stop "
               "list is held against; off asks no filtered word at all"),
        Option("stoplist", "nltk127", ("nltk127", "nltk179", "none"), "the stop list"),
        Option("case", "exact", ("exact", "lower"), "how the filtered word is compared"),
        Option("candidates", "all", ("all", "in-context"), "filtered words may be any, or must "
               "occur in the passage"),
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
