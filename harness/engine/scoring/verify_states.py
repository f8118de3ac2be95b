"""Choose a way of feeding tokens after a copied state that agrees with the model's own full pass.

Models differ in what they make of several tokens after a state, of position ids, and in what their
cache keeps; some have a state that is not all in their cache. Before a method is used, a made-up
prefix with several rests is fed with it, and the log-probabilities of every next token are compared
with those of full passes.
"""

import logging
from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

from harness.engine.checkpoint.own.adapter import OwnModel
from harness.engine.model.forward import Forward
from harness.engine.model.out_of_memory import is_out_of_memory
from harness.engine.model.self_test import (
    Tolerance,
    failure,
    full_pass,
    largest,
    largest_difference,
    logprobs,
    made_up_tokens,
)
from harness.engine.model.self_test_results import NotStored
from harness.engine.queries.prefix_groups import GroupCost, GroupRow, arrange_groups
from harness.engine.queries.query import Span
from harness.engine.scoring.shared_states import SharedStates, StateMethod

log = logging.getLogger(__name__)

METHODS = tuple(StateMethod(*flags) for flags in product((True, False), repeat=3))  # best first
SMALL = (33, 5)  # tokens of a prefix and of its longest rest that show most errors at little cost
# Relative to the largest log-probability. Rounding makes 2e-6, in gated delta rules 3e-5, and
# 1e-2 in bfloat16.
TOLERANCE = Tolerance(1e-4, 3e-2)
_ALWAYS_SHARE = GroupCost(pass_cost=0, at_once=True, max_rests=1 << 20, keep_searched=False)


class StateMethods:
    """Chooses how the states of one model are copied.

    Attributes:
        fault: why they cannot be, as far as that is known.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        possible = forward.takes_cache and not isinstance(forward.model, OwnModel)
        counts = (True, False) if "position_ids" in forward.parameters else (True,)
        self._methods = [m for m in METHODS if possible and m.positions in counts]
        self.fault = "" if possible else "the model takes no cache"
        self._verified: tuple[int, int] = (0, 0)  # the largest sizes that the first method passed

    def method(self, prefix: int = 0, rest: int = 0) -> StateMethod | None:
        """The first method that is correct for a prefix and rests of so many tokens, if any is."""
        while self._methods:
            sizes = max(prefix, SMALL[0]), max(rest, SMALL[1])
            if self._passes(SMALL) and self._passes(sizes):
                return self._methods[0]
            self._methods.pop(0)
            self._verified = (0, 0)
        return None

    def _passes(self, sizes: tuple[int, int]) -> bool:
        if all(size <= verified for size, verified in zip(sizes, self._verified, strict=True)):
            return True
        prefix, rest = map(max, sizes, self._verified)
        method = self._methods[0]
        fault = self._forward.self_tests.get(
            f"states after {prefix} tokens, {rest} more, {method}",
            partial(self._test, method, prefix, rest),
        )
        log.debug("%s after %d tokens: %s", method, prefix, fault or "passes")
        if fault:
            self.fault = self.fault or fault  # of the method that is preferred
        else:
            self._verified = prefix, rest
        return not fault

    def _test(self, method: StateMethod, prefix: int, rest: int) -> str:
        """How rests fed after copies differ from full passes; empty if they do not."""
        spans = _spans(self._forward, prefix, rest)
        with self._forward.inference():
            begins = [len(span.inputs) - len(span.targets) for span in spans]
            expected = full_pass(self._forward, [span.inputs for span in spans], begins)
            try:
                fed = _after_copies(self._forward, method, spans)
            except Exception as error:  # a model's own code may raise anything
                if is_out_of_memory(error):
                    raise
                return NotStored(failure(error))
        difference = largest_difference(fed, expected)
        if difference <= TOLERANCE.of(self._forward) * max(1.0, largest(expected)):
            return ""
        return f"after a copied state, log-probabilities move by {difference:.1g} nats"


def _spans(forward: Forward, prefix: int, rest: int) -> list[Span]:
    """Made-up rests of different lengths after one prefix, read at its end and after each token."""
    limit = min(forward.context, forward.rope_limit or forward.context)
    rest = max(1, min(rest, limit - 1))
    prefix = max(1, min(prefix, limit - rest))
    tokens = made_up_tokens(forward, prefix)
    spans: list[Span] = []
    for k, length in enumerate((rest, (rest + 1) // 2, 1)):
        own = made_up_tokens(forward, length, seed=k + 1)
        spans.append(Span((*tokens, *own), (0,) * (length + 1)))
    return spans


def _after_copies(forward: Forward, method: StateMethod, spans: Sequence[Span]) -> Tensor:
    """Log-probabilities (N, V) at the targets of each span, from copies of the common state."""
    [row] = arrange_groups(spans, _ALWAYS_SHARE)
    assert isinstance(row, GroupRow), "spans with a common prefix form a group"
    reads = np.unique(np.concatenate([row.nodes[s] for s in range(len(spans))]))
    states, _ = SharedStates(forward, 1 << 40).states(row, reads, method)
    at = np.concatenate([np.searchsorted(reads, row.nodes[s]) for s in range(len(spans))])
    return logprobs(forward, states[torch.from_numpy(at).to(states.device)])
