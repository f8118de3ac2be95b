"""Spans -> rows -> batches. Plain integers, no tensors.

Sorted spans share prefixes with their neighbours. A row is one tree of tokens laid out flat in
depth-first order: positions restart at each branch, and `ends` says where the subtree of a
token ends, so that a token sees j exactly if j <= i < ends[j]:

    spans  [a b c], [a b d e]       tokens     a b c d e
                                    positions  0 1 2 2 3
                                    ends       5 5 3 5 5

A row without branches needs no mask: the plain causal path serves it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from harness.engine.queries.query import Sharing, Span


@dataclass(slots=True)
class TreeRow:
    """One row of a batch: a path, or a tree where spans part.

    `nodes[s]` are the places in `tokens` of the inputs of span s that are read.
    """

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    nodes: dict[int, list[int]] = field(default_factory=dict)
    branches: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def depth(self) -> int:
        """How many tokens its longest path has."""
        return max(self.positions, default=-1) + 1 if self.branches else len(self)

    @property
    def straight(self) -> int:
        """How many tokens at the beginning are one path: all up to the end of the first branch."""
        bends = (i for i, position in enumerate(self.positions) if position != i)
        return next(bends, len(self))


def arrange(
    spans: Sequence[Span], sharing: Sharing | None, limit: int | None = None
) -> list[TreeRow]:
    """Rows for distinct spans, longest first, trees before paths.

    Without `sharing` a row still serves several spans where each continues the one before, for
    that needs no mask.

    Args:
        spans: what is fed, and where it is read.
        sharing: when spans may share a row.
        limit: spans longer than this share a row with none of another length (`rope_limit`).
    """
    order = sorted(range(len(spans)), key=lambda i: spans[i].inputs)
    rows: list[TreeRow] = []
    path: list[int] = []  # nodes of the current row from its root to the last span's end
    last: tuple[int, ...] = ()
    for i in order:
        inputs = spans[i].inputs
        common = common_prefix(last, inputs) if rows else 0
        ends = len(last), len(inputs)
        apart = limit is not None and max(ends) > limit and len({common, *ends}) > 1
        if not rows or apart or not _joins(rows[-1], len(inputs), common, len(last), sharing):
            rows.append(TreeRow())
            path, common = [], 0
        row = rows[-1]
        row.branches |= common < len(path)
        del path[common:]
        for token in inputs[common:]:
            path.append(len(row.tokens))
            row.tokens.append(token)
            row.positions.append(len(path) - 1)
            row.ends.append(0)
        for node in path:
            row.ends[node] = len(row.tokens)
        row.nodes[i] = _read_nodes(spans[i], path)
        last = inputs
    return sorted(rows, key=lambda row: (not row.branches, -len(row)))


def _read_nodes(span: Span, path: list[int]) -> list[int]:
    if span.top and not span.targets:
        return path[-1:]
    return path[len(path) - len(span.targets) :]


def _joins(row: TreeRow, length: int, common: int, last: int, sharing: Sharing | None) -> bool:
    """Whether a span goes into the row: it prolongs the last path, or sharing pays."""
    if common == 0 or (sharing and sharing.max_spans and len(row.nodes) >= sharing.max_spans):
        return False
    if common == last and not row.branches:
        return True
    if sharing is None:
        return False
    joined = len(row) + length - common
    extra_pairs = joined**2 - len(row) ** 2 - length**2
    return joined <= sharing.max_row and common > sharing.pair_cost * extra_pairs


def common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Length of the longest common prefix, by bisection over slices (they compare in C)."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # invariant: a[:low] == b[:low], a[:high] != b[:high]
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def batches(
    rows: Sequence[TreeRow], budget: int, limit: int | None = None
) -> Iterator[list[TreeRow]]:
    """Rows in batches of at most `budget` padded tokens; trees and paths never mix.

    A row longer than the budget is a batch by itself. Nor do rows mix that are on different sides
    of `limit`, or beyond it and of different lengths: the model would rotate their positions
    otherwise than alone (`Forward.rope_limit`).
    """
    batch: list[TreeRow] = []
    for row in rows:
        longest = max([len(row), *(len(r) for r in batch)])
        full = longest * (len(batch) + 1) > budget
        if batch and (full or _kind(batch[0], limit) != _kind(row, limit)):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _kind(row: TreeRow, limit: int | None) -> tuple[bool, int]:
    """What rows of one batch have in common."""
    return row.branches, 0 if limit is None or row.depth <= limit else row.depth
