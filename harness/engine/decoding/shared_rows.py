"""Rows whose prompts share prefixes: prefilled once, then fed a token a branch.

A row is prefilled as in scoring, a tree or a path. Each of its branches then grows from its own
node: it sees the tokens on its path from the root and those that it has written itself. A
branch leaves as soon as its answer is complete, and a row without branches makes room for the
next.

Letters: B slots in use, M branches of the fullest, T padded tokens of a prefill, N branches.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from harness.engine.decoding.kv_slots import Slots
from harness.engine.decoding.rows import Branch, Limits, Step
from harness.engine.model.forward import Forward
from harness.engine.queries.prefix_tree import TreeRow
from harness.engine.scoring.logprobs import batch_states, lay, to_device

SLACK = 128  # columns that nobody sees any more, from which on a row is packed together


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
        room: job -> how many tokens its answer may have.
        limits: how much at once.
    """

    def __init__(
        self,
        forward: Forward,
        rows: Sequence[TreeRow],
        *,
        jobs: Mapping[int, Sequence[int]],
        room: Mapping[int, int],
        limits: Limits,
    ) -> None:
        self.computed = self.done = 0
        self._forward, self._jobs, self._limits = forward, jobs, limits
        self._waiting = deque(rows)
        self._active: list[_Slot] = []
        grown = {s: sum(room[job] - 1 for job in jobs[s]) for row in rows for s in row.nodes}
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
        cache = self._forward.full_cache()
        opened = [self._open(row) for row in batch]
        branches = [branch for slot in opened for branch in slot.branches]
        width = max(len(row) for row in batch)
        reads = [
            b * width + slot.row.nodes[s][-1]
            for b, slot in enumerate(opened)
            for s in slot.row.nodes
            for _ in self._jobs[s]
        ]
        laid, places, _ = lay(self._forward, batch, np.array(reads))
        states = batch_states(self._forward, laid, places, cache)  # (N, H)
        for b, slot in enumerate(opened):
            self._slots.put(slot.index, cache, b, len(slot.row))
        self.computed += sum(len(row) for row in batch)
        return branches, states

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
