"""Standard output for results; standard error for progress, notes and log messages."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from harness.analysis.paper.table3 import preflight_warnings
from harness.display.console import console, output_console
from harness.files.escape import json_line

OUT = output_console()
ERR = console(stderr=True)


def print_json(value: Any) -> None:
    """Print a JSON value on one line and flush it."""
    OUT.file.write(json_line(value) + "\n")
    OUT.file.flush()


def note(text: str) -> None:
    """Print one line on standard error."""
    ERR.print(f"note: {text}")


class _Notes(logging.Handler):
    """Prints log messages as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def start_logging() -> None:
    """Print this program's log messages on standard error."""
    logger = logging.getLogger("harness")
    logger.handlers = [_Notes()]
    logger.setLevel(logging.INFO)


class Bar:
    """Progress of one task in tokens."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._name = name
        self._progress = progress
        self._task = progress.add_task(name, total=None, amount="reading", rate="")

    def advance(self, done: int, total: int) -> None:
        """Show the tokens done so far and in total."""
        elapsed = self._progress.tasks[self._task].elapsed or 0.0
        self._progress.update(
            self._task,
            completed=done,
            total=total,
            amount=f"{done:,} of {total:,} tokens",
            rate=f"{done / elapsed:,.0f}/s" if elapsed > 0 and done else "",
        )

    def preflight(self, counts: Mapping[str, int]) -> None:
        """Note what is unusual about the requests, before any is answered."""
        for fact in preflight_warnings(counts):
            note(f"{self._name}: {fact}")


@contextmanager
def progress(name: str) -> Iterator[Bar]:
    """A progress bar while the task runs; nothing if standard error is not a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=ERR, transient=True, disable=not ERR.is_terminal) as bar:
        yield Bar(bar, name)
