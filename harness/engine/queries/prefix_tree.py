"""Arrange spans that share prefixes as trees in rows, and rows in batches.

Sorted spans share prefixes with their neighbours. A row is one tree of tokens, laid out flat in
depth-first order. Positions restart at each branch. `ends[j]` is the end of the subtree of token j,
so token i attends to j if and only if j <= i < ends[j]:

    spans  [a b c], [a b d e]       tokens     a b c d e
                                    positions  0 1 2 2 3
                                    ends       5 5 3 5 5

A row without branches needs no mask beyond the causal one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from harness.engine.queries.query import Sharing, Span


@dataclass(slots=True)
class TreeRow:
    """One row of a batch: a path, or a tree with branches.

    `nodes[s]` are the indices in `tokens` at which the output for span s is read.
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
        """Number of tokens of the longest path."""
        return max(self.positions, default=-1) + 1 if self.branches else len(self)

    @property
    def straight(self) -> int:
        """Number of tokens up to the end of the first branch, which form one path."""
        bends = (i for i, position in enumerate(self.positions) if position != i)
        return next(bends, len(self))


def arrange(
    spans: Sequence[Span], sharing: Sharing | None, limit: int | None = None
) -> list[TreeRow]:
    """Arrange distinct spans in rows: trees before paths, longest first.

    Without `sharing`, spans still share a row if each continues the one before, which needs no
    mask. A span longer than `limit` (`Forward.rope_limit`) shares a row only with spans of equal
    length.
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
        reads = len(spans[i].targets) or int(spans[i].top)
        row.nodes[i] = path[len(path) - reads :]
        last = inputs
    return sorted(rows, key=lambda row: (not row.branches, -len(row)))


def _joins(row: TreeRow, length: int, common: int, last: int, sharing: Sharing | None) -> bool:
    """Whether a span joins the row: it continues the last path, or sharing pays."""
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
    """Length of the longest common prefix, by bisection over slices, which compare in C."""
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
    """Group rows in batches of at most `budget` padded tokens.

    A row longer than the budget is a batch of its own. Trees and paths are never mixed, nor rows on
    different sides of `limit`, nor rows beyond it of different lengths: the model would rotate
    their positions differently than alone (`Forward.rope_limit`).
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
    """The property that all rows of a batch share."""
    return row.branches, 0 if limit is None or row.depth <= limit else row.depth
