"""Score spans that share a prefix by copying the model's state after it.

State-space, linear-attention and hybrid models cannot mask branches out of a row, and some models
of attention take no mask that could. All of them can go on from a copy of what they keep. Right
padding does no harm: only outputs before it are read, and the copies are thrown away.

Letters: P tokens of a prefix, R rests of at most W tokens, N states that are read, H their width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.core import Tokens
from harness.engine.model.caches import repeated, size_in_bytes
from harness.engine.model.forward import Forward
from harness.engine.queries.prefix_groups import GroupRow
from harness.engine.queries.query import Span, SpanScores
from harness.engine.scoring.logprobs import Ints, plan_reads, scores_of, to_device
from harness.engine.scoring.word_search import Path


@dataclass(frozen=True, slots=True)
class StateMethod:
    """How tokens are fed after a copied state; `verify_states` finds a way that is correct."""

    at_once: bool = True  # several per pass; if not, one, as some models have no state in between
    windows: bool = True  # the cache may drop what lies before an attention window
    positions: bool = True  # position ids are passed; if not, the model counts for itself

    def new_cache(self, forward: Forward) -> Any:
        """An empty cache for a prefix."""
        return forward.empty_cache() if self.windows else forward.full_cache()

    def feed(self, forward: Forward, cache: Any, ids: Tensor, start: int) -> Tensor:
        """Hidden states (R, W, H) of `ids` (R, W), fed after `start` tokens of R rows."""
        if self.at_once:
            return self._pass(forward, cache, ids, start)
        steps = [
            self._pass(forward, cache, ids[:, k : k + 1], start + k) for k in range(ids.shape[1])
        ]
        return torch.cat(steps, dim=1)

    def _pass(self, forward: Forward, cache: Any, ids: Tensor, start: int) -> Tensor:
        positions: Tensor | None = None
        if self.positions and "position_ids" in forward.parameters:
            ends = start, start + ids.shape[1]
            positions = torch.arange(*ends, device=ids.device).expand(len(ids), -1)
        return forward.trunk(ids, past_key_values=cache, position_ids=positions)


@dataclass(frozen=True, slots=True)
class KeptState:
    """What a model keeps after the `length` tokens of a span, so that paths can be fed after it."""

    forward: Forward
    method: StateMethod
    span: int
    cache: Any
    length: int

    def __contains__(self, span: int) -> bool:
        return span == self.span

    def branch_states(self, paths: Sequence[Path]) -> Tensor:
        """Hidden states (N, H) of the last tokens of paths that continue the span."""
        table = rest_table(self.forward, paths, self.length)
        ends = np.array([len(path) - 1 for path in paths])
        ids, last = to_device([table, ends], self.forward.device)
        found = feed_copies(self.forward, self.method, self.cache, ids, self.length)
        return found[torch.arange(len(paths), device=last.device), last]


class SharedStates:
    """Scores groups with one method.

    Args:
        forward: the model.
        cache_bytes: memory of the copies that exist at the same time.
    """

    def __init__(self, forward: Forward, cache_bytes: int) -> None:
        self._forward, self._cache_bytes = forward, cache_bytes
        self._most: int | None = None  # copies at once, after memory ran out
        self._copies = 1  # of the last group

    def score(
        self, row: GroupRow, spans: Sequence[Span], method: StateMethod
    ) -> tuple[dict[int, SpanScores], KeptState | None, Tokens]:
        """Scores of every span of a group; the state after one whose `top` is set; the ties seen.

        Raises:
            NumericsError: the most probable tokens were asked for, and a logit is not a number.
        """
        order = [(0, s) for s in row.nodes]
        reads = plan_reads([row], spans, order)
        on_device = to_device([reads.at, reads.targets, reads.tops], self._forward.device)
        states, cache = self.states(row, reads.states, method)
        scores, ties = scores_of(self._forward, states, reads, on_device, spans)
        searched = [s for s in row.nodes if spans[s].top]
        if not searched:
            return scores, None, ties
        return scores, KeptState(self._forward, method, searched[0], cache, row.prefix), ties

    def states(self, row: GroupRow, reads: Ints, method: StateMethod) -> tuple[Tensor, Any]:
        """Hidden states (N, H) at the columns `reads`, ascending; the cache after the prefix."""
        forward, start, self._copies = self._forward, row.prefix, 1
        inside, after = reads[reads < start], reads[reads >= start]
        rests = [row.tokens[begin:end] for begin, end in row.rests]
        table = rest_table(forward, rests, start)
        begins = np.array([begin for begin, _ in row.rests], np.int64)
        rest = np.searchsorted(begins, after, side="right") - 1
        prefix = np.array([row.tokens[:start]])
        some = inside if inside.size else np.array([start - 1])
        arrays = [prefix, table, some, rest, after - begins[rest]]
        ids, rest_ids, d_some, d_rest, d_column = to_device(arrays, forward.device)
        cache = method.new_cache(forward)
        found = [forward.trunk(ids, d_some, past_key_values=cache)[0, d_some[: inside.size]]]
        copies = self._copies_at_once(cache, len(rests))
        for first in range(0, len(rests), copies):
            part = rest_ids[first : first + copies]
            fed = feed_copies(forward, method, cache, part, start)
            low, high = np.searchsorted(rest, [first, first + copies])
            found.append(fed[d_rest[low:high] - first, d_column[low:high]])
        return torch.cat(found), cache

    def halve(self) -> bool:
        """Make half as many copies at once; whether there were several."""
        self._most, several = max(self._copies // 2, 1), self._copies > 1
        return several

    def _copies_at_once(self, cache: Any, rests: int) -> int:
        fitting = max(1, self._cache_bytes // max(size_in_bytes(cache), 1))
        self._copies = max(1, min(rests, fitting, self._most or rests))
        return self._copies


def rest_table(forward: Forward, rests: Sequence[Sequence[int]], start: int) -> Ints:
    """Token ids (R, W) of what is fed after `start` tokens, padded on the right.

    To at least two tokens: many models compute a single one differently, and not all do it right.
    """
    longest = max((len(rest) for rest in rests), default=0)
    width = max(longest, min(2, forward.context - start))
    table = np.zeros((len(rests), width), np.int64)
    for r, rest in enumerate(rests):
        table[r, : len(rest)] = rest
    return table


def feed_copies(
    forward: Forward, method: StateMethod, cache: Any, ids: Tensor, start: int
) -> Tensor:
    """Hidden states (R, W, H) of `ids` (R, W), fed after copies of a cache of one row."""
    rows = torch.zeros(len(ids), dtype=torch.long, device=ids.device)
    return method.feed(forward, repeated(cache, rows), ids, start)
