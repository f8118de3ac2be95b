"""CNN/DailyMail: summaries after `TL;DR:`. See et al. 2017, arXiv:1704.04368.

Radford et al. 2019, section 3.6 and Table 4: 100 tokens by top-k sampling with k = 2, of which the
first three sentences are the summary; without the hint the average falls by 6.4 points. The paper
does not say what precedes the hint, which part of a long article is cut or how sentences are split.
Two model-free systems are scored too: the first three sentences, and three random ones.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from harness.task import Measure, Option, Options, Step, Task, per_row

from .shared.options import BOS

COLUMNS = ("article", "highlights", "id")
SCORES = (*ROUGE, "rouge-avg")
Summarise = Callable[[Example, Sequence[Response]], list[list[str]]]
"""An example and the model's responses -> the sentences of one or more summaries."""
PROMPTS = {"newline": "cnn-dm.txt", "space": "cnn-dm-space.txt", "none": "cnn-dm-no-hint.txt"}


def parse(data: bytes) -> list[Fields]:
    r"""Read a CSV file with the columns article, highlights (one sentence per line) and id.

    A row, shortened:

        article     "(INW)A retired postman has handed back a library book that was 61 years ..."
        highlights  "Arnold Vickery returned a library book 61 years late .\nThe library in ..."
        id          "4a62ee794ec771def085849f8a5cd0ae36f6498e"

    Raises:
        DataError: a column is missing, or an article or its highlights are empty.
    """
    reader = csv.DictReader(io.StringIO(decode(data), newline=""), strict=True)
    rows: list[Fields] = []
    limit = csv.field_size_limit(len(data) + 1)  # articles have any length
    try:
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            columns = ", ".join(reader.fieldnames or ())[:60]
            raise DataError(f"line 1: expected the columns {', '.join(COLUMNS)}, got {columns!r}")
        for row in reader:
            rows.append(_row(len(rows) + 1, row))
    except csv.Error as error:
        raise DataError(f"row {len(rows) + 1}: {error}") from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _row(number: int, row: Mapping[str | None, Any]) -> Fields:
    if None in row or None in row.values():  # DictReader for too many cells, or too few
        raise DataError(f"row {number}: expected as many cells as columns")
    for name in ("article", "highlights"):
        if not row[name].strip():
            raise DataError(f"row {number}: expected text in the column {name}, got none")
    return {name: row[name] for name in COLUMNS}


def restore(rows: Iterable[Fields]) -> bytes:
    """Rows of the hub -> the CSV file."""
    text = io.StringIO(newline="")
    # Quote every field, because the writer would leave a lone carriage return unquoted.
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
    article = row.fields["article"].strip()
    return Example(str(row.number), {"article": article}, (row.fields["highlights"].strip(),))


def prompt(options: Options) -> Prompt:
    """The article and the hint."""
    return Prompt.load(PROMPTS[options["hint"]])


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """One request per seed; the prompt is split after the article, which alone may be cut."""
    return [
        Generate(
            prompt.render_parts(article=example.fields["article"]),
            int(options["max_new"]),
            top_k=int(options["k"]),
            seed=(seed,),
            overflow="right" if options["keep"] == "head" else "left",
        )
        for seed in range(_seeds(options))
    ]


def _seeds(options: Options) -> int:
    """The number of samples; greedy decoding needs only one."""
    return 1 if options["k"] == "1" else int(options["seeds"])


