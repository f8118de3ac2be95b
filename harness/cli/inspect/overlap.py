"""`harness overlap`."""

from dataclasses import replace
from pathlib import Path

from harness.cli.options import argument, command, given, part
from harness.commands.inspect.options import SearchOptions
from harness.commands.options import DataOptions, ProtocolOptions
from harness.errors import UsageError


@command()
def overlap(
    tasks: str = argument(metavar="TASK[,...]"),
    files: tuple[Path, ...] = argument(required=False, metavar="[FILE]..."),
    search: SearchOptions = part(SearchOptions, heading="Options"),
    data: DataOptions = part(DataOptions),
    protocol: ProtocolOptions = part(ProtocolOptions, "name", "set"),
) -> None:
    """Measure how much of a task's text is in a corpus.

    Searches for the 8-grams of normalised words, as section 4 of the GPT-2 paper does, and prints
    the shares as its Table 6. Several tasks, separated by commas, are searched for in one pass.
    """
    from harness.commands.inspect.overlap import run_overlap

    if given("rate") and search.backend != "bloom":
        raise UsageError("--rate is for --backend bloom; the exact search has no false positives")
    names = tuple(filter(None, tasks.split(",")))
    run_overlap(names, replace(search, corpus=(*search.corpus, *files)), data, protocol)
