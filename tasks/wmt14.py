"""WMT-14 English-French in both directions: newstest2014 after example pairs.

Radford et al. 2019, section 3.7: the context holds pairs `english sentence = french sentence`, then
`english sentence =`; the model decodes greedily, and the first sentence generated is the
translation. 5 BLEU into French, 11.5 into English. The paper does not say how many pairs there are,
where they come from or which BLEU is meant; the score is the mean over several draws of pairs.
"""

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from harness.core import (
    Example,
    Fields,
    Generate,
    Generated,
    Hub,
    Pool,
    Request,
    Response,
    Row,
    Source,
)
from harness.data.parsers import decode, join_lines, lines
from harness.errors import DataError
from harness.metrics import Metric, Outcome
from harness.metrics.bleu import (
    BLEU_COUNTS,
    CHRF_COUNTS,
    bleu,
    bleu_counts,
    chrf,
    chrf_counts,
    signature,
)
from harness.metrics.extract import generated
from harness.metrics.rouge import sentences
from harness.prompt import Prompt
from harness.task import FewShot, Measure, Option, Options, Step, Task, per_row

from .shared.few_shot import draw
from .shared.options import BOS

MAX_EXAMPLE_WORDS = 30  # of a source sentence in an example pair


def parse(english: bytes, french: bytes) -> list[Fields]:
    """Read two files with the same number of lines, or two SGML files.

        "Three people were slightly injured when a tram left the rails near the central station."
        "Trois personnes ont été légèrement blessées lorsqu'un tramway a déraillé près de la ..."

    Raises:
        DataError: the files differ in format or length, or a line is empty.
    """
    texts = [decode(data) for data in (english, french)]
    kinds = [text.lstrip().startswith("<") for text in texts]
    if kinds[0] != kinds[1]:
        names = ["SGML" if is_sgml else "plain text" for is_sgml in kinds]
        raise DataError(
            f"expected two files of one format, got English in {names[0]} and French in {names[1]}"
        )
    if kinds[0]:
        sides = [list(_segments(text)) for text in texts]
    else:
        sides = [lines(data) for data in (english, french)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"expected as many English lines as French ones, got {len(sides[0])} and "
            f"{len(sides[1])}"
        )
    for number, pair in enumerate(zip(*sides, strict=True), 1):
        if not all(side.strip() for side in pair):
            raise DataError(f"line {number}: expected a sentence in both files, got an empty line")
    return [{"en": en, "fr": fr} for en, fr in zip(*sides, strict=True)]


def _segments(text: str) -> Iterator[str]:
    """The sentences of an SGML file.

    Raises:
        DataError: a segment is not closed, or has an invalid character reference.
    """
    for number, part in enumerate(text.split("<seg ")[1:], 1):
        _, opened, rest = part.partition(">")
        sentence, closed, _ = rest.partition("</seg>")
        if not opened or not closed:
            raise DataError(f"segment {number}: expected <seg ...>sentence</seg>")
        try:
            yield html.unescape(sentence).strip()
        except ValueError:  # &#99999...; with more digits than a number may have
            raise DataError(f"segment {number}: a character reference has too many digits") from (
                None
            )


def french_name(name: str) -> str:
    """The name of the French file for an English one: `newstest2014.fr` for `newstest2014.en`.

    The SGML files of 2014 have one reference file per source; those of 2013 are all sources.
    """
    if not name.endswith(".sgm"):
        return f"{name[:-3]}.fr"
    return name.replace("fren-src.en", "fren-ref.fr").replace("-src.en", "-src.fr")


def restore(rows: Iterable[Fields]) -> tuple[bytes, bytes]:
    """Rows of the hub -> the English and the French file."""
    pairs = [row["translation"] for row in rows]
    return join_lines(pair["en"] for pair in pairs), join_lines(pair["fr"] for pair in pairs)


def newstest(year: int, rows: int, split: str, origin: str, sha256: tuple[str, ...]) -> Source:
    """The newstest files of one year."""
    return Source(
        title=f"newstest{year}, English and French",
        files=(
            f"newstest{year}.en",
            f"newstest{year}-fren-src.en.sgm",
            f"newstest{year}-src.en.sgm",
        ),
        parse=parse,
        sample=f"samples/newstest{year}.sample.en",
        origin=origin,
        sha256=sha256,
        rows=rows,
        hub=Hub(
            "wmt/wmt14",
            f"fr-en/{split}-00000-of-00001.parquet",
            "b199e406369ec1b7634206d3ded5ba45de2fe696",
            restore=restore,
        ),
        companion=french_name,
    )


TEST = newstest(2014, 3003, "test", "https://www.statmt.org/wmt14/test-full.tgz", ())
POOL = newstest(2013, 3000, "validation", "https://www.statmt.org/wmt13/test.tgz", ())


