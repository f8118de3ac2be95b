"""Consoles that print text of unknown origin safely."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from harness.files.escape import printable, without_workflow_commands

PIPE_WIDTH = 120  # columns of a table in a pipe or a file
MIN_WIDTH = 40


class SafeConsole(Console):
    """A console on which no printed text can steer the terminal, or a CI runner that reads it.

    Colours and cursor movements are rich's own; they are added after the text was made safe.
    """

    def on_broken_pipe(self) -> None:
        """Let the error through; rich would exit with 1, which is the code of a regression."""
        raise  # rich calls this while it handles the error

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Segments of a renderable, their texts made safe."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_safe(segment.text))


def _safe(text: str) -> str:
    text = printable(text)
    return without_workflow_commands(text) if in_github_actions() else text


def in_github_actions() -> bool:
    """Whether a GitHub Actions runner reads what is printed."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def console(**settings: Any) -> Console:
    """A console for plain lines and tables: nothing in a text is highlighted or replaced."""
    plain = {"highlight": False, "emoji": False, "markup": False, "soft_wrap": True}
    return SafeConsole(**{**plain, **settings})


def output_console() -> Console:
    """The console for standard output.

    Tables and lines fit the terminal, or COLUMNS if that is set; lines wrap at words. In a pipe or
    a file without COLUMNS, tables are PIPE_WIDTH wide and other lines are not wrapped, so that the
    output depends on no window and can be searched.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return console(width=max(int(columns), MIN_WIDTH), height=25, soft_wrap=False)
    if sys.stdout.isatty():
        return console(soft_wrap=False)
    return console(width=PIPE_WIDTH, height=25)
