"""Rows that share prefixes, as far as the model has been seen to compute them rightly.

The one place that knows whether anything is shared: a model that fails a check at some length
never shares again, with a notice.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch

from harness.engine.model import capabilities
from harness.engine.model.forward import Forward
from harness.engine.queries.encode import WORD_TOKENS
from harness.engine.queries.prefix_tree import TreeRow, arrange
from harness.engine.queries.query import Sharing, Span
from harness.engine.scoring.next_word import WIDTH
from harness.engine.scoring.prefix_sharing_test import tree_fault

log = logging.getLogger(__name__)

SHORT = 64  # tokens; layers that choose what they look at look at more
WORD_COLUMNS = WIDTH * WORD_TOKENS  # fed after a prefix by a search for a word


class Planner:
    """Arranges spans in rows.

    Args:
        forward: the model.
        budget: padded tokens a batch; no tree is longer.
        share: whether prefixes may be shared at all.
    """

    def __init__(self, forward: Forward, budget: int, *, share: bool) -> None:
        self._forward = forward
        self._tested: dict[str, int] = defaultdict(int)  # what has passed up to how many tokens
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
        limit = self._forward.rope_limit
        rows = arrange(spans, self._sharing, limit)
        searched = [s for s, span in enumerate(spans) if span.top]
        if self._sharing is not None:
            used = [
                row for row in rows if row.branches or not row.nodes.keys().isdisjoint(searched)
            ]
            deepest = max((row.depth for row in used), default=0)
            widest = max((len(row) for row in used), default=0)
            if not self._honours(deepest, widest + (WORD_COLUMNS if searched else 0)):
                rows = arrange(spans, None, limit)
        self._notice(max((len(span.inputs) for span in spans), default=0))
        return rows

    def answer_rows(self, spans: Sequence[Span], grown: int, most: int) -> list[TreeRow]:
        """Rows of at most `most` prompts that grow to `grown` tokens; of one each if none share."""
        if self._sharing is not None:
            rows = arrange(spans, replace(self._sharing, max_spans=most), self._forward.rope_limit)
            if self._honours(grown, max((len(row) for row in rows), default=0)):
                return rows
        self._notice(grown)
        rows = [_alone(s, span) for s, span in enumerate(spans)]
        return sorted(rows, key=lambda row: -len(row))

    def _honours(self, length: int, width: int) -> bool:
        """Whether the model is right on rows so large that share prefixes; if not, it never shares.

        Args:
            length: tokens of the longest path, what is fed after kept prefixes included.
            width: tokens of the widest row.
        """
        length = min(length, self._forward.context)
        tested = self._tested
        if length <= tested["length"] and width <= tested["width"]:
            return True
        length, width = max(length, tested["length"]), max(width, tested["width"])
        with torch.inference_mode():
            fault = "" if tested["length"] else tree_fault(self._forward)
            fault = fault or tree_fault(self._forward, [(length, width)])
        if fault:
            self._sharing = None
            log.warning("prefixes are not shared: at %d tokens %s", length, fault)
            return False
        tested["length"], tested["width"] = length, width
        tested["causal"] = max(length, tested["causal"])  # trees are compared in that as well
        return True

    def _notice(self, length: int) -> None:
        """Say so if the model is not causal in rows of so many tokens; a longer test counts."""
        length = min(length, self._forward.context, self._forward.rope_limit or length)
        if length <= max(self._tested["causal"], SHORT):
            return
        self._tested["causal"] = length
        with torch.inference_mode():
            ahead = capabilities.reads_ahead(self._forward, length)
        if ahead:
            log.warning(
                "in rows of %d tokens this model lets tokens depend on later ones, in transformers "
                "itself: its scores of texts so long are not those of a causal language model",
                length,
            )


def _alone(s: int, span: Span) -> TreeRow:
    """A row of one span."""
    [row] = arrange([span], None)
    row.nodes = {s: row.nodes[0]}
    return row
