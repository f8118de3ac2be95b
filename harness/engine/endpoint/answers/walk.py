"""Spans as prefix trees: which tokens are scored after which prompts.

    root   [a b c]           spans that score [d e], [d f] and [g] after a b c
    nodes  [] -> d g         one call each: after a prompt (the root and a path), which tokens?
           [d] -> e f

A server that returns log-probabilities of tokens named by id answers a question with one call a
node, most of whose prompts are in its prefix cache.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from harness.engine.queries.query import Span

Path = tuple[int, ...]
"""Targets after the root."""


class Node(NamedTuple):
    """A prompt after which tokens are scored."""

    path: Path  # the prompt is the root and these
    children: tuple[int, ...]  # distinct token ids, ascending


@dataclass(frozen=True, slots=True)
class Group:
    """Spans whose targets follow the same tokens, such as the options of one question."""

    root: tuple[int, ...]  # all tokens before the first target
    spans: tuple[Span, ...]

    def nodes(self) -> list[Node]:
        """The nodes: the root first, then the deepest first, which fill most of the cache."""
        children: dict[Path, set[int]] = {}
        for span in self.spans:
            for k, target in enumerate(span.targets):
                children.setdefault(span.targets[:k], set()).add(target)
        nodes = [Node(path, tuple(sorted(ids))) for path, ids in children.items()]
        return sorted(nodes, key=lambda node: (bool(node.path), -len(node.path), node.path))

    def owners(self) -> Mapping[Path, Span]:
        """Path of each node -> the first span through it."""
        owners: dict[Path, Span] = {}
        for span in self.spans:
            for k in range(len(span.targets)):
                owners.setdefault(span.targets[:k], span)
        return owners


def groups(spans: Iterable[Span]) -> Iterator[Group]:
    """Distinct spans by their roots; groups that share prompts are neighbours."""
    by_root: dict[tuple[int, ...], list[Span]] = {}
    for span in spans:
        first = len(span.inputs) - len(span.targets) + 1
        root, scored = span.inputs[:first], (*span.inputs[first:], span.targets[-1])
        assert root, f"{span.targets[0]} follows no token"
        assert scored == span.targets, f"{span.targets} are not the end of {span.inputs}"
        by_root.setdefault(root, []).append(span)
    for root in sorted(by_root):
        yield Group(root, tuple(by_root[root]))
