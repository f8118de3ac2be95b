"""`harness leaderboard`."""

from pathlib import Path

import click

from harness.cli.options import PATH


@click.command()
@click.option(
    "--records", multiple=True, type=PATH, default=[Path("results/records")], show_default=True,
    metavar="FOLDER", help="read records from this folder; repeatable",
)  # fmt: skip
@click.option(
    "--out", type=PATH, default=Path("results/leaderboard.csv"), show_default=True,
    help="write this CSV file, and the same as Markdown next to it",
)  # fmt: skip
def leaderboard(records: tuple[Path, ...], out: Path) -> None:
    """Write a CSV and a Markdown table with one row per model."""
    from harness.commands.inspect.leaderboard import write_leaderboard

    write_leaderboard(records, out)
