"""Children's Book Test: which of ten words was left out. Hill et al. 2015, arXiv:1511.02301.

Radford et al. 2019, section 3.2 and Table 3: the probability of each choice *and the rest of the
sentence given the choice*, on the validation split, because a test book is in WebText. The words
before the gap are the same for all choices, so only the text from the gap on is scored.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence

from harness.core import Example, Fields, Hub, Loglikelihood, Request, Row, Source
from harness.data.parsers import join_lines, lines
from harness.errors import DataError
from harness.metrics import ACCURACY, mean
from harness.metrics.extract import (
    best_choice,
    best_choice_steps,
    choice_margin,
    choice_margin_steps,
    right_choice_nats,
    right_choice_nats_steps,
)
from harness.prompt import Prompt
from harness.task import Measure, Option, Options, Task, per_row
from harness.text import DETOKENISERS, common_prefix_length

from .shared.options import BOS

GAP = "XXXXX"
_NUMBERED = re.compile(r"(\d+) (.*)")


def parse(data: bytes) -> list[Fields]:
    r"""Read questions: 20 numbered sentences, then a line of query, answer and ten choices.

        1 Once upon a time there lived in Stonebridge a miller named Bromley , who had ...
        ...
        20 Before the clock struck nine she was knocking at the door of the bakery , ...
        21 `` ... '' cried the baker , and he bought the whole XXXXX .\tsack\t\tcart|donkey|...

    Raises:
        DataError: a line is neither.
    """
    rows: list[Fields] = []
    sentences: list[str] = []
    for number, line in enumerate(lines(data), 1):
        if not line.strip():
            continue
        match = _NUMBERED.fullmatch(line)
        if match is None or match[1] != str(len(sentences) + 1):
            raise DataError(
                f"line {number}: expected a sentence numbered {len(sentences) + 1}, "
                f"got {line[:60]!r}"
            )
        if len(sentences) < 20:
            sentences.append(match[2])
            continue
        rows.append({"sentences": tuple(sentences), **_question(match[2], number)})
        sentences = []
    if sentences:
        raise DataError(f"the last question has only {len(sentences)} of 21 lines")
    return rows


def _question(line: str, number: int) -> Fields:
    parts = [part for part in line.split("\t") if part]
    choices = tuple(parts[2].split("|")) if len(parts) == 3 else ()
    well_formed = len(choices) == 10 and GAP in parts[0] and parts[1] in choices
    if not well_formed or len(set(choices)) == 1:
        raise DataError(
            f"line {number}: expected a query with {GAP}, the answer and ten options with the "
            f"answer and others among them, separated by tabs, got {line[:80]!r}"
        )
    return {"query": parts[0], "answer": parts[1], "choices": choices}


def restore(rows: Iterable[Fields]) -> bytes:
    """Rows of the hub -> the original format."""

    def numbered() -> Iterator[str]:
        for row in rows:
            for number, sentence in enumerate(row["sentences"], 1):
                yield f"{number} {sentence}"
            yield f"21 {row['question']}\t{row['answer']}\t\t{'|'.join(row['options'])}"
            yield ""

    return join_lines(numbered())


def texts(row: Row, choices: Sequence[str], prompt: Prompt, options: Options) -> list[str]:
    """The detokenised prompt with each of `choices` in the gap."""
    join = "\n" if options["join"] == "newline" else " "
    fields = {"passage": join.join(row.fields["sentences"])} if "passage" in prompt.slots else {}
    detokenise = DETOKENISERS["cbt" if options["detok"] == "on" else "none"].detokenise
    queries = (row.fields["query"].replace(GAP, choice) for choice in choices)
    rendered = (prompt.render(query=query, **fields) for query in queries)
    return ["\n".join(detokenise(line) for line in text.split("\n")) for text in rendered]


def prompt(options: Options) -> Prompt:
    """The passage and the query."""
    if options["context"] == "query-only":
        return Prompt.load("cbt-query-only.txt")
    if options["prompt"] == "lm-eval":
        return Prompt.load("cbt-lm-eval.txt")
    return Prompt.load("cbt-newline.txt" if options["join"] == "newline" else "cbt.txt")


def read_row(row: Row, options: Options) -> Example:
    """For each choice the scored text and the context before it."""
    *with_choice, with_gap = texts(row, [*row.fields["choices"], GAP], prompt(options), options)
    start = _gap_start(with_choice)
    # With the gap among the texts, a last letter of all choices does not count as common.
    tail = common_prefix_length([text[::-1] for text in [*with_choice, with_gap]])
    end = tail if options["score"] == "choice-only" else 0
    starts = [len(t) - tail if options["score"] == "rest-only" else start for t in with_choice]
    pairs = list(zip(with_choice, starts, strict=True))
    return Example(
        str(row.number),
        {
            "choices": row.fields["choices"],
            "contexts": tuple(text[:begin] for text, begin in pairs),
            "continuations": tuple(text[begin : len(text) - end] for text, begin in pairs),
        },
        (row.fields["answer"],),
    )


def _gap_start(with_choice: Sequence[str]) -> int:
    """Where the word with the gap begins, including the space before it."""
    first, common = with_choice[0], common_prefix_length(with_choice)
    return max(first.rfind(" ", 0, common), first.rfind("\n", 0, common), 0)


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """One request per choice; their common context is computed once."""
    pairs = zip(example.fields["contexts"], example.fields["continuations"], strict=True)
    return [Loglikelihood(context, continuation) for context, continuation in pairs]


def norms(norm: str, example: Example) -> list[float]:
    """A divisor for each log-probability; 0 stands for the number of tokens."""
    continuations = example.fields["continuations"]
    if norm == "tokens":
        return [0.0] * len(continuations)
    return [len(c.encode()) if norm == "bytes" else 1.0 for c in continuations]


def measures(column: str, options: Options) -> tuple[Measure, ...]:
    """Accuracy, and how probable the right choice is, alone and against the best wrong one."""
    divisors = functools.partial(norms, options["norm"])
    per_length = {"none": "", "tokens": " per token", "bytes": " per byte"}[options["norm"]]
    return (
        Measure(
            "acc",
            ACCURACY,
            best_choice(divisors),
            ("acc", "questions"),
            "the most probable of ten choices is the right one; chance is 10 %",
            column=column,
            steps=best_choice_steps(divisors),
        ),
        Measure(
            "nats",
            mean("nats", higher_is_better=False),
            right_choice_nats,
            ("nats", "questions"),
            "mean surprisal of what is scored with the right choice",
            steps=right_choice_nats_steps,
        ),
        Measure(
            "margin",
            mean(f"nats{per_length}", higher_is_better=True),
            choice_margin(divisors),
            ("margin", "questions"),
            "mean log-probability of the right choice minus that of the best wrong one",
            steps=choice_margin_steps(divisors),
        ),
    )


def _task(kind: str, words: str) -> Task:
    def source(options: Options) -> Source:
        split, size = ("valid", 2000) if options["split"] == "valid" else ("test", 2500)
        hub_split = "validation" if split == "valid" else "test"
        return Source(
            title=f"Children's Book Test, {words}, {hub_split} split",
            files=(f"cbtest_{kind}_{split}_{size}ex.txt", f"cbtest_{kind}_{split}*.txt"),
            parse=parse,
            sample=f"samples/cbtest_{kind}_valid.txt",
            origin="http://www.thespermwhale.com/jaseweston/babi/CBTest.tgz",
            rows=size,
            hub=Hub(
                "cam-cst/cbt",
                f"{kind}/{hub_split}-00000-of-00001.parquet",
                "72b5c46b1248e3316360f0f2f0b2c39e773b68e4",
                restore,
            ),
        )

    name = f"cbt-{kind.lower()}"
    return Task(
        name=name,
        version=1,
        title=f"Children's Book Test, {words}: which of ten words was left out",
        description=(
            "Each choice is put into the gap, and the text from the gap on is scored after 20 "
            "sentences of context; the most probable choice wins. The paper reports the "
            "validation split."
        ),
        source=source,
        read=per_row(read_row),
        prompt=prompt,
        ask=ask,
        measures=lambda options: measures(f"CBT-{kind} ACC", options),
        options=(
            Option("split", "valid", ("valid", "test"), "the published split"),
            Option("score", "joint", ("joint", "rest-only", "choice-only"), "what is scored: the "
                   "choice and the rest of the sentence, the rest given the choice, or the choice"),
            Option("norm", "none", ("none", "tokens", "bytes"), "what a log-probability is "
                   "divided by: nothing, or the length of the scored text"),
            Option("context", "20", ("20", "query-only"), "20 sentences of context, or none"),
            Option("join", "space", ("space", "newline"), "what separates sentences"),
            Option("detok", "on", ("on", "off"), "undo the treebank tokenisation"),
            Option("prompt", "plain", ("plain", "lm-eval"), "running text, or `Passage: ... "
                   "Question: ...` as in lm-eval 0.2"),
            BOS,
        ),
        protocols={
            "paper": {},
            "lm-eval": {"prompt": "lm-eval", "split": "test", "bos": "tokenizer"},
            "test": {"split": "test"},
            "rest-only": {"score": "rest-only"},
        },
    )  # fmt: skip


CBT_CN = _task("CN", "common nouns")
CBT_NE = _task("NE", "named entities")
