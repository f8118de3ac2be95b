"""What `harness doctor` found, as lines."""

from rich.table import Table
from rich.text import Text

from harness.display.terminal import OUT

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
STATE_WIDTH, NAME_WIDTH = 5, 22


def show_finding(state: str, name: str, seen: str, advice: str) -> None:
    """Print the result of one check, and what to do about it."""
    row = Table.grid(padding=(0, 1, 0, 0))
    for width in (STATE_WIDTH, NAME_WIDTH, None):
        row.add_column(width=width, overflow="fold")
    row.add_row(Text(state, STYLES[state]), Text(name), Text(seen))
    if advice:
        row.add_row("", "", Text(f"-> {advice}"))
    OUT.print(row)
