"""Arrange spans that share a prefix in groups, for models whose state after it can be copied.

A group is a row of two levels: the common prefix of its spans, and what follows it in each:

    spans  [a b c], [a b d e], [a b]     tokens     a b c d e
                                         prefix     2
                                         rests      [2, 3), [3, 5)

The prefix is fed once. Its state is copied for each rest, and the rests are fed side by side.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from harness.engine.queries.prefix_tree import TreeRow, arrange, common_prefix
from harness.engine.queries.query import Span


@dataclass(slots=True)
class GroupRow(TreeRow):
    """One group; `rests` are the columns [begin, end) of what follows the prefix."""

    prefix: int = 0  # tokens
    rests: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GroupCost:
    """What a group costs beside separate rows, in tokens of a full batch.

    `pass_cost` is that of one more pass, however few tokens it feeds.
    """

    pass_cost: int
    at_once: bool  # rests are fed in one pass; if not, one token of each per pass
    max_rests: int  # padded tokens of a group's rests
    keep_searched: bool  # whether to keep the state after spans whose next word is searched for

    def saved(self, prefix: int, rests: Sequence[int]) -> int:
        """Tokens that a group of spans saves; negative where it costs more than it saves.

        `rests` are the lengths of what follows the prefix in each span.
        """
        longest, count = max(rests), len(rests)
        passes = 1 + (min(longest, 1) if self.at_once else longest)
        padding = longest * count - sum(rests)
        return prefix * (count - 1) - padding - passes * self.pass_cost


@dataclass(slots=True)
class _Plan:
    """Consecutive sorted paths with a common prefix, and the groups of them that save most."""

    prefix: int
    paths: list[TreeRow] = field(default_factory=list)
    saved: int = 0
    groups: list[tuple[int, list[TreeRow]]] = field(default_factory=list)  # prefix, paths

    def add(self, part: "_Plan") -> None:
        """Append a part, whose paths may have more in common."""
        self.paths += part.paths
        self.saved += part.saved
        self.groups += part.groups

    def settle(self, cost: GroupCost) -> None:
        """Group all paths by the prefix instead, if that saves more than the groups of parts."""
        rests = [len(path) - self.prefix for path in self.paths]
        size = max(2, cost.max_rests // max(1, *rests))
        parts = [self.paths[begin : begin + size] for begin in range(0, len(rests), size)]
        values = [cost.saved(self.prefix, [len(p) - self.prefix for p in part]) for part in parts]
        grouped = [(v, part) for v, part in zip(values, parts, strict=True) if v > 0]
        if (saved := sum(value for value, _ in grouped)) > self.saved:
            self.saved, self.groups = saved, [(self.prefix, part) for _, part in grouped]


def arrange_groups(
    spans: Sequence[Span], cost: GroupCost, limit: int | None = None
) -> list[TreeRow]:
    """Arrange distinct spans in groups where that pays, the others in paths; longest first.

    A span longer than `limit` (`Forward.rope_limit`) is never in a group. One whose next word is
    searched for is a group of its own, all of it prefix, or a path.
    """
    within = [s for s, span in enumerate(spans) if limit is None or len(span.inputs) <= limit]
    kept = {s for s in within if spans[s].top and cost.keep_searched}
    groups = [_kept_row(spans, s) for s in kept]
    paths = _arranged(spans, kept, limit)
    shared = [
        path
        for path in paths
        if not any(spans[s].top for s in path.nodes) and (limit is None or len(path) <= limit)
    ]
    planned = _plan(sorted(shared, key=lambda row: row.tokens), cost)
    groups += [_group_row(prefix, part) for prefix, part in planned]
    grouped = {id(path) for _, part in planned for path in part}
    left = [path for path in paths if id(path) not in grouped]
    return [*sorted(groups, key=lambda row: -len(row)), *left]


def _plan(paths: Sequence[TreeRow], cost: GroupCost) -> list[tuple[int, list[TreeRow]]]:
    """The groups of sorted paths, each with its prefix, that save most.

    A stack has the parts that are still growing, of longer and longer prefixes.
    """
    stack = [_Plan(0)]
    for i, path in enumerate(paths):
        part = _Plan(len(path), [path])
        common = _common(path, paths[i + 1]) if i + 1 < len(paths) else 0
        while stack[-1].prefix > common:
            stack[-1].add(part)
            part = stack.pop()
            part.settle(cost)
        if stack[-1].prefix < common:
            stack.append(_Plan(common))
        stack[-1].add(part)
    return stack[0].groups


def _arranged(spans: Sequence[Span], without: Collection[int], limit: int | None) -> list[TreeRow]:
    """Paths of all spans but some."""
    left = [s for s in range(len(spans)) if s not in without]
    paths = arrange([spans[s] for s in left], None, limit)
    for path in paths:
        path.nodes = {left[k]: nodes for k, nodes in path.nodes.items()}
    return paths


def _common(a: TreeRow, b: TreeRow) -> int:
    return common_prefix(tuple(a.tokens), tuple(b.tokens))


def _kept_row(spans: Sequence[Span], s: int) -> GroupRow:
    """A group of one span, all of it prefix."""
    [row] = arrange([spans[s]], None)
    nodes = {s: row.nodes[0]}
    return GroupRow(row.tokens, row.positions, row.ends, nodes, branches=True, prefix=len(row))


def _group_row(prefix: int, paths: Sequence[TreeRow]) -> GroupRow:
    """Several paths as one row."""
    row = GroupRow(paths[0].tokens[:prefix], [*range(prefix)], branches=True, prefix=prefix)
    for path in paths:
        begin = len(row)
        row.tokens += path.tokens[prefix:]
        row.positions += range(prefix, len(path))
        if len(path) > prefix:
            row.rests.append((begin, len(row)))
        for s, nodes in path.nodes.items():
            row.nodes[s] = [n if n < prefix else begin + n - prefix for n in nodes]
    row.ends = [len(row)] * prefix + [end for begin, end in row.rests for _ in range(begin, end)]
    return row
