"""Cascade attention: over what several branches see, kept once, and what each sees alone.

A prompt level holds the columns of one row that several branches see, or whole rows with one branch
each. The own level has a buffer for every branch: the end of its prompt that no other branch sees,
and its new tokens. A step attends to either level by itself and adds up both parts, so that no
branch reads the columns of another. It feeds one token of every branch, or several: its last one
and drafted ones.

Letters: N branches, R >= N tokens of a step, M of the branch with the most, B rows of a prompt
level, T their columns, D size of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.engine.attention.buffers import empty_buffers
from harness.engine.attention.parts import Part, attend, merge
from harness.engine.attention.side_by_side import SideBySide


class KeysValues(NamedTuple):
    """Of one layer, each (B, heads, columns, D)."""

    keys: Tensor
    values: Tensor


class Fed(NamedTuple):
    """The tokens of a step; those of a branch follow each other."""

    columns: Tensor  # (R,), of the own level, for their keys and values
    counts: Sequence[int]  # tokens of each branch
    lengths: Sequence[int]  # columns of each branch that are in use after the step


class OwnColumns(NamedTuple):
    """The columns of a prefilled row that one branch sees alone."""

    row: int
    columns: Sequence[int]


@dataclass(slots=True)
class PromptLevel:
    """One row and all its branches, or several rows with one branch each."""

    members: list[Any]  # the branches
    hidden: Tensor | None  # (B, branches of a row, T), added to scores
    rows: int  # that there is memory for, more than B once members have left
    layers: list[KeysValues] = field(default_factory=list)
    # Of the present step.
    _seen: Tensor | None = field(default=None, init=False)
    _side: SideBySide | None = field(default=None, init=False)

    @property
    def columns(self) -> int:
        """Columns of all rows that there is memory for."""
        return self.rows * self.layers[0].keys.shape[2]

    def keep(self, kept: Sequence[int]) -> None:
        """Keep these branches, in this order, as `close_gaps` has found it."""
        self.members = [self.members[k] for k in kept]
        if len(self.layers[0].keys) == 1:
            if self.hidden is not None:
                self.hidden = self.hidden[:, [*kept]]
            return
        if self.hidden is not None:
            self.hidden = self.hidden[[*kept]]
        is_copied = 2 * len(kept) <= self.rows  # views of the first rows would free no memory
        for index, layer in enumerate(self.layers):
            if not is_copied:
                for buffer in layer:
                    move_rows(buffer, kept)
            chosen = [*kept] if is_copied else slice(len(kept))
            self.layers[index] = KeysValues(*(buffer[chosen] for buffer in layer))
        if is_copied:
            self.rows = len(kept)

    def begin(self, counts: Sequence[int]) -> None:
        """Begin a step with so many tokens of each member."""
        keys, _ = self.layers[0]
        self._seen, self._side = self.hidden, None
        if max(counts) == 1:
            return
        side = SideBySide(counts, keys.device)
        if len(keys) > 1:
            self._side = side
        elif self.hidden is not None:
            self._seen = self.hidden[:, side.branches]

    def attend(self, layer: int, query: Tensor, scale: float) -> Part:
        """Attention of the members' queries (R, heads, 1, D)."""
        keys, values = self.layers[layer]
        if len(keys) > 1:
            one = self._side.attend if self._side else attend
            return one(query, keys, values, self._seen, scale)
        part = attend(query.transpose(0, 2), keys, values, self._seen, scale)
        return Part(part.output.transpose(0, 2), part.total.transpose(0, 2))


