"""`harness report`."""

from pathlib import Path
from typing import Any

import click

from harness.cli.options import PATH, Command, given, part, takes
from harness.commands.options import CacheOptions, DataOptions
from harness.errors import UsageError


@click.command(cls=Command)
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option(
    "-o", "--out", type=PATH, default=Path("report.html"), show_default=True,
    help="write this HTML file",
)  # fmt: skip
@click.option("--title", default="Zero-shot report", show_default=True, help="title of the page")
@click.option(
    "--items", default=60, show_default=True, type=click.IntRange(min=0), metavar="N",
    help="show at most N items per task; all go to a file next to the page",
)  # fmt: skip
@click.option("--no-tokens", is_flag=True, help="leave out the tokens of the items; faster")
@takes(data=part(DataOptions, "data_dir"), cache=part(CacheOptions, "folder"))
def report(runs: tuple[Path, ...], out: Path, title: str, items: int, **sources: Any) -> None:
    """Write an HTML page about RUNS: records, or folders of records.

    One file that needs no network: the paper's tables, a leaderboard, scaling curves, calibration,
    what changed from the first run to the others, and the items behind the scores, with the
    probability of each token if data and response cache are available.
    """
    from harness.commands.inspect.report import PageOptions, write_report

    tokens = not sources["no_tokens"]
    if not tokens and (given("data_dir") or given("cache")):
        raise UsageError("--data-dir and --cache are for the tokens; leave out --no-tokens")
    data, cache = sources["data"], sources["cache"]
    write_report(runs, out, PageOptions(title, items, tokens, data.data_dir, cache.folder))