def pairs(pool: Pool, options: Options, direction: str) -> Fields:
    """`pairs`: for each draw, its example pairs as text, one pair per line."""
    source, target = direction.split("-")
    template, shots = prompt(options), int(options["shots"])
    short = [r for r in pool.rows if len(r.fields[source].split()) <= MAX_EXAMPLE_WORDS]
    texts = [
        "".join(
            template.render(examples="", source=row.fields[source]) + f" {row.fields[target]}\n"
            for row in draw(short or list(pool.rows), shots, seed)
        )
        for seed in range(int(options["draws"]))
    ]
    return {"pairs": tuple(texts)}


def prompt(options: Options) -> Prompt:
    """The example pairs and the sentence."""
    return Prompt.load("wmt14.txt")


def ask(example: Example, prompt: Prompt, options: Options) -> list[Request]:
    """One request per draw of example pairs."""
    source = example.fields["source"]
    return [
        Generate(
            (prompt.render(examples=pairs_, source=source),), int(options["max_new"]), stop=("\n",)
        )
        for pairs_ in example.fields["pairs"]
    ]


def translation(response: Generated, options: Options) -> str:
    """The text that is scored: the first line, or its first sentence."""
    line = response.text.strip().split("\n")[0].strip()
    if options["cut"] == "newline":
        return line
    # English rules for both languages: those for French would end a sentence at "M.".
    return next(iter(sentences(line)), "")


def measures(column: str, options: Options) -> tuple[Measure, ...]:
    """BLEU, its spread over the draws, and chrF."""
    runs = int(options["draws"])
    by_bleu = _measure(
        "bleu",
        bleu(runs),
        lambda text, reference: bleu_counts(text, reference, options["tokenize"]),
        BLEU_COUNTS,
        options,
    )
    of_bleu = replace(
        by_bleu, help="corpus BLEU, mean over the draws of example pairs", column=column
    )
    spread = replace(
        by_bleu,
        name="bleu over draws",
        metric=bleu(runs, spread=True),
        help="standard deviation of BLEU over the draws",
        steps=None,
    )
    of_chrf = _measure("chrf", chrf(runs), chrf_counts, CHRF_COUNTS, options)
    return (of_bleu, of_chrf, *([spread] if runs > 1 else []))


def _measure(
    name: str,
    metric: Metric,
    count: Callable[[str, str], Outcome],
    count_names: Sequence[str],
    options: Options,
) -> Measure:
    """A measure whose outcomes are the counts of every draw."""

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        texts = [translation(generated(r), options) for r in responses]
        counts = [count(text, example.references[0]) for text in texts]
        return [(*(value for draw in counts for value in draw), 1.0)]

    def steps(example: Example, responses: Sequence[Response]) -> Iterator[Step]:
        for number, response in enumerate(responses, 1):
            text = translation(generated(response), options)
            yield f"draw {number}: translation", text
            yield f"draw {number}: {name} counts", count(text, example.references[0])

    names = (
        f"{name} {kind} {draw}" for draw in range(int(options["draws"])) for kind in count_names
    )
    return Measure(name, metric, extract, (*names, "sentences"), "chrF2", steps=steps)


def task(name: str, direction: str, column: str, languages: str) -> Task:
    """The task of one direction."""
    source, target = direction.split("-")

    def read_row(row: Row, options: Options) -> Example:
        return Example(
            str(row.number), {"source": row.fields[source].strip()}, (row.fields[target].strip(),)
        )

    return Task(
        name=name,
        version=1,
        title=f"WMT-14 {languages}: translation after example pairs",
        description=(
            "The model reads example pairs, one `sentence = translation` per line, then a sentence "
            "and an equals sign, and decodes greedily to the end of the line. Reports sacrebleu's "
            "BLEU and chrF, each the mean over several draws of example pairs."
        ),
        source=lambda options: TEST,
        read=per_row(read_row),
        prompt=prompt,
        ask=ask,
        few_shot=FewShot(lambda options: POOL, lambda pool, o: pairs(pool, o, direction)),
        measures=lambda options: measures(column, options),
        notes=lambda examples, options: {"sacrebleu": signature(options["tokenize"])},
        options=(
            Option("shots", "5", ("0", "<n>"), "number of example pairs"),
            Option("draws", "3", ("<n>",), "number of draws of pairs; scores are means over them"),
            Option("max_new", "100", ("<n>",), "maximum number of new tokens"),
            Option("cut", "sentence", ("sentence", "newline"), "what is scored: the first sentence "
                   "of the first line, or the line"),
            Option("tokenize", "13a", ("13a", "intl"), "sacrebleu's tokenizer"),
            BOS,
        ),
        protocols={"paper": {}},
    )  # fmt: skip


EN_FR = task("wmt14-en-fr", "en-fr", "WMT14 En-Fr BLEU", "English to French")
FR_EN = task("wmt14-fr-en", "fr-en", "WMT14 Fr-En BLEU", "French to English")
