"""One Billion Word Benchmark: perplexity of shuffled news sentences. Chelba et al. 2013, 1312.3005.

Radford et al. 2019, section 3.1 and Table 3: the only data set on which GPT-2 is behind the state
of the art, which the paper attributes to its size and to the shuffled sentences. The paper does not
say whether sentences were scored as one text; here they are, with a newline as the end symbol.

A row: `The city council voted 7 to 2 on Tuesday to close the old swimming baths , which ...`
"""

from collections.abc import Iterable, Sequence

from harness.core import Example, Hub, Row, Source
from harness.data.parsers import join_lines, text_lines
from harness.task import Option, Options, Task

from .shared import running_text
from .shared.options import BOS, STRIDE, WINDOWS

SOURCE = Source(
    title="One Billion Word Benchmark, first held-out shard",
    files=("news.en.heldout-00000-of-00050", "news.en.heldout-*", "1b_benchmark.test.tokens"),
    parse=text_lines,
    sample="samples/1b.test.tokens",
    origin=(
        "http://download.tensorflow.org/models/LM_LSTM_CNN/test/news.en.heldout-00000-of-00050"
    ),
    rows=6075,
    hub=Hub(
        # All 50 held-out shards; they do not say which rows belong to shard 0.
        "billion-word-benchmark/lm1b",
        "plain_text/test/0000.parquet",
        "8d52bfd3cc2819fc1166dbb8144c328e2690de3e",
        restore=lambda rows: join_lines(row["text"] for row in rows),
    ),
)


def read(rows: Sequence[Row], options: Options) -> Iterable[Example]:
    """One text per file, or one per sentence."""
    detok = "1bw" if options["detok"] == "on" else "none"
    texts = [[row] for row in rows] if options["stream"] == "sentence" else [list(rows)]
    return [running_text.example(text, options, detok=detok) for text in texts]


TASK = Task(
    name="lm1b",
    version=2,
    title="One Billion Word: perplexity of shuffled news sentences, per original word",
    description=(
        "Sentences in file order are scored as one text in disjoint windows, each with a newline; "
        "nats are divided by the number of words and sentence ends."
    ),
    source=lambda options: SOURCE,
    read=read,
    ask=running_text.ask,
    measures=running_text.measures("1BW PPL"),
    notes=running_text.notes,
    stream=True,
    options=(
        Option("detok", "on", ("on", "off"), "undo the tokenisation of punctuation"),
        running_text.MODE,
        running_text.UNIT,
        Option("stream", "file", ("file", "sentence"), "the text that is scored at once"),
        STRIDE,
        WINDOWS,
        BOS,
    ),
    protocols={
        "paper": {},
        "strided": {"stride": "32"},
    },
)
