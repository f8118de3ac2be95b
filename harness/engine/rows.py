"""Where answers grow: rows of keys and values, prefilled once, then fed a token a branch.

A row is prefilled as in scoring, a tree or a path. Each of its branches then grows from its own
node: it sees the tokens on its path from the root and those that it has written itself. A
branch leaves as soon as its answer is complete, and a row without branches makes room for the
next. Models whose rows may hold no trees take `PlainRows`: prompts of equal length side by side.

Letters: B slots in use, M branches of the fullest, T padded tokens of a prefill, N branches.
"""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from harness.engine.draft import Draft
from harness.engine.encode import Span
from harness.engine.forward import Forward
from harness.engine.plan import TreeRow
from harness.engine.score import pad, to_device, tree_states
from harness.engine.slots import Slots

SLACK = 128  # columns that nobody sees any more, from which on a row is packed together
Step = tuple[list["Branch"], Tensor]
"""Branches and the hidden states (N, H) from which the next token of each is chosen."""


@dataclass(slots=True, eq=False)
class Branch:
    """One answer's place in a row."""

    job: int
    place: int  # among the branches of its row
    position: int  # of the token that is fed next
    token: int = 0  # fed next
    columns: list[int] = field(default_factory=list)  # of its row, that it sees


class Rows(Protocol):
    """What the decoding loop needs of either kind of rows."""

    computed: int  # tokens fed so far
    done: int  # tokens of the prompts whose answers are complete

    def admit(self) -> Step | None:
        """Prefill what there is room for; None if there is none, or nothing waits."""
        ...

    def feed(self) -> Step | None:
        """Feed one token of every branch; None if there are no branches."""
        ...

    def leave(self, branch: Branch) -> None:
        """Take out a branch whose answer is complete."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is decoded at once; changes no answer."""

    prefill: int  # padded tokens
    branches: int
    cache_bytes: int

    def halved(self) -> "Limits":
        """For going on after memory ran out."""
        return Limits(
            max(self.prefill // 2, 1), max(self.branches // 2, 1), max(self.cache_bytes // 2, 1)
        )

    @property
    def least(self) -> bool:
        """Whether one row with one branch is all that is left."""
        return self.branches == 1


# --- rows that share prefixes -----------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Slot:
    """One row that is being decoded."""

    row: TreeRow
    index: int
    filled: int  # columns in use
    branches: list[Branch] = field(default_factory=list)


class SharedRows:
    """Trees and paths; each branch sees its path from the root and its own tokens.

    Args:
        forward: a model that honours tree masks.
        rows: planned rows, every span with its node.
        jobs: span -> the drafts that begin at its end, several where seeds differ.
        drafts: by job.
        limits: how much at once.
    """

    def __init__(
        self,
        forward: Forward,
        rows: Sequence[TreeRow],
        *,
        jobs: Mapping[int, Sequence[int]],
        drafts: Mapping[int, Draft],
        limits: Limits,
    ) -> None:
        self.computed = self.done = 0
        self._forward, self._jobs, self._limits = forward, jobs, limits
        self._waiting = deque(rows)
        self._active: list[_Slot] = []
        grown = {
            s: sum(drafts[job].request.max_new_tokens - 1 for job in jobs[s])
            for row in rows
            for s in row.nodes
        }
        columns = 1 + max(len(row) + sum(grown[s] for s in row.nodes) for row in rows)
        count = max(1, limits.cache_bytes // (columns * forward.cache_bytes_per_token()))
        self._slots = Slots(min(count, len(rows)), columns)
        self._width = max(sum(len(jobs[s]) for s in row.nodes) for row in rows)
        # (slot, branch, column): whether the branch sees the column
        self._seen = torch.zeros(
            (self._slots.rows, self._width, columns), dtype=torch.bool, device=forward.device
        )

    def admit(self) -> Step | None:
        """Prefill the next rows into free slots."""
        batch = self._next_rows()
        if not batch:
            return None
        cache = self._forward.empty_cache()
        ids, positions, ends = pad(batch, max(len(row) for row in batch))
        opened = [self._open(row) for row in batch]
        branches = [branch for slot in opened for branch in slot.branches]
        width = ids.shape[1]
        reads = [
            b * width + slot.row.nodes[s][-1]
            for b, slot in enumerate(opened)
            for s in slot.row.nodes
            for _ in self._jobs[s]
        ]
        moved = to_device([ids, positions, ends, np.array(reads)], self._forward.device)
        if batch[0].branches:
            straight = min(row.straight for row in batch)
            trunk = (moved[0], moved[1], moved[2])
            states = tree_states(self._forward, trunk, straight, cache)
        else:
            states = self._forward.trunk(moved[0], past_key_values=cache)  # (B, T, H)
        for b, slot in enumerate(opened):
            self._slots.put(slot.index, cache, b, len(slot.row))
        self.computed += sum(len(row) for row in batch)
        return branches, states.reshape(-1, states.shape[-1])[moved[3]]

    def _next_rows(self) -> list[TreeRow]:
        """Rows for which there is room, of one kind, within the prefill budget."""
        batch: list[TreeRow] = []
        held = sum(len(slot.branches) for slot in self._active)
        longest = 0
        while self._waiting and len(self._active) + len(batch) < self._slots.rows:
            row = self._waiting[0]
            longest = max(longest, len(row))
            count = self._count(row)
            alone = not batch and not self._active
            fits = longest * (len(batch) + 1) <= self._limits.prefill or not batch
            kind = not batch or batch[0].branches == row.branches
            if not alone and not (fits and kind and held + count <= self._limits.branches):
                break
            batch.append(self._waiting.popleft())
            held += count
        return batch

    def _count(self, row: TreeRow) -> int:
        return sum(len(self._jobs[s]) for s in row.nodes)

    def _open(self, row: TreeRow) -> _Slot:
        """A slot for a row, its branches, and what they see of the row."""
        slot = _Slot(row, len(self._active), len(row))
        self._active.append(slot)
        ends = np.array(row.ends)
        for s, nodes in row.nodes.items():
            node = nodes[-1]
            path = np.flatnonzero(ends[: node + 1] > node).tolist()
            for job in self._jobs[s]:
                place = len(slot.branches)
                slot.branches.append(Branch(job, place, len(path), columns=[*path]))
        self._show(slot)
        return slot

    def _show(self, slot: _Slot) -> None:
        """Bring what the branches of a slot see to the device."""
        seen = np.zeros((self._width, self._slots.columns), np.bool_)
        for branch in slot.branches:
            seen[branch.place, branch.columns] = True
        self._seen[slot.index] = torch.from_numpy(seen).to(self._seen.device)

    def _pack(self, slot: _Slot) -> None:
        """Drop the columns that no branch sees any more, once they are the most of a row."""
        needed = sorted(set().union(*(branch.columns for branch in slot.branches)))
        if slot.filled - len(needed) < max(SLACK, len(needed)):
            return
        self._slots.pick(slot.index, needed)
        new = {column: k for k, column in enumerate(needed)}
        for branch in slot.branches:
            branch.columns = [new[column] for column in branch.columns]
        slot.filled = len(needed)
        self._show(slot)

    def feed(self) -> Step | None:
        """One token of every branch, each in a new column of its row."""
        if not self._active:
            return None
        b, m = len(self._active), max(len(slot.branches) for slot in self._active)
        table = np.zeros((4, b, m), np.int64)  # token, position, column, place
        table[2] = self._slots.columns - 1
        valid = np.zeros((b, m), np.bool_)
        for slot in self._active:
            count = len(slot.branches)
            for i, branch in enumerate(slot.branches):
                column = slot.filled + i
                table[:, slot.index, i] = branch.token, branch.position, column, branch.place
                branch.position += 1
                branch.columns.append(column)
            slot.filled += count
            valid[slot.index, :count] = True
        branches = [branch for slot in self._active for branch in slot.branches]
        self.computed += len(branches)
        reads = np.flatnonzero(valid.ravel())
        moved = to_device([table, reads], self._forward.device)
        states = self._pass(moved[0], moved[1])
        return branches, states[moved[1]]

    def _pass(self, table: Tensor, reads: Tensor) -> Tensor:
        """Hidden states (B * M, H) of the tokens in `table` (4, B, M); `reads` are no padding."""
        ids, positions, columns, places = table.unbind(0)
        width = max(slot.filled for slot in self._active)
        rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
        real = (rows.flatten()[reads], places.flatten()[reads], columns.flatten()[reads])
        self._seen[real] = True
        allowed = self._seen[:, :, :width][rows, places]  # (B, M, width)
        states = self._forward.trunk(
            ids,
            position_ids=positions,
            attention_mask=self._forward.mask(allowed),
            past_key_values=self._slots.at(columns, width),
        )
        return states.reshape(-1, states.shape[-1])

    def leave(self, branch: Branch) -> None:
        """Take out a branch; a row without any gives its slot to the last one."""
        slot = next(slot for slot in self._active if branch in slot.branches)
        slot.branches.remove(branch)
        if slot.branches:
            self._pack(slot)
            return
        self.done += len(slot.row)
        last = self._active.pop()
        if last is not slot:
            self._slots.move(last.index, slot.index, last.filled)
            self._seen[slot.index] = self._seen[last.index]
            last.index = slot.index
            self._active[last.index] = last


# --- rows that share nothing ------------------------------------------------------------


class PlainRows:
    """Prompts of equal length side by side on the plain causal path: no mask, no sharing.

    Any causal model can do that; one that keeps no keys and values is fed everything again.
    """

    def __init__(
        self,
        forward: Forward,
        spans: Sequence[Span],
        *,
        jobs: Mapping[int, Sequence[int]],
        limits: Limits,
    ) -> None:
        self.computed = self.done = 0
        self._forward, self._limits = forward, limits
        by_length: dict[int, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
        for s, span in enumerate(spans):
            by_length[len(span.inputs)] += [(job, span.inputs) for job in jobs[s]]
        self._waiting = deque(
            group[i : i + self._side_by_side(length)]
            for length, group in sorted(by_length.items(), reverse=True)
            for i in range(0, len(group), self._side_by_side(length))
        )
        self._branches: list[Branch] = []
        self._texts: dict[int, list[int]] = {}  # job -> all its tokens, where nothing is kept
        self._cache = None
        self._kept: list[Branch] = []  # the rows of the cache

    def _side_by_side(self, length: int) -> int:
        return max(1, min(self._limits.prefill // length, self._limits.branches))

    def admit(self) -> Step | None:
        """The next group, once the one before is complete."""
        if self._branches or not self._waiting:
            return None
        group = self._waiting.popleft()
        self._branches = [Branch(job, 0, len(tokens)) for job, tokens in group]
        self._kept = [*self._branches]
        ids = np.array([tokens for _, tokens in group], np.int64)
        if self._forward.takes_cache:
            self._cache = self._forward.empty_cache()
        else:
            self._texts = {job: [*tokens] for job, tokens in group}
        return [*self._branches], self._last(ids)

    def feed(self) -> Step | None:
        """One token of every branch."""
        if not self._branches:
            return None
        if self._cache is None:
            for branch in self._branches:
                self._texts[branch.job].append(branch.token)
            ids = np.array([self._texts[branch.job] for branch in self._branches], np.int64)
        else:
            if len(self._kept) > len(self._branches):
                rows = [k for k, branch in enumerate(self._kept) if branch in self._branches]
                self._cache.batch_select_indices(torch.tensor(rows, device=self._forward.device))
                self._kept = [*self._branches]
            ids = np.array([[branch.token] for branch in self._branches], np.int64)
        return [*self._branches], self._last(ids)

    def _last(self, ids: "np.ndarray[tuple[int, int], np.dtype[np.int64]]") -> Tensor:
        """Hidden states (N, H) of the last tokens of rows (N, T) that follow what is kept."""
        self.computed += ids.size
        moved = to_device([ids], self._forward.device)[0]
        tree: dict[str, Any] = {} if self._cache is None else {"past_key_values": self._cache}
        return self._forward.trunk(moved, **tree)[:, -1]

    def leave(self, branch: Branch) -> None:
        """Take out a branch."""
        self._branches.remove(branch)
        self.done += branch.position
