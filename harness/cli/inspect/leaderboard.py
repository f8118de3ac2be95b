"""`harness leaderboard`."""

from pathlib import Path

from harness.cli.options import command
from harness.commands.declare import option


@command()
def leaderboard(
    records: tuple[Path, ...] = option(
        (Path("results/records"),), "read records from this folder; repeatable", metavar="FOLDER"
    ),
    out: Path = option(
        Path("results/leaderboard.csv"), "write this CSV file, and the same as Markdown next to it"
    ),
) -> None:
    """Write a CSV and a Markdown table with one row per model."""
    from harness.analysis import leaderboard
    from harness.analysis.runs import load
    from harness.display import terminal

    loaded = [run.record for run in load(records, "no")]
    table = leaderboard.rows(sorted(loaded, key=lambda record: record.created))
    for path in leaderboard.write(table, out):
        terminal.OUT.print(f"wrote {path} ({len(table)} rows)")
