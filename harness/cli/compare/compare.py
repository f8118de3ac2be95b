"""`harness compare`."""

from pathlib import Path

import click

from harness.cli.options import JSON, PATH


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--all", "every", is_flag=True, help="all scores, not only the paper's columns")
@click.option(
    "--flips", metavar="N", default=0, type=click.IntRange(min=0),
    help="show up to N items per score that only one of two runs got right",
)  # fmt: skip
@click.option(
    "--anyway", is_flag=True, help="compare even if the signatures differ in what is measured"
)
@JSON
def compare(runs: tuple[Path, ...], every: bool, flips: int, anyway: bool, as_json: bool) -> None:
    """Compare RUNS item by item: records, or folders of records.

    Two runs: difference with interval, p-value, p-value adjusted over the main scores, and the
    items that flipped. With three or more runs, print one matrix per score. Differing signatures
    are named; runs that measure different things are not compared.
    """
    from harness.commands.compare.compare import run_compare

    run_compare(runs, anyway=anyway, every=every, flips=flips, as_json=as_json)
