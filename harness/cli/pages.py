"""The report page as a command.

`harness.cli.group` adds it. Heavy imports happen inside the command that needs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from harness.report.page.drill import Shown
    from harness.report.page.sides import Side
    from harness.report.page.tokens import Traces


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="HTML file to write",
)
@click.option("--title", default="Zero-shot report", show_default=True, help="of the page")
@click.option(
    "--items",
    "most",
    metavar="N",
    default=60,
    show_default=True,
    type=click.IntRange(min=0),
    help="show at most so many items of a benchmark; all go to a file beside the page",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="HARNESS_DATA",
    help="folder with the original files, for the tokens of the items; default: the environment "
    "variable HARNESS_DATA",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="folder of the stored answers, for the same; default: in the user's cache",
)
@click.option("--no-tokens", is_flag=True, help="items without tokens: quicker, records suffice")
def report(runs: tuple[Path, ...], out: Path, no_tokens: bool, **options: Any) -> None:
    """Write a page to look at RUNS: records, or folders of them.

    One HTML file that needs no network: the paper's tables, a leaderboard, scaling curves,
    calibration, what changed from the first run to the others, and the items behind the scores
    with the probability of each token, where data and stored answers are at hand.
    """
    write_report(runs, out, Options(**options, tokens=not no_tokens))


@dataclass(frozen=True, slots=True)
class Options:
    """What the command is told besides the runs and the file."""

    title: str = "Zero-shot report"
    most: int = 60  # items of a benchmark
    tokens: bool = True
    data_dir: Path | None = None
    cache: Path | None = None


def write_report(paths: Sequence[Path], out: Path, options: Options) -> None:
    """Runs -> the page, and the file with all items where the page has only some.

    Raises:
        UsageError: a path does not exist or has no record.
        RecordError: a file is no record, or the page cannot be written.
    """
    from importlib.metadata import version

    from harness.display import terminal
    from harness.report.page import drill, render
    from harness.report.page.sides import load, sides
    from harness.report.record import check_file, write_bytes

    check_file(out, "--out")
    columns = sides(load(paths))
    groups = drill.groups(columns)
    shown = [drill.sample(group, options.most) for group in groups]
    traces, untraced = _traces(columns, shown, options)
    beside = out.with_name(f"{out.stem}-items.jsonl")
    sampled = any(group.total > options.most for group in groups)
    files = {}
    if sampled:
        files[beside] = render.dump(groups, [side.label for side in columns])
    setting = render.Setting(
        title=options.title,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("zero-shot-harness"),
        most=options.most,
        dump=beside.name if sampled else None,
        notes=_notes(columns),
        untraced=untraced,
    )
    files[out] = render.page(columns, shown, traces, setting)
    for path, text in files.items():
        data = text.encode("utf-8", "backslashreplace")
        write_bytes(path, data)
        terminal.OUT.print(f"wrote {path} ({len(data) / 1e6:.1f} MB)", markup=False)


def _notes(columns: "Sequence[Side]") -> tuple[str, ...]:
    """What a reader should know first."""
    bare = sum(entry.items is None for side in columns for entry in side.entries)
    records = "1 record has no items beside it" if bare == 1 else f"{bare} records have no items"
    return (f"{records}: scores are shown, no items.",) if bare else ()


def _traces(
    columns: "Sequence[Side]", shown: "Sequence[Shown]", options: Options
) -> "tuple[Traces, tuple[str, ...]]":
    """Tokens of the items on the page, and in words whose items have none."""
    if not options.tokens:
        return {}, ()
    from harness.commands.page_traces import collect
    from harness.display import terminal
    from harness.options import RunOptions

    where = RunOptions(model=(), data_dir=options.data_dir, cache=options.cache)
    found = collect(columns, shown, where)
    missing = tuple(f"{', '.join(whose)}: {why}" for why, whose in found.reasons.items())
    if missing:
        count = sum(map(len, found.reasons.values()))
        terminal.note(f"no tokens for the items of {count} records; the page says why")
    return found.traces, missing


COMMANDS = (report,)
