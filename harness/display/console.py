"""Consoles that print text from untrusted sources safely."""

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
    """A console whose texts cannot control the terminal or a CI runner.

    rich adds colours and cursor movements after the text is made safe.
    """

    def on_broken_pipe(self) -> None:
        """Re-raise the error; rich would exit with 1, which means a regression here."""
        raise  # rich calls this in its error handler

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of a renderable with safe texts."""
        for segment in super().render(renderable, options):
            text = segment.text
            # rich renders nested parts again and again; most texts need no second look.
            plain = text == "\n" or (text.isascii() and text.isprintable())
            if not segment.control and not plain:
                segment = segment._replace(text=printable(text))
            if in_github_actions() and not segment.control:
                segment = segment._replace(text=without_workflow_commands(segment.text))
            yield segment


def in_github_actions() -> bool:
    """Whether a GitHub Actions runner reads the output."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def console(**settings: Any) -> Console:
    """A console that prints texts as they are: no markup, highlighting or emoji codes."""
    plain = {"highlight": False, "emoji": False, "markup": False, "soft_wrap": True}
    return SafeConsole(**{**plain, **settings})


def output_console() -> Console:
    """The console for standard output.

    Tables and lines fit the terminal, or the width in COLUMNS; lines wrap at words. In a pipe or a
    file without COLUMNS, tables fit PIPE_WIDTH and other lines do not wrap, so that the output is
    the same everywhere and can be searched.
    """
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return console(width=max(int(columns), MIN_WIDTH), height=25, soft_wrap=False)
    if sys.stdout.isatty():
        return console(soft_wrap=False)
    return console(width=PIPE_WIDTH, height=25)
