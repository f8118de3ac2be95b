"""Children's Book Test: which of ten words was left out. Hill et al. 2015, arXiv:1511.02301.

Radford et al. 2019, section 3.2 and Table 3: the probability of each choice *and the rest of the
sentence given the choice*; validation split, since a test book is in WebText. Words before the
gap are the same for all choices and cancel out, so only the text from the gap on is scored.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from harness.core import Example, Fields, Hub, Loglikelihood, Request, Row, Source
from harness.data.parsers import join_lines, lines
from harness.errors import DataError
from harness.metrics import ACCURACY
from harness.metrics.extract import best_choice
from harness.prompt import Prompt
from harness.task import Measure, Option, Options, Task, per_row
from harness.text import DETOKENISERS, common_prefix_length

GAP = "XXXXX"
_NUMBERED = re.compile(r"(\d+) (.*)")


def parse(data: bytes) -> list[Fields]:
    """Questions of 20 numbered sentences and a 21st line: query, answer, options.

    Raises:
        DataError: a line is neither; names it.
    """
    rows: list[Fields] = []
    sentences: list[str] = []
    for number, line in enumerate(lines(data), 1):
        if not line.strip():
            continue
        found = _NUMBERED.fullmatch(line)
        if found is None or found[1] != str(len(sentences) + 1):
            raise DataError(
                f"line {number}: expected a sentence numbered {len(sentences) + 1}, "
                f"got {line[:60]!r}"
            )
        if len(sentences) < 20:
            sentences.append(found[2])
            continue
        rows.append({"sentences": tuple(sentences), **_question(found[2], number)})
        sentences = []
    if sentences:
        raise DataError(f"the last question has only {len(sentences)} of 21 lines")
    return rows


def _question(line: str, number: int) -> Fields:
    parts = [part for part in line.split("\t") if part]
    choices = tuple(parts[2].split("|")) if len(parts) == 3 else ()
    if len(choices) != 10 or GAP not in parts[0] or parts[1] not in choices:
        raise DataError(
            f"line {number}: expected a query with {GAP}, the answer and ten options with the "
            f"answer among them, separated by tabs, got {line[:80]!r}"
        )
    return {"query": parts[0], "answer": parts[1], "choices": choices}


def restore(rows: Iterable[Fields]) -> bytes:
    """Rows of the hub -> the original file's form."""

    def numbered() -> Iterator[str]:
        for row in rows:
            for number, sentence in enumerate(row["sentences"], 1):
                yield f"{number} {sentence}"
            yield f"21 {row['question']}\t{row['answer']}\t\t{'|'.join(row['options'])}"
            yield ""

    return join_lines(numbered())


def texts(row: Row, choices: Sequence[str], prompt: Prompt, options: Options) -> list[str]:
    """The passage and query with each of `choices` put in, detokenised after that."""
    join = "\n" if options["join"] == "newline" else " "
    fields = {"passage": join.join(row.fields["sentences"])} if "passage" in prompt.slots else {}
    detokenise = DETOKENISERS["cbt" if options["detok"] == "on" else "none"].detokenise
    found = []
    for choice in choices:
        whole = prompt.render(query=row.fields["query"].replace(GAP, choice), **fields)
        found.append("\n".join(detokenise(line) for line in whole.split("\n")))
    return found


def prompt(options: Options) -> Prompt:
    """How passage and query are put together."""
    if options["context"] == "query-only":
        return Prompt.load("cbt-query-only.txt")
    if options["prompt"] == "lm-eval":
        return Prompt.load("cbt-lm-eval.txt")
    return Prompt.load("cbt-newline.txt" if options["join"] == "newline" else "cbt.txt")


def read_row(row: Row, options: Options) -> Example:
    """Context, and for each choice the part that is scored."""
    *whole, gapped = texts(row, [*row.fields["choices"], GAP], prompt(options), options)
    start = _gap_start(whole)
    # The gap itself is among the texts, so that a last letter of all choices is not their tail.
    tail = common_prefix_length([text[::-1] for text in [*whole, gapped]])
    ends = {"joint": 0, "choice-only": tail, "rest-only": 0}[options["score"]]
    begins = [len(t) - tail if options["score"] == "rest-only" else start for t in whole]
    return Example(
        str(row.number),
        {
            "choices": row.fields["choices"],
            "contexts": tuple(t[:b] for t, b in zip(whole, begins, strict=True)),
            "continuations": tuple(
                t[b : len(t) - ends] for t, b in zip(whole, begins, strict=True)
            ),
        },
        (row.fields["answer"],),
    )


def _gap_start(whole: Sequence[str]) -> int:
    """Where the word with the gap begins, its space included: before it all texts are equal."""
    common = common_prefix_length(whole)
    return max(whole[0].rfind(" ", 0, common), whole[0].rfind("\n", 0, common), 0)


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """One request a choice; they share the passage, which is computed once."""
    del prompt, options
    pairs = zip(example.fields["contexts"], example.fields["continuations"], strict=True)
    return [Loglikelihood(context, continuation) for context, continuation in pairs]


def norms(norm: str, example: Example) -> list[float]:
    """Divisors of the log-probabilities; 0 stands for the number of tokens."""
    continuations = example.fields["continuations"]
    if norm == "tokens":
        return [0.0] * len(continuations)
    return [len(c.encode()) if norm == "bytes" else 1.0 for c in continuations]


def measures(column: str, options: Options) -> tuple[Measure, ...]:
    """Accuracy."""
    return (
        Measure(
            "acc",
            ACCURACY,
            best_choice(lambda example: norms(options["norm"], example)),
            ("acc", "questions"),
            "the most probable of ten choices is the right one; chance is 10 %",
            column=column,
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
            "Each choice is put into the gap and the text from the gap on is scored after 20 "
            "sentences of context; the most probable choice wins. The paper reports the "
            "validation split."
        ),
        source=source,
        read=per_row(read_row),
        prompt=prompt,
        ask=ask,
        measures=lambda options: measures(f"CBT-{kind} ACC", options),
        options=(
            Option("split", "valid", ("valid", "test"), "which published split"),
            Option("score", "joint", ("joint", "rest-only", "choice-only"), "the choice and the "
                   "rest of the sentence, the rest given the choice, or the choice alone"),
            Option("norm", "none", ("none", "tokens", "bytes"), "what a log-probability is "
                   "divided by: nothing, or the length of the scored text"),
            Option("context", "20", ("20", "query-only"), "20 sentences of context, or none"),
            Option("join", "space", ("space", "newline"), "what stands between sentences"),
            Option("detok", "on", ("on", "off"), "undo the treebank tokenisation"),
            Option("prompt", "plain", ("plain", "lm-eval"), "running text, or `Passage: ... "
                   "Question: ...` as in lm-eval 0.2"),
            Option("bos", "auto", ("auto", "eot", "tokenizer", "none"), "start token"),
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
