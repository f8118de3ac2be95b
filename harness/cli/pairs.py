"""The commands that hold runs against each other, and the one for the store.

`harness.cli.group` adds them. Heavy imports happen inside the command that needs them.
"""

from pathlib import Path
from typing import Any

import click

from harness.cli.completion import benchmarks
from harness.cli.options import JITTER, chosen, given, takes
from harness.cli.types import LEVEL, Duration, Number, Size
from harness.errors import UsageError

_PATHS = click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="print one JSON object, nothing else")


@click.command()
@_PATHS
@click.option("--all", "every", is_flag=True, help="every score, not the paper's columns alone")
@click.option("--flips", metavar="N", default=0, type=click.IntRange(min=0),
              help="show so many items per score that only one of two runs got right")  # fmt: skip
@click.option("--anyway", is_flag=True, help="pair runs that measure different things, too")
@_JSON
def compare(runs: tuple[Path, ...], every: bool, flips: int, anyway: bool, as_json: bool) -> None:
    """Compare RUNS item by item: records, or folders of them.

    Two runs: difference with interval, p and p adjusted over the main scores, and the items that
    flipped. More: one matrix per score. Signatures that differ are named; runs that measure
    different things are not compared.
    """
    from harness.commands.compare.compare import run_compare

    run_compare(runs, anyway=anyway, every=every, flips=flips, as_json=as_json)


@click.command()
@_PATHS
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/baselines/main.toml"),
    show_default=True,
    help="TOML file to write; the runs are written beside it",
)
@click.option(
    "--rule",
    metavar="RULE",
    help="for every score: paired:DELTA, absolute:TOLERANCE, "
    "relative:SHARE or report; default: paired:0",
)
@click.option(
    "--alpha",
    default=0.05,
    show_default=True,
    type=LEVEL,
    help="level of all paired rules together",
)
def baseline(runs: tuple[Path, ...], out: Path, rule: str | None, alpha: float) -> None:
    """Write what `harness check` holds later runs against.

    RUNS are records or folders of them; the newest of a benchmark and protocol counts.
    """
    from harness.commands.compare.baseline import write_baseline

    write_baseline(runs, out, rule, alpha)


@click.command()
@_PATHS
@click.option(
    "--baseline",
    required=True,
    type=click.Path(path_type=Path),
    help="what `harness baseline` wrote",
)
@click.option("--junit", type=click.Path(path_type=Path), help="write a JUnit file, a case a score")
@click.option(
    "--jitter",
    type=click.Path(path_type=Path),
    help="what `harness jitter` wrote: the least tolerance of every rule",
)
@_JSON
@click.pass_context
def check(
    context: click.Context,
    runs: tuple[Path, ...],
    baseline: Path,
    junit: Path | None,
    jitter: Path | None,
    as_json: bool,
) -> None:
    """Hold RUNS against a baseline.

    Exit code 0: fine. 1: a regression. 2: something is not comparable, or cannot be read. In a
    GitHub job annotations and a summary are written too.
    """
    from harness.commands.compare.check import run_check

    context.exit(run_check(runs, baseline, junit=junit, jitter=jitter, as_json=as_json))


@click.command()
@_PATHS
@click.option(
    "--drop",
    default=2.0,
    show_default=True,
    type=Number(1e-6, 1e6),
    help="points for scores in points, else percent of the score",
)
@click.option("--alpha", default=0.05, show_default=True, type=LEVEL)
@click.option("--power", default=0.8, show_default=True, type=Number(0, 1))
@click.option(
    "--correlation",
    default=0.5,
    show_default=True,
    type=Number(-1, 1),
    help="between the items of two runs, where one run is given",
)
@click.option(
    "--discordance",
    type=Number(0, 1),
    help="share of right/wrong items that only one of two runs gets right",
)
@_JSON
def power(runs: tuple[Path, ...], as_json: bool, **question: Any) -> None:
    """Say how many items a drop needs, and what today's items can show.

    RUNS: one run, two runs of different checkpoints, or a baseline. Two runs are the better guess:
    the spread of their items' differences is measured.
    """
    from harness.analysis.power import PowerSettings
    from harness.commands.compare.power import run_power

    if len(runs) == 2:
        for name in ("correlation", "discordance"):
            if given(name):
                raise UsageError(f"--{name} is measured on two runs; leave it out, or give one run")
    run_power(runs, PowerSettings(**question), as_json=as_json)


@click.command()
@click.argument("names", nargs=-1, required=True, shell_complete=benchmarks)
@takes(JITTER)
@click.option(
    "--file",
    type=click.Path(path_type=Path),
    default=Path("results/jitter.json"),
    show_default=True,
    help="where the figures are kept",
)
def jitter(names: tuple[str, ...], file: Path, **options: Any) -> None:
    """Measure by how much scores move on their own.

    Each benchmark of NAMES is run on this machine with several token budgets, thread counts and
    number formats, always from scratch. `harness check --jitter FILE` tolerates that much.
    """
    from harness.commands.compare.jitter import run_jitter

    run_jitter(names, chosen(options), file)


_CACHE = click.option(
    "--cache",
    "folder",
    type=click.Path(path_type=Path),
    help="folder of the stored answers; default: in the user's cache",
)


@click.group(name="cache", invoke_without_command=True)
@_CACHE
@click.pass_context
def cache_group(context: click.Context, folder: Path | None) -> None:
    """Show, shorten or check the stored answers.

    Without a subcommand: how many answers there are of each checkpoint, their size, and how often
    one was taken instead of being computed.
    """
    from harness.commands.setup.cache import open_store, show

    context.obj = folder
    if context.invoked_subcommand is None:
        show(open_store(folder))


@cache_group.command()
@_CACHE
@click.option("--older", metavar="AGE", type=Duration("30d", zero=True),
              help="those stored longer ago: 10m, 12h, 30d, 8w")  # fmt: skip
@click.option("--above", metavar="SIZE", type=Size(),
              help="the oldest ones, until so much is left: 500M, 2G")  # fmt: skip
@click.option("--checkpoint", metavar="ID", help="those of one checkpoint, by digest or name")
@click.pass_obj
def prune(outer: Path | None, /, folder: Path | None, **what: Any) -> None:
    """Drop stored answers."""
    from harness.commands.setup import cache

    cache.prune(cache.open_store(_one_folder(outer, folder)), **what)


@cache_group.command(name="check")
@_CACHE
@click.pass_obj
def check_cache(outer: Path | None, folder: Path | None) -> None:
    """Read every stored answer; drop the damaged ones."""
    from harness.commands.setup import cache

    cache.check(cache.open_store(_one_folder(outer, folder)))


def _one_folder(outer: Path | None, inner: Path | None) -> Path | None:
    """`--cache` may stand before or behind the subcommand.

    Raises:
        UsageError: it stands in both places, with different folders.
    """
    if outer and inner and outer != inner:
        raise UsageError(f"--cache names both {str(outer)!r} and {str(inner)!r}; give one of them")
    return inner or outer


COMMANDS = (compare, baseline, check, power, jitter, cache_group)
