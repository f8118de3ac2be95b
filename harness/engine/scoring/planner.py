"""Arrange spans in rows that share prefixes, as far as the model passes tests on such rows.

After a model fails a test of trees at some length, groups share copies of its state; if it fails
that too, nothing is shared any more, and a warning says so.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from harness.engine.model import capabilities
from harness.engine.model.forward import Forward
from harness.engine.queries.encode import WORD_TOKENS
from harness.engine.queries.prefix_groups import GroupCost, GroupRow, arrange_groups
from harness.engine.queries.prefix_tree import TreeRow, arrange
from harness.engine.queries.query import Sharing, Span
from harness.engine.scoring.shared_states import StateMethod
from harness.engine.scoring.verify_prefix_sharing import SMALL_TREES, tree_fault
from harness.engine.scoring.verify_states import StateMethods
from harness.engine.scoring.word_search import CANDIDATES

log = logging.getLogger(__name__)

# Shorter rows need no test of causality: layers that choose what they attend to choose more.
MIN_CAUSAL_TEST = 64
WORD_COLUMNS = CANDIDATES * WORD_TOKENS  # fed after a prefix in the search for a word
_CPU_PASS, _ACCELERATOR_PASS = 16, 1024


def pass_cost(device: torch.device) -> int:
    """Tokens of a full batch that cost as much as a pass over a few.

    An accelerator computes thousands in the time in which the operators of a pass are started.
    """
    return _CPU_PASS if device.type == "cpu" else _ACCELERATOR_PASS


class Planner:
    """Arranges spans in rows; no tree is longer than `budget` padded tokens.

    Attributes:
        sharing: how prefixes are shared in trees; None if they are not.
        state_method: how the groups arranged last are fed; None if there were none.
    """

    def __init__(self, forward: Forward, budget: int, *, share: bool) -> None:
        self.sharing: Sharing | None = None
        self.state_method: StateMethod | None = None
        self._forward, self._budget = forward, max(budget, 1)
        self._states = StateMethods(forward) if share else None
        self._reason = ""  # why there are no trees; a warning has it, unless states are copied
        self._verified_length = self._verified_width = 0  # of rows that share prefixes
        self._causal_length = MIN_CAUSAL_TEST  # causality has been tested up to this length
        if share:
            self.sharing, reason = forward.sharing(self._budget)
            if reason:
                self._no_trees(reason)

    @property
    def copies_states(self) -> bool:
        """Whether groups share copies of the model's state; a model that fails the test stops."""
        return self.sharing is None and self._states is not None

    def rows(self, spans: Sequence[Span]) -> list[TreeRow]:
        """Rows to be scored."""
        rows = self._trees(spans) or self._groups(spans)
        self._check_causal(max((len(span.inputs) for span in spans), default=0))
        return rows

    def _trees(self, spans: Sequence[Span]) -> list[TreeRow]:
        """Trees and paths; none if the model fails the test."""
        if self.sharing is None:
            return []
        rows = arrange(spans, self.sharing, self._forward.rope_limit)
        searched = {s for s, span in enumerate(spans) if span.top}
        shared = [row for row in rows if row.branches or not searched.isdisjoint(row.nodes)]
        depth = max((row.depth for row in shared), default=0)
        width = max((len(row) for row in shared), default=0)
        passes = self._verify(depth, width + (WORD_COLUMNS if searched else 0))
        return rows if passes else []

    def _groups(self, spans: Sequence[Span]) -> list[TreeRow]:
        """Groups that share copies of the model's state, where that pays, and paths."""
        limit = self._forward.rope_limit
        at_once = True
        while self._states is not None:
            rows = arrange_groups(spans, self._group_cost(at_once), limit)
            groups = [row for row in rows if isinstance(row, GroupRow)]
            if not groups:
                return rows
            rests = [end - begin for group in groups for begin, end in group.rests]
            rest = max([*rests, *(WORD_TOKENS for span in spans if span.top)], default=0)
            self.state_method = self._states.method(max(row.prefix for row in groups), rest)
            if self.state_method is None:
                log.warning("prefixes are not shared: %s; %s", self._reason, self._states.fault)
                self._states = None
            elif self.state_method.at_once == at_once:
                return rows
            else:
                at_once = False
        return arrange(spans, None, limit)

    def _group_cost(self, at_once: bool) -> GroupCost:
        device = self._forward.device
        on_cpu = device.type == "cpu"
        return GroupCost(pass_cost(device), at_once, self._budget, keep_searched=on_cpu)

    def prompt_rows(self, prompts: Sequence[Span], longest: int, max_prompts: int) -> list[TreeRow]:
        """Rows of distinct prompts for generation, one prompt per row if prefixes are not shared.

        `longest` is in tokens, of a prompt with its completion.
        """
        if self.sharing is not None:
            sharing = replace(self.sharing, max_spans=max_prompts)
            rows = arrange(prompts, sharing, self._forward.rope_limit)
            if self._verify(longest, max((len(row) for row in rows), default=0)):
                return rows
        if self._states is not None and self._reason:
            log.warning("prompts are prefilled one by one: %s", self._reason)
            self._reason = ""
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
            self._no_trees(f"at {length} tokens {fault}")
            return False
        self._verified_length, self._verified_width = length, width
        self._causal_length = max(length, self._causal_length)  # the test covers that as well
        return True

    def _no_trees(self, reason: str) -> None:
        """Give trees up; say so if states cannot be copied instead."""
        self.sharing, self._reason = None, reason
        if self._states is not None and not self._states.fault:
            log.debug("prefixes are shared by copies of the model's state: %s", reason)
            return
        log.warning("prefixes are not shared: %s", reason)
        self._states = None

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
