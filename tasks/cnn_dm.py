"""CNN/DailyMail: summaries after `TL;DR:`. See et al. 2017, arXiv:1704.04368.

Radford et al. 2019, section 3.6 and Table 4: 100 tokens by top-k sampling with k = 2, the first
three sentences of which are the summary; without the hint the average falls by 6.4 points. What
stands before the hint, what is cut of long articles and which splitter was used is not said.
Two systems without a model stand beside: the first three sentences, and three at random.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from harness.core import Example, Fields, Generate, Hub, Request, Response, Row, Source
from harness.data.parsers import decode
from harness.errors import DataError
from harness.metrics import Outcome, mean_over_runs, std_over_runs
from harness.metrics.extract import generated
from harness.metrics.rouge import (
    ROUGE,
    SPLITTER,
    lead_sentences,
    random_sentences,
    rouge,
    sentences,
)
from harness.prompt import Prompt
from harness.task import Measure, Option, Options, Task, per_row

COLUMNS = ("article", "highlights", "id")
SCORES = (*ROUGE, "rouge-avg")
Summarise = Callable[[Example, Sequence[Response]], list[list[str]]]
"""An example and the model's responses -> sentences of one summary or more."""
_PROMPTS = {"newline": "cnn-dm.txt", "space": "cnn-dm-space.txt", "none": "cnn-dm-no-hint.txt"}


def parse(data: bytes) -> list[Fields]:
    """Rows of a CSV file with the columns article, highlights (a line a sentence) and id.

    Raises:
        DataError: the columns are others, or an article or its highlights are empty; names it.
    """
    reader = csv.DictReader(io.StringIO(decode(data), newline=""), strict=True)
    rows: list[Fields] = []
    limit = csv.field_size_limit(len(data) + 1)  # an article may be of any length
    try:
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            found = ", ".join(reader.fieldnames or ())[:60]
            raise DataError(f"line 1: expected the columns {', '.join(COLUMNS)}, got {found!r}")
        for row in reader:
            rows.append(_row(len(rows) + 1, row))
    except csv.Error as error:
        raise DataError(f"row {len(rows) + 1}: {error}") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _row(number: int, row: Mapping[str | None, Any]) -> Fields:
    if None in row or None in row.values():  # what DictReader makes of too many cells, or too few
        raise DataError(f"row {number}: expected as many cells as columns")
    for name in ("article", "highlights"):
        if not row[name].strip():
            raise DataError(f"row {number}: expected text in the column {name}, got none")
    return {name: row[name] for name in COLUMNS}


def restore(rows: Iterable[Fields]) -> bytes:
    """Rows of the hub -> the CSV file."""
    text = io.StringIO(newline="")
    # Every field in quotes: by itself the writer leaves a lone carriage return without them.
    writer = csv.DictWriter(
        text, COLUMNS, extrasaction="ignore", lineterminator="\n", quoting=csv.QUOTE_ALL
    )
    writer.writeheader()
    writer.writerows(dict(row) for row in rows)
    return text.getvalue().encode()


SOURCE = Source(
    title="CNN/DailyMail test set, version 3.0.0, as CSV",
    files=("cnn_dailymail/test.csv", "cnn_dailymail/test.*.csv", "cnn_dailymail*.csv"),
    parse=parse,
    sample="samples/cnn_dailymail.sample.csv",
    origin="https://huggingface.co/datasets/abisee/cnn_dailymail",
    rows=11_490,
    hub=Hub(
        "abisee/cnn_dailymail",
        "3.0.0/test-00000-of-00001.parquet",
        "96df5e686bee6baa90b8bee7c28b81fa3fa6223d",
        restore=restore,
    ),
)


def read_row(row: Row, options: Options) -> Example:
    """An article and its highlights."""
    del options
    article = row.fields["article"].strip()
    return Example(str(row.number), {"article": article}, (row.fields["highlights"].strip(),))


def prompt(options: Options) -> Prompt:
    """The article and the hint."""
    return Prompt.load(_PROMPTS[options["hint"]])


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """A request a seed; the article is a part of its own, so that the hint survives a cut."""
    article = example.fields["article"]
    hint = prompt.render(article=article)[len(article) :]
    return [
        Generate(
            (article, hint),
            int(options["max_new"]),
            top_k=int(options["k"]),
            seed=(seed,),
            overflow="right" if options["keep"] == "head" else "left",
        )
        for seed in range(_seeds(options))
    ]


