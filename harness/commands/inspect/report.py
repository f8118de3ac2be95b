"""What `harness report` does: runs -> one page, and a file with all items beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from harness.analysis.runs import load
from harness.commands.inspect.report_traces import collect
from harness.commands.options import CacheOptions, DataOptions
from harness.display import terminal
from harness.files.output import check_file, write_bytes
from harness.report.page import items as drill
from harness.report.page import render
from harness.report.page.columns import Column, columns
from harness.report.page.items import Shown
from harness.report.page.tokens import Traces


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
    check_file(out, "--out")
    sides = columns(load(paths, "optional"))
    groups = drill.groups(sides)
    shown = [drill.sample(group, options.most) for group in groups]
    traces, untraced = _traces(sides, shown, options)
    beside = out.with_name(f"{out.stem}-items.jsonl")
    sampled = any(group.total > options.most for group in groups)
    files = {}
    if sampled:
        files[beside] = render.dump(groups, [side.label for side in sides])
    setting = render.Setting(
        title=options.title,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("zero-shot-harness"),
        most=options.most,
        dump=beside.name if sampled else None,
        notes=_notes(sides),
        untraced=untraced,
    )
    files[out] = render.page(sides, shown, traces, setting)
    for path, text in files.items():
        data = text.encode("utf-8", "backslashreplace")
        write_bytes(path, data)
        terminal.OUT.print(f"wrote {path} ({len(data) / 1e6:.1f} MB)", markup=False)


def _notes(columns: Sequence[Column]) -> tuple[str, ...]:
    """What a reader should know first."""
    bare = sum(not entry.has_outcomes for side in columns for entry in side.entries)
    records = "1 record has no items beside it" if bare == 1 else f"{bare} records have no items"
    return (f"{records}: scores are shown, no items.",) if bare else ()


def _traces(
    columns: Sequence[Column], shown: Sequence[Shown], options: Options
) -> tuple[Traces, tuple[str, ...]]:
    """Tokens of the items on the page, and in words whose items have none."""
    if not options.tokens:
        return {}, ()
    cache = CacheOptions(options.cache)
    found = collect(columns, shown, DataOptions(options.data_dir), cache)
    missing = tuple(f"{', '.join(whose)}: {why}" for why, whose in found.reasons.items())
    if missing:
        count = sum(map(len, found.reasons.values()))
        terminal.note(f"no tokens for the items of {count} records; the page says why")
    return found.traces, missing
