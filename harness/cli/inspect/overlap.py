"""`harness overlap`."""

from pathlib import Path
from typing import Any

import click

from harness.cli.options import JSON, PATH, Command, given, part, takes
from harness.cli.types import WORKERS, Number
from harness.commands.options import DataOptions, ProtocolOptions
from harness.errors import UsageError


@click.command(cls=Command)
@click.argument("tasks", metavar="TASK[,...]")
@click.argument("files", nargs=-1, metavar="[FILE]...", type=PATH)
@click.option(
    "--corpus", metavar="FILE", multiple=True, type=PATH,
    help="search this file: text, .jsonl, .parquet, .gz or .zst; repeatable",
)  # fmt: skip
@click.option(
    "--against", metavar="TASK", multiple=True,
    help="search the data of this task, too; repeatable",
)  # fmt: skip
@click.option(
    "--backend", default="exact", show_default=True, type=click.Choice(["exact", "bloom"]),
    help="search exactly, or with a Bloom filter that needs less memory",
)  # fmt: skip
@click.option(
    "--rate", default=1e-8, show_default=True, type=Number(1e-15, 0.5),
    help="share of false positives of --backend bloom",
)  # fmt: skip
@click.option(
    "--ngram", default=8, show_default=True, type=click.IntRange(1, 100), metavar="N",
    help="length of the n-grams in words",
)  # fmt: skip
@click.option(
    "--field", default="text", show_default=True,
    help="field of .jsonl and .parquet files that has the text",
)  # fmt: skip
@click.option("--by-line", is_flag=True, help="treat each line of a text file as a document")
@click.option(
    "--workers", default=1, show_default=True, type=WORKERS, metavar="N",
    help="read files in N processes",
)  # fmt: skip
@click.option(
    "--record", metavar="RUN", multiple=True, type=PATH,
    help="print the scores of this record, or folder of records, with and without overlap; "
    "repeatable",
)  # fmt: skip
@click.option("--out", type=PATH, help="write a CSV file with one row per item")
@JSON
@takes(data=DataOptions, protocol=part(ProtocolOptions, "name", "set"))
def overlap(
    data: DataOptions, protocol: ProtocolOptions, out: Path | None, as_json: bool, **search: Any
) -> None:
    """Measure how much of a task's text is in a corpus.

    Searches for the 8-grams of normalised words, as section 4 of the GPT-2 paper does, and prints
    the shares as its Table 6. Several tasks, separated by commas, are searched for in one pass.
    """
    from harness.commands.inspect.overlap import Search, run_overlap

    if given("rate") and search["backend"] != "bloom":
        raise UsageError("--rate is for --backend bloom; the exact search has no false positives")
    search["tasks"] = tuple(filter(None, search["tasks"].split(",")))
    search["corpus"] = (*search["corpus"], *search.pop("files"))
    run_overlap(Search(**search), data, protocol, out=out, as_json=as_json)
