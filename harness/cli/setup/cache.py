"""`harness cache`, `harness cache prune`, `harness cache check`."""

from pathlib import Path

import click

from harness.cli.options import PATH
from harness.cli.types import Duration, Size
from harness.errors import UsageError

_CACHE = click.option(
    "--cache", "folder", type=PATH,
    help="use the response cache in this folder; default: the user's cache",
)  # fmt: skip


@click.group(invoke_without_command=True)
@_CACHE
@click.pass_context
def cache(context: click.Context, folder: Path | None) -> None:
    """Inspect, prune or verify the response cache.

    Without a subcommand, print the number of answers of each checkpoint, their size, and how often
    one was used instead of being computed.
    """
    from harness.commands.setup.cache import open_store, show

    context.obj = folder
    if context.invoked_subcommand is None:
        show(open_store(folder))


@cache.command()
@_CACHE
@click.option(
    "--older", metavar="AGE", type=Duration("30d", zero=True),
    help="delete answers stored longer ago than this (10m, 12h, 30d, 8w)",
)  # fmt: skip
@click.option(
    "--above", metavar="SIZE", type=Size(),
    help="delete the oldest answers until this much is left (500M, 2G)",
)  # fmt: skip
@click.option(
    "--checkpoint", metavar="ID",
    help="delete the answers of this checkpoint, by name or start of digest",
)  # fmt: skip
@click.pass_obj
def prune(
    outer: Path | None,
    /,
    folder: Path | None,
    older: float | None,
    above: int | None,
    checkpoint: str | None,
) -> None:
    """Delete answers from the response cache."""
    from harness.commands.setup import cache as command

    command.prune(command.open_store(_one_folder(outer, folder)), older, above, checkpoint)


@cache.command()
@_CACHE
@click.pass_obj
def check(outer: Path | None, folder: Path | None) -> None:
    """Read every answer in the response cache; delete damaged ones."""
    from harness.commands.setup import cache as command

    command.check(command.open_store(_one_folder(outer, folder)))


def _one_folder(outer: Path | None, inner: Path | None) -> Path | None:
    """The folder of `--cache`, which may stand before or after the subcommand.

    Raises:
        UsageError: it stands in both places, with different folders.
    """
    if outer and inner and outer != inner:
        raise UsageError(f"--cache names both {str(outer)!r} and {str(inner)!r}; give one of them")
    return inner or outer
