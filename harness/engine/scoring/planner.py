"""Arrange spans in rows that share prefixes, as far as the model passes tests on such rows.

After a model fails a test at some length, nothing is shared any more, and a warning says so.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from harness.engine.model import capabilities
from harness.engine.model.forward import Forward
from harness.engine.queries.encode import WORD_TOKENS
from harness.engine.queries.prefix_tree import TreeRow, arrange
from harness.engine.queries.query import Sharing, Span
from harness.engine.scoring.verify_prefix_sharing import SMALL_TREES, tree_fault
from harness.engine.scoring.word_search import CANDIDATES

log = logging.getLogger(__name__)

# Shorter rows need no test of causality: layers that choose what they attend to choose more.
MIN_CAUSAL_TEST = 64
WORD_COLUMNS = CANDIDATES * WORD_TOKENS  # fed after a prefix in the search for a word


class Planner:
    """Arranges spans in rows; no tree is longer than `budget` padded tokens.

    Attributes:
        sharing: how prefixes are shared; None if they are not.
    """

    def __init__(self, forward: Forward, budget: int, *, share: bool) -> None:
        self.sharing: Sharing | None = None
        self._forward = forward
        self._verified_length = self._verified_width = 0  # of rows that share prefixes
        self._causal_length = MIN_CAUSAL_TEST  # causality has been tested up to this length
        if share:
            self.sharing, reason = forward.sharing(max(budget, 1))
            if reason:
                log.warning("prefixes are not shared: %s", reason)

    def rows(self, spans: Sequence[Span]) -> list[TreeRow]:
        """Rows to be scored."""
        limit = self._forward.rope_limit
        rows = arrange(spans, self.sharing, limit)
        if self.sharing is not None:
            searched = {s for s, span in enumerate(spans) if span.top}
            shared = [row for row in rows if row.branches or not searched.isdisjoint(row.nodes)]
            depth = max((row.depth for row in shared), default=0)
            width = max((len(row) for row in shared), default=0)
            if not self._verify(depth, width + (WORD_COLUMNS if searched else 0)):
                rows = arrange(spans, None, limit)
        self._check_causal(max((len(span.inputs) for span in spans), default=0))
        return rows

    def prompt_rows(self, prompts: Sequence[Span], longest: int, max_prompts: int) -> list[TreeRow]:
        """Rows of distinct prompts for generation, one prompt per row if prefixes are not shared.

        `longest` is in tokens, of a prompt with its completion.
        """
        if self.sharing is not None:
            sharing = replace(self.sharing, max_spans=max_prompts)
            rows = arrange(prompts, sharing, self._forward.rope_limit)
            if self._verify(longest, max((len(row) for row in rows), default=0)):
                return rows
        self._check_causal(longest)
        rows = []
        for s, prompt in enumerate(prompts):
            [row] = arrange([prompt], None)
            row.nodes = {s: row.nodes[0]}
            rows.append(row)
        return sorted(rows, key=lambda row: -len(row))

    def _verify(self, length: int, width: int) -> bool:
        """Test rows that share prefixes at this size; after a failure nothing is shared any more.

        `length` is that of the longest path, including what is fed after kept prefixes.
        """
        length = min(length, self._forward.context)
        if length <= self._verified_length and width <= self._verified_width:
            return True
        length, width = max(length, self._verified_length), max(width, self._verified_width)
        with self._forward.inference():
            fault = "" if self._verified_length else self._tree_fault(SMALL_TREES)
            fault = fault or self._tree_fault([(length, width)])
        if fault:
            self.sharing = None
            log.warning("prefixes are not shared: at %d tokens %s", length, fault)
            return False
        self._verified_length, self._verified_width = length, width
        self._causal_length = max(length, self._causal_length)  # the test covers that as well
        return True

    def _tree_fault(self, sizes: Sequence[tuple[int, int]]) -> str:
        name = f"trees of (path, columns) {[*sizes]}"
        return self._forward.self_tests.get(name, lambda: tree_fault(self._forward, sizes))

    def _check_causal(self, length: int) -> None:
        """Warn if the model is not causal in rows of this length."""
        length = min(length, self._forward.context, self._forward.rope_limit or length)
        if length <= self._causal_length:
            return
        self._causal_length = length
        with self._forward.inference():
            fault = self._forward.self_tests.get(
                f"causal in {length} tokens",
                lambda: capabilities.causal_fault(self._forward, length),
            )
        if fault:
            log.warning(
                "in rows of %d tokens this model lets tokens depend on later ones, in transformers "
                "itself: its scores of texts so long are not those of a causal language model",
                length,
            )
