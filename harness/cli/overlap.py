"""The command that looks for a benchmark's n-grams in a corpus; `harness.cli.group` adds it."""

from typing import Any

import click

from harness.cli.options import DATA, PATH, chosen, given, takes
from harness.cli.types import WORKERS, Number
from harness.errors import UsageError


@click.command()
@click.argument("tasks", metavar="BENCHMARK[,...]")
@click.argument("files", nargs=-1, metavar="[FILE]...", type=PATH)
@click.option("--corpus", metavar="FILES", multiple=True, type=PATH,
              help="text, .jsonl, .parquet, .gz, .zst; a pattern of the shell")  # fmt: skip
@click.option("--against", metavar="BENCHMARK", multiple=True,
              help="take another benchmark's data as corpus; may be repeated")  # fmt: skip
@click.option("--backend", default="exact", show_default=True,
              type=click.Choice(["exact", "bloom"]))  # fmt: skip
@click.option("--rate", default=1e-8, show_default=True, help="share of false positives, for "
              "--backend bloom", type=Number(1e-15, 0.5))  # fmt: skip
@click.option("--ngram", default=8, show_default=True, type=click.IntRange(1, 100))
@click.option("--field", default="text", show_default=True, help="field with the text "
              "in .jsonl and .parquet files")  # fmt: skip
@click.option("--by-line", is_flag=True, help="each line of a plain text is a document")
@click.option("--workers", default=1, show_default=True, type=WORKERS,
              help="processes that share the files")  # fmt: skip
@click.option("--record", metavar="RUN", multiple=True, type=PATH,
              help="a record or a folder of them: its scores with and without overlap")  # fmt: skip
@takes(DATA)
@click.option("--out", type=PATH, help="CSV to write, one line per item")
@click.option("--json", is_flag=True, help="print one JSON object with all items, nothing else")
@click.option("--strict", is_flag=True, help="refuse wrong checksums")
def overlap(**options: Any) -> None:
    """Say how much of a benchmark's text is in a corpus.

    8-grams of normalised words, as in section 4 of the GPT-2 paper, in the form of its Table 6.
    Several benchmarks, joined by commas, are looked for in one pass.
    """
    from harness.commands.inspect.overlap import Search, run_overlap

    if given("rate") and options["backend"] != "bloom":
        raise UsageError("--rate is for --backend bloom; the exact search has no false positives")
    tasks = tuple(filter(None, options.pop("tasks").split(",")))
    corpus = (*options.pop("corpus"), *options.pop("files"))
    names = ("against", "backend", "rate", "ngram", "field", "by_line", "workers", "record")
    search = Search(tasks, corpus, **{name: options.pop(name) for name in names})
    out = options.pop("out")
    run_overlap(search, chosen(options), out)


COMMANDS = (overlap,)
