"""The command that writes the report page; `harness.cli.group` adds it."""

from pathlib import Path
from typing import Any

import click

from harness.cli.options import given
from harness.errors import UsageError


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write",
)
@click.option("--title", default="Zero-shot report", show_default=True, help="title of the page")
@click.option(
    "--items",
    "most",
    metavar="N",
    default=60,
    show_default=True,
    type=click.IntRange(min=0),
    help="show at most so many items of a benchmark; all go to a file beside the page",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="HARNESS_DATA",
    help="folder with the original files, for the tokens of the items; default: the environment "
    "variable HARNESS_DATA",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="folder of the stored answers, for the same; default: in the user's cache",
)
@click.option("--no-tokens", is_flag=True, help="items without tokens: quicker, records suffice")
def report(runs: tuple[Path, ...], out: Path, no_tokens: bool, **options: Any) -> None:
    """Write a page to look at RUNS: records, or folders of them.

    One HTML file that needs no network: the paper's tables, a leaderboard, scaling curves,
    calibration, what changed from the first run to the others, and the items behind the scores
    with the probability of each token, where data and stored answers are at hand.
    """
    from harness.commands.inspect.report import Options, write_report

    if no_tokens and (given("data_dir") or given("cache")):
        raise UsageError("--data-dir and --cache are for the tokens; leave out --no-tokens")

    write_report(runs, out, Options(**options, tokens=not no_tokens))


COMMANDS = (report,)