class OwnLevel:
    """A buffer for every branch, the first `lengths[n]` columns in use."""

    def __init__(self, branches: int, columns: int) -> None:
        self.lengths: list[int] = []
        self._size = branches, columns
        self._layers: list[KeysValues] = []
        self._zeroed = 0  # layers
        # Rows and columns of the present step, and what its tokens see.
        self._at: tuple[Tensor, Tensor] | None = None
        self._seen: Tensor | None = None
        self._side: SideBySide | None = None

    def add(self, own: Sequence[OwnColumns], layers: Sequence[KeysValues]) -> None:
        """Add branches that begin with columns of these layers, which `fill` copies."""
        if not self._layers:
            keys, values = (empty_buffers(like, *self._size) for like in zip(*layers, strict=True))
            self._layers = [*map(KeysValues, keys, values)]
        self.lengths += [len(columns) for _, columns in own]

    def fill(self, index: int, layer: KeysValues, own: Sequence[OwnColumns]) -> None:
        """Copy the columns of the branches added last from a layer."""
        if index == self._zeroed:  # not before: memory counts as used from its first write
            for buffer in self._layers[index]:
                buffer.zero_()
            self._zeroed += 1
        first = len(self.lengths) - len(own)
        for n, (row, columns) in enumerate(own, first):
            if columns:
                chosen = _index(columns)
                for buffer, source in zip(self._layers[index], layer, strict=True):
                    buffer[n, :, : len(columns)] = source[row][:, chosen]

    def begin(self, fed: Fed) -> None:
        """Begin a step. No token sees columns after its own, as those of rejected drafts."""
        columns, counts, lengths = fed
        self.lengths = [*lengths]
        self._side = SideBySide(counts, columns.device) if max(counts) > 1 else None
        if self._side is None:
            rows, own = torch.arange(len(columns), device=columns.device), columns[:, None]
        else:
            rows, own = self._side.branches, columns[self._side.tokens]
        self._at = rows, columns
        width = max(lengths)
        self._seen = None
        if self._side is not None or min(lengths) < width:
            later = torch.arange(width, device=columns.device) > own[..., None]  # (N, M, width)
            zeros = self._layers[0].keys.new_zeros(later.shape)
            self._seen = zeros.masked_fill_(later, -torch.inf)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write the new keys and values (R, heads, 1, D) of a layer."""
        assert self._at is not None
        rows, columns = self._at
        for buffer, new in zip(self._layers[layer], (keys, values), strict=True):
            buffer[rows, :, columns] = new.squeeze(2)

    def attend(self, layer: int, query: Tensor, scale: float) -> Part:
        """Attention of queries (R, heads, 1, D), each over its own columns."""
        n, width = len(self.lengths), max(self.lengths)
        keys, values = (buffer[:n, :, :width] for buffer in self._layers[layer])
        one = self._side.attend if self._side else attend
        return one(query, keys, values, self._seen, scale)

    def keep(self, kept: Sequence[int]) -> None:
        """Keep these branches, in this order, as `close_gaps` has found it."""
        width = max(self.lengths)
        for layer in self._layers:
            for buffer in layer:
                move_rows(buffer[:, :, :width], kept)
        self.lengths = [self.lengths[k] for k in kept]


ChooseColumns = Callable[[Tensor], Tensor]
"""Prefilled keys or values of a layer -> what a prompt level keeps of them."""


class Cascade:
    """The keys and values of all branches; `begin` is called before each pass."""

    def __init__(self, own: OwnLevel) -> None:
        self.own = own
        self.prompts: list[PromptLevel] = []
        # Of the present step: tokens of each prompt level, and their order, if it is another.
        self._splits: list[int] = []
        self._order: tuple[Tensor, Tensor] | None = None

    def add(
        self,
        prefilled: list[KeysValues],
        own: Sequence[OwnColumns],
        prompts: Sequence[tuple[PromptLevel, ChooseColumns]],
    ) -> None:
        """Add branches after a prefilled batch.

        Args:
            prefilled: its layers. The list is emptied, so that the memory of each layer is free as
                soon as it has been copied.
            own: what each new branch sees alone.
            prompts: the new prompt levels, without their layers.
        """
        self.own.add(own, prefilled)
        for index in range(len(prefilled)):
            layer = prefilled.pop(0)
            self.own.fill(index, layer, own)
            for level, choose_columns in prompts:
                level.layers.append(KeysValues(*map(choose_columns, layer)))
        self.prompts += [level for level, _ in prompts]

    def begin(self, fed: Fed, members: Sequence[Sequence[int]]) -> None:
        """Begin a step.

        Args:
            fed: its tokens.
            members: the branches of each prompt level, as numbers in the own level.
        """
        self.own.begin(fed)
        counts = [[fed.counts[branch] for branch in of_level] for of_level in members]
        for level, of_level in zip(self.prompts, counts, strict=True):
            level.begin(of_level)
        self._splits = [*map(sum, counts)]
        ends = [*accumulate(fed.counts)]
        order = [
            token
            for of_level in members
            for branch in of_level
            for token in range(ends[branch] - fed.counts[branch], ends[branch])
        ]
        self._order = None
        if order != [*range(len(order))]:
            there = torch.tensor(order, device=fed.columns.device)
            self._order = there, there.argsort()

    def attend(self, layer: int, query: Tensor, scale: float) -> Tensor:
        """Attention (R, heads, 1, D) of the step's queries over all that each branch sees."""
        own = self.own.attend(layer, query, scale)
        if self._order is not None:
            query = query[self._order[0]]
        queries = torch.split(query, self._splits)
        parts = [
            level.attend(layer, of_level, scale)
            for level, of_level in zip(self.prompts, queries, strict=True)
        ]
        prompt = parts[0]
        if len(parts) > 1:
            prompt = Part(
                torch.cat([part.output for part in parts]), torch.cat([p.total for p in parts])
            )
        if self._order is not None:
            back = self._order[1]
            prompt = Part(prompt.output[back], prompt.total[back])
        return merge(prompt, own)


def close_gaps(alive: Sequence[bool]) -> list[int]:
    """Which place moves into each of the first ones, so that few of those alive move."""
    count = sum(alive)
    last = [k for k in range(count, len(alive)) if alive[k]]
    return [k if alive[k] else last.pop() for k in range(count)]


def move_rows(buffer: Tensor, kept: Sequence[int]) -> None:
    """Move rows to the places that `close_gaps` has found."""
    for place, source in enumerate(kept):
        if place != source:
            buffer[place] = buffer[source]


def _index(columns: Sequence[int]) -> slice | list[int]:
    """Columns as an index: a slice where they follow each other."""
    if columns[-1] - columns[0] + 1 == len(columns):
        return slice(columns[0], columns[-1] + 1)
    return [*columns]
