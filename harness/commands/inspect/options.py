"""The options of the commands that read finished runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.commands.declare import OptionGroup, option
from harness.commands.model_options import MAX_THREADS, ModelOptions
from harness.commands.options import CacheOptions, DataOptions
from harness.commands.server_options import ServerOptions


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """How one example is explained."""

    model: ModelOptions
    data: DataOptions
    cache: CacheOptions
    server: ServerOptions = ServerOptions()
    ranks: bool = True  # load the model to compute the rank of every scored token
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class CurveOptions(OptionGroup):
    """Which curves are shown, and how."""

    over: Literal["parameters", "step"] = option(
        "parameters", "show scores over the sizes of models, or over the steps of training runs"
    )
    every: bool = option(False, "all scores, not only the paper's columns", flag="all")
    as_json: bool = option(False, "print one JSON object, nothing else", flag="json")


@dataclass(frozen=True, slots=True)
class PageOptions(OptionGroup):
    """What the report page shows."""

    title: str = option("Zero-shot report", "title of the page")
    max_items: int = option(
        60, "show at most N items per task; all go to a file next to the page",
        flag="items", min=0, metavar="N",
    )  # fmt: skip
    no_tokens: bool = option(False, "leave out the tokens of the items; faster")


@dataclass(frozen=True, slots=True)
class SearchOptions(OptionGroup):
    """Which corpus is searched for a task's text, and how."""

    corpus: tuple[Path, ...] = option(
        (), "search this file: text, .jsonl, .parquet, .gz or .zst; repeatable", metavar="FILE"
    )
    against: tuple[str, ...] = option(
        (), "search the data of this task, too; repeatable", metavar="TASK"
    )
    backend: Literal["exact", "bloom"] = option(
        "exact", "search exactly, or with a Bloom filter that needs less memory"
    )
    rate: float = option(1e-8, "share of false positives of --backend bloom", min=1e-15, max=0.5)
    ngram: int = option(8, "length of the n-grams in words", min=1, max=100, metavar="N")
    field: str = option("text", "field of .jsonl and .parquet files that has the text")
    by_line: bool = option(False, "treat each line of a text file as a document")
    workers: int = option(1, "read files in N processes", min=1, max=MAX_THREADS, metavar="N")
    record: tuple[Path, ...] = option(
        (), "print the scores of this record, or folder of records, with and without overlap; "
        "repeatable", metavar="RUN",
    )  # fmt: skip
    out: Path | None = option(None, "write a CSV file with one row per item")
    as_json: bool = option(False, "print one JSON object, nothing else", flag="json")
