"""`harness cache`, `harness cache prune`, `harness cache check`."""

from pathlib import Path
from typing import Any

import click

from harness.cli.options import command
from harness.cli.types import Duration, Size
from harness.commands.declare import option
from harness.errors import UsageError

FOLDER: Any = option(
    None, "use the response cache in this folder; default: the user's cache", flag="cache"
)


@command(cls=click.Group, invoke_without_command=True)
def cache(folder: Path | None = FOLDER) -> None:
    """Inspect, prune or verify the response cache.

    Without a subcommand, print the number of answers of each checkpoint, their size, and how often
    one was used instead of being computed.
    """
    from harness.commands.setup.cache import open_store
    from harness.display.costs import show_cache

    context = click.get_current_context()
    context.obj = folder
    if context.invoked_subcommand is None:
        show_cache(open_store(folder))


@command()
def prune(
    folder: Path | None = FOLDER,
    older: float | None = option(
        None, "delete answers stored longer ago than this (10m, 12h, 30d, 8w)",
        metavar="AGE", type=Duration("30d", zero=True),
    ),
    above: int | None = option(
        None, "delete the oldest answers until this much is left (500M, 2G)",
        metavar="SIZE", type=Size(),
    ),
    checkpoint: str | None = option(
        None, "delete the answers of this checkpoint, by name or start of digest", metavar="ID"
    ),
) -> None:  # fmt: skip
    """Delete answers from the response cache."""
    from harness.commands.setup import cache as work

    work.prune(work.open_store(_one_folder(folder)), older, above, checkpoint)


@command()
def check(folder: Path | None = FOLDER) -> None:
    """Read every answer in the response cache; delete damaged ones."""
    from harness.commands.setup import cache as work

    work.check(work.open_store(_one_folder(folder)))


cache.add_command(prune)
cache.add_command(check)


def _one_folder(inner: Path | None) -> Path | None:
    """The folder of `--cache`, which may stand before or after the subcommand."""
    outer: Path | None = click.get_current_context().obj
    if outer and inner and outer != inner:
        raise UsageError(f"--cache names both {str(outer)!r} and {str(inner)!r}; give one of them")
    return inner or outer