def measures(options: Options) -> tuple[Measure, ...]:
    """ROUGE-1, -2, -L and their average for the model and two baselines, and the spread."""
    count = int(options["sentences"])

    def written(example: Example, responses: Sequence[Response]) -> list[list[str]]:
        return [sentences(generated(response).text)[:count] for response in responses]

    def lead(example: Example, responses: Sequence[Response]) -> list[list[str]]:
        return [lead_sentences(example.fields["article"], count)]

    def random(example: Example, responses: Sequence[Response]) -> list[list[str]]:
        return [random_sentences(example.fields["article"], count, seed=example.id)]

    stem, runs = options["stem"] == "on", _seeds(options)
    of_model = [_measure(score, written, stem, runs) for score in SCORES]
    if runs > 1:
        average = of_model[-1]
        spread = replace(
            average,
            name=f"{average.name} over seeds",
            metric=std_over_runs(runs),
            help="standard deviation of the average over the seeds",
            column=None,
            steps=None,
        )
        of_model.append(spread)
    of_lead = [_measure(score, lead, stem, baseline=f"lede-{count}") for score in SCORES]
    of_random = [_measure(score, random, stem, baseline=f"random-{count}") for score in SCORES]
    return (*of_model, *of_lead, *of_random)


def _measure(
    score: str, summarise: Summarise, stem: bool, runs: int = 1, baseline: str | None = None
) -> Measure:
    """One of `SCORES` for the model or for a baseline."""
    place = SCORES.index(score)
    name = f"{baseline} {score}" if baseline else score

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        [reference] = example.references
        summaries = summarise(example, responses)
        return [(*(_rouge(tuple(s), reference, stem)[place] for s in summaries), 1.0)]

    def steps(example: Example, responses: Sequence[Response]) -> Iterator[Step]:
        [reference] = example.references
        for number, summary in enumerate(summarise(example, responses), 1):
            yield f"summary {number}: sentences", summary
            values = _rouge(tuple(summary), reference, stem)
            yield from ((f"summary {number}: {k}", v) for k, v in zip(SCORES, values, strict=True))

    return Measure(
        name,
        mean_over_runs(runs),
        extract,
        (*(f"{name} {run}" for run in range(runs)), "articles"),
        "mean of the three" if score == SCORES[-1] else f"F1 of {score.upper()}",
        column=None if baseline else f"CNN/DM {score.removeprefix('rouge-').upper()}",
        baseline=baseline,
        steps=steps,
    )


@lru_cache(maxsize=64)  # the four scores of a summary are needed one after the other
def _rouge(summary: tuple[str, ...], reference: str, stem: bool) -> tuple[float, ...]:
    """ROUGE-1, -2, -L and their mean."""
    scores = rouge(summary, reference, stem=stem)
    return (*scores, sum(scores) / len(scores))


def notes(examples: Sequence[Example], options: Options) -> dict[str, float | str]:
    """The tools behind the numbers."""
    stem = "Porter stemmer" if options["stem"] == "on" else "no stemmer"
    return {"sentence splitter": SPLITTER, "ROUGE": f"rouge-score, rougeLsum for L, {stem}"}


TASK = Task(
    name="cnn-dm",
    version=1,
    title="CNN/DailyMail: summaries after TL;DR:",
    description=(
        "The model reads a news article and a hint and writes 100 tokens by top-k sampling; the "
        "first three sentences are the summary. Reports ROUGE, its spread over seeds, and two "
        "model-free baselines: the first three sentences and three random ones."
    ),
    source=lambda options: SOURCE,
    read=per_row(read_row),
    prompt=prompt,
    ask=ask,
    measures=measures,
    notes=notes,
    options=(
        Option("hint", "newline", ("newline", "space", "none"), "what follows the article: TL;DR: "
               "on a line of its own, TL;DR: after a space, or a line break only"),
        Option("k", "2", ("<n>",), "number of tokens that sampling chooses from; 1 is greedy"),
        Option("seeds", "3", ("<n>",), "summaries per article; scores are means over them"),
        Option("max_new", "100", ("<n>",), "maximum number of new tokens"),
        Option("sentences", "3", ("<n>",), "sentences of a summary"),
        Option("keep", "head", ("head", "tail"), "the end of the article that is kept if it is too "
               "long for the context"),
        Option("stem", "off", ("off", "on"), "whether ROUGE compares stems"),
        BOS,
    ),
    protocols={"paper": {}, "no-hint": {"hint": "none"}},
)  # fmt: skip
