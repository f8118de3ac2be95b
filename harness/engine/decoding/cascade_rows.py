"""Rows whose prompts share prefixes, decoded with cascade attention.

As `shared_rows`, for models whose attention is plain: no completion reads the columns of another,
and rows with different numbers of completions are not padded. A step feeds the last token of every
completion, and what is drafted to follow it.

Letters: N completions.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicLayer

from harness.engine.attention.cascade import (
    Cascade,
    ChooseColumns,
    Fed,
    KeysValues,
    OwnColumns,
    OwnLevel,
    PromptLevel,
    close_gaps,
)
from harness.engine.attention.cascade_cache import CascadeCache, attention_configs, cascading
from harness.engine.decoding.completion import Completion
from harness.engine.decoding.drafts import Drafter, worth
from harness.engine.decoding.plan import PromptRow
from harness.engine.decoding.prefill import prefill, take_rows
from harness.engine.decoding.rows import Limits, Step
from harness.engine.model.forward import Forward
from harness.engine.queries.query import GenerationQuery
from harness.engine.scoring.logprobs import to_device
from harness.engine.scoring.planner import pass_cost

# Columns of a prompt that only one completion sees and that go to its own level. More stay in the
# level of their row, and so do more than twice the average: every own buffer is as wide as the
# widest.
MAX_OWN = 128


class Drafts(Protocol):
    """What drafts the next tokens of one completion."""

    def draft(self, worth: float) -> list[int]:
        """As `Drafter.draft`."""


class _FedToken(NamedTuple):
    token: int
    position: int
    column: int  # of the own level


@dataclass(slots=True, eq=False)
class _Branch:
    """One completion, and its place in the own level."""

    completion: Completion
    drafter: Drafts
    row: "_Layout"
    position: int  # of its first new token
    column: int  # of the own level, for that token
    index: int

    def fed(self, draft: Sequence[int]) -> list[_FedToken]:
        """The last token and its draft; the columns of a draft refused before are written anew."""
        tokens = self.completion.tokens
        return [
            _FedToken(token, self.position + k, self.column + k)
            for k, token in enumerate([tokens[-1], *draft], len(tokens) - 1)
        ]


class _Layout:
    """Which columns of a row go to which level."""

    def __init__(self, planned: PromptRow) -> None:
        self.queries = planned.all_queries()
        paths = planned.paths()
        self.depths = [len(path) for path in paths]
        seen = np.zeros((len(paths), len(planned.row)), np.bool_)
        for branch, path in enumerate(paths):
            seen[branch, path] = True
        alone = seen.sum(axis=0) == 1
        ends = [path[alone[path]] if len(paths) > 1 else path[:0] for path in paths]
        most = min(MAX_OWN, 2 * sum(map(len, ends)) // len(ends))
        self.own = [end.tolist() if len(end) <= most else [] for end in ends]
        shared = np.ones(len(planned.row), np.bool_)
        for columns in self.own:
            shared[columns] = False
        self.shared = np.flatnonzero(shared)
        self.visible = seen[:, self.shared]  # (branches, shared columns)
        new = [query.max_new_tokens for query in self.queries]
        self.columns = max(len(o) + n for o, n in zip(self.own, new, strict=True))
        self.tokens = len(planned.row)
        self.left = len(self.queries)  # unfinished ones


class CascadeRows:
    """Trees and paths, whose branches are fed as one batch of single tokens.

    The model must honour tree masks and cascade attention. Methods and attributes are those of
    `PlainRows`; `make_drafter` gives what drafts for each completion.
    """

    def __init__(
        self,
        forward: Forward,
        rows: Sequence[PromptRow],
        completions: Mapping[GenerationQuery, Completion],
        limits: Limits,
        make_drafter: Callable[[Completion], Drafts] = Drafter,
    ) -> None:
        self.computed = self.done = 0
        self._make_drafter = make_drafter
        self._forward, self._completions, self._limits = forward, completions, limits
        self._waiting = deque(rows)
        layouts = [_Layout(planned) for planned in rows]
        self._layouts = deque(layouts)  # of the rows that wait
        self._room = limits.cache_bytes // forward.cache_bytes_per_token()  # in columns
        columns = max(layout.columns for layout in layouts)
        self._capacity = _capacity(layouts, limits.completions, self._room, columns)
        self._room -= self._capacity * columns
        self._cascade = Cascade(OwnLevel(self._capacity, columns))
        self._configs = attention_configs(forward.model)
        self._branches: list[_Branch] = []  # in the order of the own level
        self._finished: set[_Branch] = set()

    def admit(self) -> Step | None:
        """Prefill the next rows for which there is room."""
        self._settle()
        idle = not self._branches
        batch = take_rows(self._waiting, self._limits.prefill, self._fits, idle=idle)
        if not batch:
            return None
        layouts = [self._layouts.popleft() for _ in batch]
        cache, _, states = prefill(self._forward, batch)
        self.computed += sum(layout.tokens for layout in layouts)
        return Step(self._open(layouts, _taken_layers(cache)), states)

    def _fits(self, rows: int, padded: int, completions: int) -> bool:
        """Whether there is room for so many more tokens and completions."""
        del rows
        held = sum(level.columns for level in self._cascade.prompts)
        return len(self._branches) + completions <= self._capacity and held + padded <= self._room

    def _open(self, layouts: Sequence[_Layout], layers: list[KeysValues]) -> list[Completion]:
        """Make levels of prefilled rows."""
        like = layers[0].keys
        own: list[OwnColumns] = []
        prompts: list[tuple[PromptLevel, ChooseColumns]] = []
        alone: list[tuple[int, _Layout, _Branch]] = []
        before = len(self._branches)
        for row, layout in enumerate(layouts):
            branches = self._branches_of(layout)
            own += [OwnColumns(row, columns) for columns in layout.own]
            self._branches += branches
            if len(branches) == 1:
                alone.append((row, layout, branches[0]))
            else:
                prompts.append(_shared_level(like, row, layout, branches))
        if alone:
            prompts.append(_single_level(like, alone))
        self._cascade.add(layers, own, prompts)
        return [branch.completion for branch in self._branches[before:]]

    def _branches_of(self, layout: _Layout) -> list[_Branch]:
        """The branches of a new row."""
        branches: list[_Branch] = []
        for k, query in enumerate(layout.queries):
            completion, index = self._completions[query], len(self._branches) + k
            first = layout.depths[k], len(layout.own[k])
            drafter = self._make_drafter(completion)
            branches.append(_Branch(completion, drafter, layout, *first, index))
        return branches

    def feed(self) -> Step | None:
        """Feed the last token of every completion, and its draft."""
        if not self._branches:
            return None
        assert not self._finished, "gaps are closed before a step"
        least = worth(len(self._branches), pass_cost(self._forward.device))
        drafts = [branch.drafter.draft(least) for branch in self._branches]
        fed = [branch.fed(draft) for branch, draft in zip(self._branches, drafts, strict=True)]
        table = np.array([*chain.from_iterable(fed)], np.int64).T
        [on_device] = to_device([table], self._forward.device)
        lengths = [of_branch[-1].column + 1 for of_branch in fed]
        states = self._pass(on_device, [*map(len, fed)], lengths)
        self.computed += table.shape[1]
        completions = [branch.completion for branch in self._branches]
        return Step(completions, states, drafts if any(drafts) else ())

    def _pass(self, table: Tensor, counts: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Hidden states (R, H) of the tokens whose ids, positions and columns are in `table`."""
        ids, position_ids, columns = table
        members = [[branch.index for branch in of.members] for of in self._cascade.prompts]
        self._cascade.begin(Fed(columns, counts, lengths), members)
        with cascading(self._configs):
            states = self._forward.trunk(
                ids[:, None],
                past_key_values=CascadeCache(self._cascade, len(self._cascade.prompts[0].layers)),
                position_ids=position_ids[:, None],
                cascade=self._cascade,
            )
        return states[:, 0]

    def leave(self, completion: Completion) -> None:
        """Take out a finished completion, before the next step."""
        branch = next(b for b in self._branches if b.completion is completion)
        self._finished.add(branch)
        branch.row.left -= 1
        if not branch.row.left:
            self.done += branch.row.tokens

    def _settle(self) -> None:
        """Close the gaps that finished completions leave in the cascade."""
        if not self._finished:
            return
        prompts: list[PromptLevel] = []
        for level in self._cascade.prompts:
            alive = [branch not in self._finished for branch in level.members]
            if any(alive):
                prompts.append(level)
                if not all(alive):
                    level.keep(close_gaps(alive))
        self._cascade.prompts = prompts
        kept = close_gaps([branch not in self._finished for branch in self._branches])
        if kept:
            self._cascade.own.keep(kept)
        else:
            self._cascade.own.lengths = []
        self._branches = [self._branches[k] for k in kept]
        for index, branch in enumerate(self._branches):
            branch.index = index
        self._finished.clear()


