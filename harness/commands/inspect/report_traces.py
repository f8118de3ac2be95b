"""Tokens and their probabilities for the examples on the report page, from the response cache.

No model is loaded: examples whose rows, tokenizer or responses are not available have no tokens.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.commands.inspect.rerun import run_again
from harness.commands.model_options import ModelOptions
from harness.commands.options import CacheOptions, DataOptions
from harness.errors import HarnessError
from harness.report.page.columns import Column
from harness.report.page.examples import GroupSample
from harness.report.page.tokens import Traces


def collect_traces(
    columns: Sequence[Column],
    samples: Sequence[GroupSample],
    data: DataOptions,
    cache: CacheOptions,
) -> tuple[Traces, Mapping[str, Sequence[str]]]:
    """Trace all examples on the page; the runs without traces are listed by reason."""
    traces = {}
    reasons: dict[str, list[str]] = defaultdict(list)
    for number, sample in enumerate(samples):
        for column, record in sorted(sample.group.records.items()):
            ids = [e.id for e in sample.examples if any(r.column == column for r in e.runs)]
            if not ids:
                continue
            try:
                again = run_again(record, ModelOptions(), data, cache)
                run = replace(again, cached_only=True)
                for example in ids:
                    traces[number, column, example] = run.trace(run.answered(example)).requests
            except (HarnessError, OSError) as error:
                reasons[str(error)].append(f"{record.task} of {columns[column].label}")
    return traces, reasons
