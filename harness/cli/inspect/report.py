"""`harness report`."""

from pathlib import Path

from harness.cli.options import command, given, part
from harness.commands.declare import option
from harness.commands.inspect.options import PageOptions
from harness.commands.options import CacheOptions, DataOptions
from harness.errors import UsageError


@command()
def report(
    runs: tuple[Path, ...],
    out: Path = option(Path("report.html"), "write this HTML file", flag="-o --out"),
    page: PageOptions = part(PageOptions, heading="Options"),
    data: DataOptions = part(DataOptions, "data_dir"),
    cache: CacheOptions = part(CacheOptions, "folder"),
) -> None:
    """Write an HTML page about RUNS: records, or folders of records.

    One file that needs no network: the paper's tables, a leaderboard, scaling curves, calibration,
    what changed from the first run to the others, and the items behind the scores, with the
    probability of each token if data and response cache are available.
    """
    from harness.commands.inspect.report import write_report

    if page.no_tokens and (given("data_dir") or given("cache")):
        raise UsageError("--data-dir and --cache are for the tokens; leave out --no-tokens")
    write_report(runs, out, page, data, cache)
