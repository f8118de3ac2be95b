"""The report page as a command.

`harness.cli` adds it. Heavy imports happen inside the command that needs them.
"""

from pathlib import Path

import click


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
def report(runs: tuple[Path, ...], out: Path, title: str, most: int) -> None:
    """Write a page to look at RUNS: records, or folders of them.

    One HTML file that needs no network: the paper's tables, a leaderboard, scaling curves,
    calibration, what changed from the first run to the others, and the items behind the scores.
    """
    write_report(runs, out, title=title, most=most)


def write_report(paths: tuple[Path, ...], out: Path, *, title: str, most: int) -> None:
    """Runs -> the page, and the file with all items where the page has only some.

    Raises:
        UsageError: a path does not exist or has no record.
        RecordError: a file is no record, or the page cannot be written.
    """
    from datetime import UTC, datetime
    from importlib.metadata import version

    from harness import terminal
    from harness.report.page import drill, render
    from harness.report.page.sides import load, sides
    from harness.report.record import check_file, write_bytes

    check_file(out, "--out")
    columns = sides(load(paths))
    groups = drill.groups(columns)
    beside = out.with_name(f"{out.stem}-items.jsonl")
    sampled = any(group.total > most for group in groups)
    bare = sum(entry.items is None for side in columns for entry in side.entries)
    records = "1 record has no items beside it" if bare == 1 else f"{bare} records have no items"
    page = render.page(
        columns,
        groups,
        render.Setting(
            title=title,
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=version("zero-shot-harness"),
            most=most,
            dump=beside.name if sampled else None,
            notes=(f"{records}: scores are shown, no items.",) if bare else (),
        ),
    )
    files = {out: page}
    if sampled:
        files[beside] = render.dump(groups, [side.label for side in columns])
    for path, text in files.items():
        data = text.encode("utf-8", "backslashreplace")
        write_bytes(path, data)
        terminal.OUT.print(f"wrote {path} ({len(data) / 1e6:.1f} MB)", markup=False)


COMMANDS = (report,)
