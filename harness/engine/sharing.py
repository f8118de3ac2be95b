"""Rows that share prefixes, as far as the model has been seen to compute them rightly.

The one place that knows whether anything is shared: a model that fails a check at some length
never shares again, with a notice.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from harness.engine import probe
from harness.engine.encode import Span
from harness.engine.forward import Forward
from harness.engine.plan import Sharing, TreeRow, arrange

log = logging.getLogger(__name__)


class Planner:
    """Arranges spans in rows.

    Args:
        forward: the model.
        budget: padded tokens a batch; no tree is longer.
        share: whether prefixes may be shared at all.
    """

    def __init__(self, forward: Forward, budget: int, *, share: bool) -> None:
        self._forward = forward
        self._tested: dict[probe.Check, int] = {}  # lengths up to which a check has passed
        self._sharing: Sharing | None = None
        if share:
            self._sharing, reason = forward.sharing(max(budget, 1))
            if reason:
                log.warning("prefixes are not shared: %s", reason)

    @property
    def shares(self) -> bool:
        """Whether prefixes are shared."""
        return self._sharing is not None

    @property
    def sharing(self) -> Sharing | None:
        """How prefixes are shared; None if they are not."""
        return self._sharing

    def rows(self, spans: Sequence[Span]) -> list[TreeRow]:
        """Rows to be scored."""
        rows = arrange(spans, self._sharing)
        if self._sharing is None:
            return rows
        searched = max((len(span.inputs) for span in spans if span.top), default=0)
        return rows if self._honours(_deepest(rows), searched) else arrange(spans, None)

    def answer_rows(self, spans: Sequence[Span], grown: int, most: int) -> list[TreeRow]:
        """Rows of at most `most` prompts that grow to `grown` tokens; of one each if none share."""
        if self._sharing is not None:
            rows = arrange(spans, replace(self._sharing, max_spans=most))
            if self._honours(_deepest(rows), grown):
                return rows
        rows = [_alone(s, span) for s, span in enumerate(spans)]
        return sorted(rows, key=lambda row: -len(row))

    def _honours(self, deepest: int, cached: int) -> bool:
        """Whether the model is right on trees and kept prefixes so long; if not, it never shares.

        Args:
            deepest: the longest path of a row with branches.
            cached: the longest path over a kept prefix.
        """
        for check, length in ((probe.honours_trees, deepest), (probe.honours_cache, cached)):
            if not self._passes(check, length):
                self._sharing = None
                log.warning(
                    "prefixes are not shared: at %d tokens this model scores rows with branches "
                    "differently from separate rows",
                    length,
                )
                return False
        return True

    def _passes(self, check: probe.Check, length: int) -> bool:
        """Whether the model passes a check at this length; a longer one that passed counts."""
        if length > self._tested.get(check, 0):
            with torch.inference_mode():
                if not check(self._forward, length):
                    return False
            self._tested[check] = length
        return True


def _deepest(rows: Sequence[TreeRow]) -> int:
    """Length of the longest path in a row with branches."""
    return max((max(row.positions) + 1 for row in rows if row.branches), default=0)


def _alone(s: int, span: Span) -> TreeRow:
    """A row of one span."""
    [row] = arrange([span], None)
    row.nodes = {s: row.nodes[0]}
    return row
