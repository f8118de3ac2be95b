"""Tokens and their probabilities for the examples on the report page, from the response cache.

No model is loaded: examples whose rows, tokenizer or responses are not available have no tokens.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from harness.commands.inspect.rerun import Again, run_again
from harness.commands.options import CacheOptions, DataOptions, ModelOptions
from harness.errors import CheckpointError, HarnessError
from harness.report.page.columns import Column
from harness.report.page.examples import GroupSample
from harness.report.page.tokens import Traces

if TYPE_CHECKING:
    from harness.engine.engine import Engine


@dataclass(frozen=True)
class CachedRun(Again):
    """A run that is repeated from the response cache alone."""

    @cached_property
    def engine(self) -> "Engine":
        """Raise CheckpointError: there is no model."""
        raise CheckpointError("its responses are not in the cache")


def collect_traces(
    columns: Sequence[Column],
    samples: Sequence[GroupSample],
    data: DataOptions,
    cache: CacheOptions,
) -> tuple[Traces, Mapping[str, Sequence[str]]]:
    """Trace all examples on the page; the runs without traces are listed by reason.

    Args:
        columns: of the page.
        samples: the examples of each group.
        data: where the rows are.
        cache: where the responses are.
    """
    traces = {}
    reasons: dict[str, list[str]] = defaultdict(list)
    for number, sample in enumerate(samples):
        for column, record in sorted(sample.group.records.items()):
            ids = [e.id for e in sample.examples if any(r.column == column for r in e.runs)]
            if not ids:
                continue
            try:
                again = run_again(record, ModelOptions(), data, cache)
                run = CachedRun(again.record, again.job, again.asked, again.model, again.cache)
                for example in ids:
                    traces[number, column, example] = run.traces([example])[0].requests
            except (HarnessError, OSError) as error:
                reasons[str(error)].append(f"{record.task} of {columns[column].label}")
    return traces, reasons