def _capacity(layouts: Sequence[_Layout], completions: int, room: int, columns: int) -> int:
    """How many completions are decoded at once: those of the first rows that there is room for."""
    count = tokens = 0
    for layout in layouts:
        more = count + len(layout.queries)
        tokens += layout.tokens
        if count and (more > completions or tokens + more * columns > room):
            break
        count = more
    return max(count, *(len(layout.queries) for layout in layouts))


def _taken_layers(cache: Any) -> list[KeysValues]:
    """The layers of a prefilled cache, which keeps none of them.

    Raises:
        TypeError: a layer does not keep one column per token.
    """
    for layer in cache.layers:
        if type(layer) is not DynamicLayer or layer.keys is None:
            raise TypeError(f"a cache layer of type {type(layer).__name__} has no levels")
    layers = [KeysValues(layer.keys, layer.values) for layer in cache.layers]
    cache.layers = []
    return layers


def _shared_level(
    like: Tensor, row: int, layout: _Layout, branches: Sequence[_Branch]
) -> tuple[PromptLevel, ChooseColumns]:
    """The columns of a row that several branches see."""
    columns = torch.from_numpy(layout.shared).to(like.device)
    level = PromptLevel([*branches], _hidden(layout.visible[None], like), rows=1)
    return level, lambda buffer: buffer[row].index_select(1, columns)[None]


def _single_level(
    like: Tensor, alone: Sequence[tuple[int, _Layout, _Branch]]
) -> tuple[PromptLevel, ChooseColumns]:
    """Whole rows with one branch each, as they were prefilled."""
    rows = [row for row, _, _ in alone]
    seen = np.zeros((len(rows), 1, like.shape[2]), np.bool_)
    for k, (_, layout, _) in enumerate(alone):
        seen[k, 0, : layout.tokens] = layout.visible[0]
    level = PromptLevel([branch for _, _, branch in alone], _hidden(seen, like), len(rows))
    every = len(rows) == len(like)
    return level, lambda buffer: buffer if every else buffer[rows]


def _hidden(seen: NDArray[np.bool_], like: Tensor) -> Tensor | None:
    """What is added to scores: -inf where a column is not seen; None if all are."""
    if seen.all():
        return None
    hidden = torch.from_numpy(~seen).to(like.device)
    return like.new_zeros(hidden.shape).masked_fill_(hidden, -torch.inf)
