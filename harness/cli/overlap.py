"""The command that looks for a benchmark's n-grams in a corpus; `harness.cli.group` adds it."""

from pathlib import Path
from typing import Any

import click

from harness.cli.options import DATA
from harness.cli.pairs import Number

PATH = click.Path(path_type=Path)


def _data_options(function: Any) -> Any:
    for option in reversed(DATA):
        function = option(function)
    return function


@click.command()
@click.argument("tasks", metavar="BENCHMARK[,...]")
@click.argument("files", nargs=-1, metavar="[FILE]...", type=PATH)
@click.option("--corpus", metavar="FILES", multiple=True, type=PATH,
              help="text, .jsonl, .parquet, .gz, .zst; a pattern of the shell")  # fmt: skip
@click.option("--against", metavar="BENCHMARK", multiple=True,
              help="take another benchmark's data as corpus; may be repeated")  # fmt: skip
@click.option("--backend", default="exact", show_default=True,
              type=click.Choice(["exact", "bloom"]))  # fmt: skip
@click.option("--rate", default=1e-8, show_default=True, help="of false positives, for bloom",
              type=Number(0, 0.5, min_open=True))  # fmt: skip
@click.option("--ngram", default=8, show_default=True, type=click.IntRange(1, 100))
@click.option("--field", default="text", show_default=True, help="of .jsonl and .parquet files")
@click.option("--by-line", is_flag=True, help="each line of a plain text is a document")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(min=1),
              help="processes that share the files")  # fmt: skip
@click.option("--record", metavar="RUN", multiple=True, type=PATH,
              help="a record or a folder of them: its scores with and without overlap")  # fmt: skip
@_data_options
@click.option("--out", type=PATH, help="CSV to write, a line an item")
@click.option("--json", is_flag=True, help="print one JSON object with all items, nothing else")
@click.option("--strict", is_flag=True, help="refuse wrong checksums")
def overlap(**given: Any) -> None:
    """Say how much of a benchmark's text is in a corpus.

    8-grams of normalised words, as in section 4 of the GPT-2 paper, in the form of its Table 6.
    Several benchmarks, joined by commas, are looked for in one pass.
    """
    from harness.commands.overlap import Search, run_overlap
    from harness.options import RunOptions

    tasks = tuple(filter(None, given.pop("tasks").split(",")))
    corpus = (*given.pop("corpus"), *given.pop("files"))
    names = ("against", "backend", "rate", "ngram", "field", "by_line", "workers", "record")
    search = Search(tasks, corpus, **{name: given.pop(name) for name in names})
    out = given.pop("out")
    run_overlap(search, RunOptions(model=(), **given), out)


COMMANDS = (overlap,)
