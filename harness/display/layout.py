"""Tables that fit the console."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

TEXT_WIDTH, NARROW_TEXT_WIDTH = 24, 12  # to which a column of text may shrink, first and last


class _Column(NamedTuple):
    head: str
    right: bool
    cells: list[Text]

    def natural(self) -> int:
        return max(cell_len(line) for text in self._texts() for line in text.split("\n"))

    def least(self, wrap_numbers: bool) -> int:
        """The width to which the column may shrink; its heading always wraps."""
        heading = _longest_word(self.head)
        widest = max((cell_len(cell.plain) for cell in self.cells), default=0)
        if not self.right:
            return max(heading, min(widest, NARROW_TEXT_WIDTH if wrap_numbers else TEXT_WIDTH))
        if wrap_numbers:
            widest = max((_longest_word(cell.plain) for cell in self.cells), default=0)
        return max(heading, widest)

    def _texts(self) -> list[str]:
        return [self.head, *(cell.plain for cell in self.cells)]


class FittedTable:
    """A table without lines that never cuts a digit.

    What gives way in a narrow console, in this order: headings and long texts wrap, the gaps
    between columns shrink, optional columns are left out, numbers of several words wrap (intervals
    do), and at last every row becomes a block of `heading: value` lines.
    """

    def __init__(self, heads: Sequence[str], optional: Sequence[str] = ()) -> None:
        self._columns = [_Column(h.removeprefix(">"), h.startswith(">"), []) for h in heads]
        self._optional = optional

    def add_row(self, *cells: str | Text) -> None:
        """Add one cell per column; a string is plain text, never markup."""
        for column, cell in zip(self._columns, cells, strict=True):
            column.cells.append(Text(cell) if isinstance(cell, str) else cell)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        kept = self._columns
        for name in (None, *self._optional):
            kept = [column for column in kept if column.head != name]
            for gap in (2, 1):
                if widths := _widths(kept, options.max_width, gap):
                    yield _grid(kept, widths, gap)
                    return
        if widths := _widths(kept, options.max_width, 1, wrap_numbers=True):
            yield _grid(kept, widths, 1)
            return
        for cells in zip(*(column.cells for column in self._columns), strict=True):
            for column, cell in zip(self._columns, cells, strict=True):
                yield Text(f"{column.head}: ").append_text(cell)
            yield ""


def table(*heads: str, optional: Sequence[str] = ()) -> FittedTable:
    """A table without lines.

    Args:
        heads: of the columns; one that begins with > is aligned to the right.
        optional: columns that are left out if the console is too narrow, the first one first.
    """
    return FittedTable(heads, optional)


def _widths(
    columns: Sequence[_Column], room: int, gap: int, *, wrap_numbers: bool = False
) -> list[int]:
    """A width per column, as even as possible; empty if there is not enough room."""
    least = [column.least(wrap_numbers) for column in columns]
    room -= gap * (len(columns) - 1)
    if sum(least) > room:
        return []
    widths = [column.natural() for column in columns]
    while sum(widths) > room:
        loosest = max(range(len(widths)), key=lambda k: widths[k] - least[k])
        widths[loosest] -= 1
    return widths


def _grid(columns: Sequence[_Column], widths: Sequence[int], gap: int) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    heads = [_wrapped(c.head, width) for c, width in zip(columns, widths, strict=True)]
    height = max(map(len, heads))
    for column, width, head in zip(columns, widths, heads, strict=True):
        grid.add_column(
            "\n".join([*[""] * (height - len(head)), *head]),
            justify="right" if column.right else "left",
            width=width,
            overflow="fold",
        )
    for cells in zip(*(column.cells for column in columns), strict=True):
        grid.add_row(*cells)
    return grid


def _wrapped(head: str, width: int) -> list[str]:
    """A heading in lines of at most `width` cells, broken between words."""
    lines: list[str] = []
    for word in head.split(" "):
        if lines and cell_len(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in text.split()), default=0)