def _seeds(options: Options) -> int:
    """Greedy answers are the same for every seed."""
    return 1 if options["k"] == "1" else int(options["seeds"])


def measures(options: Options) -> tuple[Measure, ...]:
    """ROUGE-1, -2, -L and their average: the model's, its spread over seeds, two baselines."""
    count, stem = int(options["sentences"]), options["stem"] == "on"

    def written(example: Example, responses: Sequence[Response]) -> list[list[str]]:
        del example
        return [sentences(generated(response).text)[:count] for response in responses]

    def first(example: Example, responses: Sequence[Response]) -> list[list[str]]:
        del responses
        return [lead_sentences(example.fields["article"], count)]

    def chance(example: Example, responses: Sequence[Response]) -> list[list[str]]:
        del responses
        return [random_sentences(example.fields["article"], count, seed=example.id)]

    found = [*_rouge_measures(written, None, _seeds(options), stem)]
    if _seeds(options) > 1:
        found.append(_spread(found[-1], _seeds(options)))
    found += _rouge_measures(first, f"lede-{count}", 1, stem)
    found += _rouge_measures(chance, f"random-{count}", 1, stem)
    return tuple(found)


def _rouge_measures(
    summarise: Summarise, system: str | None, runs: int, stem: bool
) -> Iterator[Measure]:
    """The four scores of a system: the model, or one without a model."""
    lead = f"{system} " if system else ""
    for place, name in enumerate(SCORES):
        yield Measure(
            lead + name,
            mean_over_runs(runs),
            _extract(summarise, place, stem),
            (*(f"{lead}{name} {run}" for run in range(runs)), "articles"),
            "mean of the three" if name == SCORES[-1] else f"F1 of {name.upper()}",
            column=None if system else f"CNN/DM {name.removeprefix('rouge-').upper()}",
            baseline=system,
        )


def _spread(average: Measure, runs: int) -> Measure:
    return Measure(
        f"{average.name} over seeds",
        std_over_runs(runs),
        average.extract,
        average.statistics,
        "standard deviation of the average over the seeds",
    )


def _extract(
    summarise: Summarise, place: int, stem: bool
) -> Callable[[Example, Sequence[Response]], list[Outcome]]:
    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        [reference] = example.references
        found = [
            _values(tuple(summary), reference, stem)[place]
            for summary in summarise(example, responses)
        ]
        return [(*found, 1.0)]

    return extract


@lru_cache(maxsize=64)  # the four scores of a summary are asked for one after the other
def _values(summary: tuple[str, ...], reference: str, stem: bool) -> tuple[float, ...]:
    """ROUGE-1, -2, -L and their mean."""
    found = rouge(summary, reference, stem=stem)
    return (*found, sum(found) / len(found))


def notes(examples: Sequence[Example], options: Options) -> dict[str, float | str]:
    """Which tools are behind the numbers."""
    del examples
    stem = "Porter stemmer" if options["stem"] == "on" else "no stemmer"
    return {"sentence splitter": SPLITTER, "ROUGE": f"rouge-score, rougeLsum for L, {stem}"}


TASK = Task(
    name="cnn-dm",
    version=1,
    title="CNN/DailyMail: summaries after TL;DR:",
    description=(
        "The model reads a news article and a hint, and writes 100 tokens by top-k sampling; the "
        "first three sentences are the summary. ROUGE beside two systems without a model, the "
        "first three sentences and three at random, and the spread over seeds."
    ),
    source=lambda options: SOURCE,
    read=per_row(read_row),
    prompt=prompt,
    ask=ask,
    measures=measures,
    notes=notes,
    options=(
        Option("hint", "newline", ("newline", "space", "none"), "what follows the article: TL;DR: "
               "on a line of its own, after a space, or a line break and no hint"),
        Option("k", "2", ("<n>",), "tokens that sampling chooses among; 1 is greedy"),
        Option("seeds", "3", ("<n>",), "summaries of each article; scores are means over them"),
        Option("max_new", "100", ("<n>",), "new tokens at most"),
        Option("sentences", "3", ("<n>",), "sentences of a summary"),
        Option("keep", "head", ("head", "tail"), "the end of an article that stays where it is too "
               "long for the context"),
        Option("stem", "off", ("off", "on"), "whether ROUGE compares stems"),
        Option("bos", "auto", ("auto", "eot", "tokenizer", "none"), "start token in front"),
    ),
    protocols={"paper": {}, "no-hint": {"hint": "none"}},
)  # fmt: skip
