"""NextWord in this process: the searches of a batch run in step.

`NextTokens` reads the candidate paths of all of them after the batch's prefilled cache, in one
masked forward pass.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from harness.core import Tokens
from harness.engine.model.forward import Forward
from harness.engine.queries.prefix_tree import arrange, batches
from harness.engine.queries.query import Span, SpanScores
from harness.engine.scoring.logprobs import PrefilledBatch, check_finite, score, to_device
from harness.engine.scoring.shared_states import KeptState
from harness.engine.scoring.ties import tie_counts, tied
from harness.engine.scoring.word_search import TOP, Path, WordSearch
from harness.errors import NumericsError


class NextTokens:
    """Finds the most probable tokens after candidate paths of a batch.

    Paths are fed after the batch's cache, or as plain rows with their contexts where they cannot
    follow it. `tokens` is the cost of the calls so far.
    """

    def __init__(
        self,
        forward: Forward,
        spans: Sequence[Span],
        prefilled: PrefilledBatch | KeptState | None,
        budget: int,
    ) -> None:
        self.tokens = Tokens()
        self._forward, self._spans = forward, spans
        self._prefilled, self._budget = prefilled, budget

    def __call__(self, paths: Sequence[tuple[int, Path]]) -> list[Sequence[int]]:
        """Most probable tokens after each (span, path), the best first."""
        best: dict[tuple[int, Path], Sequence[int]] = {}
        branches = [path for path in paths if self._fits_cache(*path)]
        if self._prefilled is not None and branches:
            self.tokens += Tokens(computed=sum(len(p) for _, p in branches), scored=len(branches))
            states = self._branch_states(self._prefilled, branches)
            best.update(zip(branches, self._best(states, branches), strict=True))
        best.update(self._in_plain_rows([path for path in paths if path not in best]))
        return [best[path] for path in paths]

    def _branch_states(
        self, prefilled: PrefilledBatch | KeptState, branches: Sequence[tuple[int, Path]]
    ) -> Tensor:
        """Hidden states (N, H) of the last tokens of branches."""
        if isinstance(prefilled, KeptState):
            return prefilled.branch_states([path for _, path in branches])
        return branch_states(self._forward, prefilled, branches)

    def _best(self, states: Tensor, branches: Sequence[tuple[int, Path]]) -> list[list[int]]:
        """Most probable tokens by the hidden states (N, H) of branches."""
        chunks = torch.split(states, self._forward.chunk)
        found: list[Tensor] = []  # (N, K + 1): ids, and whether the highest logit is finite
        ties = torch.zeros((), dtype=torch.long, device=states.device)
        for chunk in chunks:
            logits = self._forward.head(chunk)
            values, ids = logits.topk(min(TOP, logits.shape[1]), dim=-1)
            found.append(torch.cat([ids, values[:, :1].isfinite()], dim=-1))
            ties += tied(logits)
        table = torch.cat(found)
        *flat, tie_count = torch.cat([table.flatten(), ties[None]]).tolist()  # the one copy back
        self.tokens += tie_counts([len(chunk) for chunk in chunks], tie_count)
        rows = [flat[i : i + table.shape[1]] for i in range(0, len(flat), table.shape[1])]
        for (s, _), row in zip(branches, rows, strict=True):
            if not row[-1]:
                check_finite(math.nan, self._spans[s])
        return [row[:-1] for row in rows]

    def _fits_cache(self, s: int, path: Path) -> bool:
        """Whether a path may follow the cached keys, which were rotated for the span's length."""
        limit = self._forward.rope_limit
        cached = self._prefilled is not None and s in self._prefilled
        return cached and (limit is None or len(self._spans[s].inputs) + len(path) <= limit)

    def _in_plain_rows(
        self, paths: Sequence[tuple[int, Path]]
    ) -> dict[tuple[int, Path], Sequence[int]]:
        """The same from plain rows of contexts with their paths."""
        plain = [Span((*self._spans[s].inputs, *path), (), top=True) for s, path in paths]
        self.tokens += Tokens(computed=sum(len(s.inputs) for s in plain), scored=len(plain))
        limit = self._forward.rope_limit
        scores: dict[int, SpanScores] = {}
        for batch in batches(arrange(plain, None, limit), self._budget, limit):
            try:
                found, _, ties = score(self._forward, batch, plain)
            except NumericsError as error:
                error.query = self._spans[paths[plain.index(error.query)][0]]
                raise
            scores.update(found)
            self.tokens += ties
        return {path: scores[k].top for k, path in enumerate(paths)}


def run_searches(searches: Sequence[tuple[int, WordSearch]], next_tokens: NextTokens) -> None:
    """Run searches, given with the spans of their contexts, in step until all have a result."""
    while any(search.open_paths() for _, search in searches):
        open_paths = ((s, path) for s, search in searches for path in search.open_paths())
        paths = list(dict.fromkeys(open_paths))
        following = dict(zip(paths, next_tokens(paths), strict=True))
        for s, search in searches:
            for path in search.open_paths():
                search.extend(path, following[s, path])


def branch_states(
    forward: Forward, prefilled: PrefilledBatch, branches: Sequence[tuple[int, Path]]
) -> Tensor:
    """Hidden states (N, H) of the last tokens of branches that are fed after a prefilled batch.

    Args:
        forward: the model.
        prefilled: B rows of T tokens. Rows without a branch are dropped for good; the cache of the
            others is cropped back, so that the next call may feed them again.
        branches: (span, path): `path` continues the last input of `span`.
    """
    prefilled.keep_rows_of({span for span, _ in branches})
    rows, past = prefilled.ends.shape
    # Per row: (token, node of the context, depth in the branch, branch)
    fed: list[list[tuple[int, int, int, int]]] = [[] for _ in range(rows)]
    reads: list[tuple[int, int]] = []
    for b, (span, path) in enumerate(branches):
        row, node = prefilled.last_nodes[span]
        fed[row] += [(token, node, depth, b) for depth, token in enumerate(path)]
        reads.append((row, len(fed[row]) - 1))
    width = max(len(tokens) for tokens in fed)
    padding = (0, 0, 0, -1)
    table = np.array([[*tokens, *[padding] * (width - len(tokens))] for tokens in fed], np.int64)
    flat_reads = np.array([row * width + m for row, m in reads], np.int64)
    d_table, d_reads = to_device([table, flat_reads], forward.device)
    ids, nodes, depth, branch = d_table.unbind(-1)  # (B, M) each

    columns = torch.arange(past, device=ids.device)
    ends = prefilled.ends[:, None, :]
    on_path = (columns <= nodes[:, :, None]) & (nodes[:, :, None] < ends)  # (B, M, T)
    same = (branch[:, :, None] == branch[:, None, :]) & (branch[:, None, :] >= 0)
    in_branch = same & (depth[:, :, None] >= depth[:, None, :])  # (B, M, M)
    allowed = torch.cat([on_path, in_branch], dim=2)
    positions = prefilled.positions.gather(1, nodes) + 1 + depth
    key_positions = torch.cat([prefilled.positions, positions], dim=1)
    states = forward.trunk(
        ids,
        position_ids=positions,
        attention_mask=forward.mask(allowed, positions, key_positions),
        past_key_values=prefilled.cache,
    )
    prefilled.cache.crop(-width)  # negative: remove the last columns
    return states.reshape(-1, states.shape[-1])[d_reads]
