"""Plan generation: which prompts share a row, and which queries continue each prompt."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.engine.queries.prefix_tree import TreeRow, arrange
from harness.engine.queries.query import GenerationQuery, Span

# Prompts per row: every completion attends to all columns of its row, masked or not.
MAX_PROMPTS = 32

ArrangePrompts = Callable[[Sequence[Span], int], list[TreeRow]]
"""(prompts, tokens of the longest prompt with its completion) -> rows."""


class PromptRow(NamedTuple):
    """One row of prompts, and the queries that continue them."""

    row: TreeRow
    queries: Mapping[int, Sequence[GenerationQuery]]  # per span of the row; their seeds differ
    beyond_rope_limit: bool = False

    def all_queries(self) -> list[GenerationQuery]:
        """The queries in the order of the row's prompts."""
        return [query for s in self.row.nodes for query in self.queries[s]]

    def ends(self) -> list[int]:
        """The column of the last token of each query's prompt, in the order of `all_queries`."""
        return [nodes[-1] for s, nodes in self.row.nodes.items() for _ in self.queries[s]]

    def paths(self) -> list[NDArray[np.int64]]:
        """All columns of each query's prompt, likewise."""
        subtree_ends = np.array(self.row.ends)
        return [np.flatnonzero(subtree_ends[: end + 1] > end) for end in self.ends()]


def plan_generation(
    queries: Sequence[GenerationQuery], arrange_prompts: ArrangePrompts, rope_limit: int | None
) -> list[PromptRow]:
    """Rows for the prompts of distinct queries; those that grow beyond the RoPE limit are alone."""
    within, beyond = split_by_rope_limit(queries, rope_limit)
    planned: list[PromptRow] = []
    if within:
        prompts, by_span = _by_prompt(within)
        for row in arrange_prompts(prompts, longest(within)):
            planned.append(PromptRow(row, {s: by_span[s] for s in row.nodes}))
    for prompt, same_prompt in zip(*_by_prompt(beyond), strict=True):
        [row] = arrange([prompt], None)
        planned.append(PromptRow(row, {0: same_prompt}, beyond_rope_limit=True))
    return planned


def split_by_rope_limit(
    queries: Sequence[GenerationQuery], limit: int | None
) -> tuple[list[GenerationQuery], list[GenerationQuery]]:
    """Queries within the RoPE limit to their last token, and those that grow beyond it.

    The KV cache of a completion that crosses the limit would hold keys that a full pass rotates
    differently.
    """
    within: list[GenerationQuery] = []
    beyond: list[GenerationQuery] = []
    for query in queries:
        fits = limit is None or len(query.prompt) + query.max_new_tokens - 1 <= limit
        (within if fits else beyond).append(query)
    return within, beyond


def longest(queries: Sequence[GenerationQuery]) -> int:
    """Tokens of the longest prompt with its completion."""
    return max(len(query.prompt) + query.max_new_tokens for query in queries)


def _by_prompt(
    queries: Sequence[GenerationQuery],
) -> tuple[list[Span], list[list[GenerationQuery]]]:
    """Distinct prompts, and the queries of each."""
    by_prompt: dict[Span, list[GenerationQuery]] = {}
    for query in queries:
        by_prompt.setdefault(query.span, []).append(query)
    return list(by_prompt), list(by_prompt.values())
