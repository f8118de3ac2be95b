"""`harness leaderboard`: records as a CSV and a Markdown table."""

from collections.abc import Sequence
from pathlib import Path

from harness.analysis import leaderboard
from harness.analysis.runs import load
from harness.display import terminal


def write_leaderboard(records: Sequence[Path], out: Path) -> None:
    """Write one row per checkpoint."""
    loaded = [run.record for run in load(records, "no")]
    table = leaderboard.rows(sorted(loaded, key=lambda record: record.created))
    for path in leaderboard.write(table, out):
        terminal.OUT.print(f"wrote {path} ({len(table)} rows)", markup=False)
