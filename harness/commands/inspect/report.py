"""`harness report`: runs -> the report page, and a file with all examples next to it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from json import dumps
from pathlib import Path

from harness.analysis.runs import load
from harness.commands.inspect.options import PageOptions
from harness.commands.inspect.report_traces import collect_traces
from harness.commands.options import CacheOptions, DataOptions
from harness.display import terminal
from harness.files.output import check_file, write_bytes
from harness.report.page import render
from harness.report.page.columns import Column, columns
from harness.report.page.examples import GroupSample, file_json, groups, sample
from harness.report.page.tokens import Traces


def write_report(
    paths: Sequence[Path],
    out: Path,
    options: PageOptions,
    data: DataOptions,
    cache: CacheOptions,
) -> None:
    """Write the page, and the file with all examples if the page has only some."""
    check_file(out, "--out")
    shown = columns(load(paths, "optional"))
    example_groups = groups(shown)
    samples = [sample(group, options.max_items) for group in example_groups]
    traces, untraced = ({}, ()) if options.no_tokens else _traces(shown, samples, data, cache)
    dump = out.with_name(f"{out.stem}-items.jsonl")
    sampled = any(len(group.examples) > options.max_items for group in example_groups)
    texts = {}
    if sampled:
        labels = [column.label for column in shown]
        lines = (
            dumps(file_json(g, example, labels)) for g in example_groups for example in g.examples
        )
        texts[dump] = "".join(f"{line}\n" for line in lines)
    info = render.PageInfo(
        title=options.title,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version("zero-shot-harness"),
        limit=options.max_items,
        dump=dump.name if sampled else None,
        notes=_notes(shown),
        untraced=untraced,
    )
    texts[out] = render.page(shown, samples, traces, info)
    for path, text in texts.items():
        encoded = text.encode("utf-8", "backslashreplace")
        write_bytes(path, encoded)
        terminal.OUT.print(f"wrote {path} ({len(encoded) / 1e6:.1f} MB)")


def _notes(shown: Sequence[Column]) -> tuple[str, ...]:
    """Notes at the top of the page."""
    count = sum(not run.has_outcomes for column in shown for run in column.runs)
    if not count:
        return ()
    records = "1 record has" if count == 1 else f"{count} records have"
    return (f"{records} no outcomes file: their scores are shown, without examples.",)


def _traces(
    shown: Sequence[Column],
    samples: Sequence[GroupSample],
    data: DataOptions,
    cache: CacheOptions,
) -> tuple[Traces, tuple[str, ...]]:
    """The tokens of the examples on the page; which examples have none, and why."""
    traces, reasons = collect_traces(shown, samples, data, cache)
    if reasons:
        count = sum(map(len, reasons.values()))
        terminal.note(f"no tokens for the examples of {count} records; the page gives the reasons")
    return traces, tuple(f"{', '.join(runs)}: {reason}" for reason, runs in reasons.items())
