"""Tokens and their probabilities for the items of the report page, from data and stored answers.

No model is loaded: where rows, tokenizer or answers are not at hand, the items do without.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from harness.commands.inspect.rerun import Again, run_again
from harness.commands.options import CacheOptions, DataOptions, ModelOptions
from harness.errors import CheckpointError, HarnessError
from harness.records.record import Record
from harness.records.trace import RequestTrace
from harness.report.page.columns import Column
from harness.report.page.items import Shown
from harness.report.page.tokens import Key

if TYPE_CHECKING:
    from harness.engine.engine import Engine


@dataclass(frozen=True)
class Stored(Again):
    """A run made again that has stored answers only."""

    @cached_property
    def engine(self) -> "Engine":
        """There is none.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError("its answers are not among the stored ones")


@dataclass
class Found:
    """Traces, and why some records have none."""

    traces: dict[Key, Sequence[RequestTrace]] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)  # reason -> whose


def collect(
    sides: Sequence[Column], shown: Sequence[Shown], data: DataOptions, cache: CacheOptions
) -> Found:
    """Traces of all items that are on the page.

    Args:
        sides: the columns.
        shown: the groups with the items chosen from them.
        data: where the rows are.
        cache: where the stored answers are.
    """
    found = Found()
    for place, group in enumerate(shown):
        for side in sorted({said.side for item in group.items for said in item.said}):
            ids = [item.id for item in group.items if any(s.side == side for s in item.said)]
            record = group.group.records[side]
            try:
                for item, requests in _traces(record, ids, data, cache):
                    found.traces[place, side, item] = requests
            except (HarnessError, OSError) as error:
                whose = f"{record.task} of {sides[side].label}"
                found.reasons.setdefault(str(error), []).append(whose)
    return found


def _traces(
    record: Record, ids: Sequence[str], data: DataOptions, cache: CacheOptions
) -> Iterator[tuple[str, tuple[RequestTrace, ...]]]:
    again = run_again(record, ModelOptions(), data, cache)
    stored = Stored(again.record, again.job, again.asked, again.model, again.cache)
    for item in ids:
        yield item, stored.traces([item])[0].requests
