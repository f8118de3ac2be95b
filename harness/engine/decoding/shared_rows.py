"""Rows whose prompts share prefixes: prefilled once, then fed one token per completion.

A row is prefilled as in scoring, as a tree or a path. Each of its completions then grows from the
end of its prompt: it sees the tokens on its path from the root and those that it has generated. A
row whose completions are all finished makes room for the next.

Letters: B slots in use, M branches of the fullest.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from harness.engine.decoding.completion import Completion
from harness.engine.decoding.kv_slots import Slots
from harness.engine.decoding.plan import PromptRow
from harness.engine.decoding.prefill import prefill, take_rows
from harness.engine.decoding.rows import Limits, Step
from harness.engine.model.forward import Forward
from harness.engine.queries.query import GenerationQuery
from harness.engine.scoring.logprobs import to_device

MIN_DEAD_COLUMNS = 128  # columns that no branch sees, from which on a row is compacted


@dataclass(slots=True, eq=False)
class _Branch:
    """One completion's place in a row."""

    completion: Completion
    index: int  # among the branches of its row
    position: int  # of the next token
    columns: list[int]  # of its row, those that it sees


@dataclass(slots=True, eq=False)
class _Slot:
    """One row that is being decoded."""

    index: int
    prompt_tokens: int
    filled: int  # columns in use
    branches: list[_Branch] = field(default_factory=list)


class SharedRows:
    """Trees and paths; each branch sees its path from the root and its own tokens.

    The model must honour tree masks. Methods and attributes are those of `PlainRows`.
    """

    def __init__(
        self,
        forward: Forward,
        rows: Sequence[PromptRow],
        completions: Mapping[GenerationQuery, Completion],
        limits: Limits,
    ) -> None:
        self.computed = self.done = 0
        self._forward, self._completions, self._limits = forward, completions, limits
        self._waiting = deque(rows)
        self._active: list[_Slot] = []
        queries = [row.all_queries() for row in rows]
        new = [sum(query.max_new_tokens - 1 for query in of_row) for of_row in queries]
        columns = 1 + max(len(row.row) + count for row, count in zip(rows, new, strict=True))
        count = max(1, limits.cache_bytes // (columns * forward.cache_bytes_per_token()))
        self._slots = Slots(min(count, len(rows)), columns)
        self._max_branches = max(map(len, queries))  # of a row
        # (slot, branch, column): whether the branch sees the column
        self._visible = torch.zeros(
            (self._slots.rows, self._max_branches, columns),
            dtype=torch.bool,
            device=forward.device,
        )
        self._positions = torch.zeros(  # (slot, column)
            (self._slots.rows, columns), dtype=torch.long, device=forward.device
        )

    def admit(self) -> Step | None:
        """Prefill the next rows into free slots."""
        idle = not self._active
        batch = take_rows(self._waiting, self._limits.prefill, self._fits, idle=idle)
        if not batch:
            return None
        slots = [self._open(row) for row in batch]
        cache, positions, states = prefill(self._forward, batch)
        for b, slot in enumerate(slots):
            self._slots.put(slot.index, cache, b, slot.prompt_tokens)
            own = positions[b, : slot.prompt_tokens]
            self._positions[slot.index, : slot.prompt_tokens] = own
        self.computed += sum(slot.prompt_tokens for slot in slots)
        return Step([branch.completion for slot in slots for branch in slot.branches], states)

    def _fits(self, rows: int, padded: int, completions: int) -> bool:
        """Whether there are slots for so many more rows, whatever their length."""
        del padded
        decoded = sum(len(slot.branches) for slot in self._active)
        free = self._slots.rows - len(self._active)
        return rows <= free and decoded + completions <= self._limits.completions

    def _open(self, planned: PromptRow) -> _Slot:
        """A slot for a row, with its branches and what they see of the row."""
        slot = _Slot(len(self._active), len(planned.row), len(planned.row))
        self._active.append(slot)
        for query, path in zip(planned.all_queries(), planned.paths(), strict=True):
            completion, index = self._completions[query], len(slot.branches)
            slot.branches.append(_Branch(completion, index, len(path), path.tolist()))
        self._upload_visible(slot)
        return slot

    def _upload_visible(self, slot: _Slot) -> None:
        """Copy what the branches of a slot see to the device."""
        visible = np.zeros((self._max_branches, self._slots.columns), np.bool_)
        for branch in slot.branches:
            visible[branch.index, branch.columns] = True
        self._visible[slot.index] = torch.from_numpy(visible).to(self._visible.device)

    def feed(self) -> Step | None:
        """Feed one token per branch, each into a new column of its row."""
        if not self._active:
            return None
        b, m = len(self._active), max(len(slot.branches) for slot in self._active)
        table = np.zeros((4, b, m), np.int64)  # token, position, column, branch
        table[2] = self._slots.columns - 1
        valid = np.zeros((b, m), np.bool_)
        for slot in self._active:
            for i, branch in enumerate(slot.branches):
                token, column = branch.completion.tokens[-1], slot.filled + i
                table[:, slot.index, i] = token, branch.position, column, branch.index
                branch.position += 1
                branch.columns.append(column)
            slot.filled += len(slot.branches)
            valid[slot.index, : len(slot.branches)] = True
        completions = [branch.completion for slot in self._active for branch in slot.branches]
        self.computed += len(completions)
        reads = np.flatnonzero(valid.ravel())
        device_table, device_reads = to_device([table, reads], self._forward.device)
        return Step(completions, self._pass(device_table, device_reads)[device_reads])

    def _pass(self, table: Tensor, reads: Tensor) -> Tensor:
        """Hidden states (B * M, H) of the tokens in `table` (4, B, M); `reads` are no padding."""
        ids, positions, columns, branches = table.unbind(0)
        width = max(slot.filled for slot in self._active)
        rows = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
        fed = (rows.flatten()[reads], branches.flatten()[reads], columns.flatten()[reads])
        self._visible[fed] = True
        self._positions[rows, columns] = positions
        allowed = self._visible[:, :, :width][rows, branches]  # (B, M, width)
        key_positions = self._positions[: len(ids), :width]
        states = self._forward.trunk(
            ids,
            past_key_values=self._slots.at(columns, width),
            attention_mask=self._forward.mask(allowed, positions, key_positions),
            position_ids=positions,
        )
        return states.reshape(-1, states.shape[-1])

    def leave(self, completion: Completion) -> None:
        """Take out a finished completion; the last slot moves into one that becomes free."""
        slot, branch = next(
            (slot, branch)
            for slot in self._active
            for branch in slot.branches
            if branch.completion is completion
        )
        slot.branches.remove(branch)
        if slot.branches:
            self._compact(slot)
            return
        self.done += slot.prompt_tokens
        last = self._active.pop()
        if last is not slot:
            self._slots.move(last.index, slot.index, last.filled)
            self._visible[slot.index] = self._visible[last.index]
            self._positions[slot.index] = self._positions[last.index]
            last.index = slot.index
            self._active[last.index] = last

    def _compact(self, slot: _Slot) -> None:
        """Drop columns that no branch sees, once they are many and the majority of a row."""
        needed = sorted(set().union(*(branch.columns for branch in slot.branches)))
        if slot.filled - len(needed) < max(MIN_DEAD_COLUMNS, len(needed)):
            return
        self._slots.pick(slot.index, needed)
        self._positions[slot.index, : len(needed)] = self._positions[slot.index, needed]
        new_column = {column: k for k, column in enumerate(needed)}
        for branch in slot.branches:
            branch.columns = [new_column[column] for column in branch.columns]
        slot.filled = len(needed)
        self._upload_visible(slot)
