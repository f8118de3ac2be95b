"""Where answers grow: what the decoding loop asks of rows, and the rows that share nothing.

`shared_rows` has those that do. Letters: T tokens of a row, N branches.
"""

import inspect
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engine.model.forward import Forward
from harness.engine.queries.query import Span
from harness.engine.scoring.logprobs import to_device

Ids = NDArray[np.int64]
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


@dataclass(frozen=True, slots=True)
class Steps:
    """How the tokens of an answer are fed after its prompt.

    `decoding_test` finds out which of these agree with the model's full pass.
    """

    cached: bool = True  # over keys and values that were kept; if not, all is fed again
    windows: bool = True  # the cache may forget what lies before an attention window
    positions: bool = True  # position ids are given; if not, the model counts for itself
    cut: bool = True  # complete rows are taken out of the cache; if not, nobody reads them


FULL_PASSES = Steps(cached=False)


class PlainRows:
    """Prompts of equal length side by side on the plain causal path: no mask, no sharing.

    Any causal model can do that, at the latest by full passes.

    Args:
        forward: the model.
        spans: the prompts.
        jobs: span -> the drafts that begin at its end, several where seeds differ.
        limits: how much at once.
        steps: how tokens are fed after the prompts.
    """

    def __init__(
        self,
        forward: Forward,
        spans: Sequence[Span],
        *,
        jobs: Mapping[int, Sequence[int]],
        limits: Limits,
        steps: Steps,
    ) -> None:
        self.computed = self.done = 0
        self._forward, self._limits, self._steps = forward, limits, steps
        by_length: dict[int, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
        for s, span in enumerate(spans):
            by_length[len(span.inputs)] += [(job, span.inputs) for job in jobs[s]]
        self._waiting = deque(
            group[i : i + self._side_by_side(length)]
            for length, group in sorted(by_length.items(), reverse=True)
            for i in range(0, len(group), self._side_by_side(length))
        )
        self._branches: list[Branch] = []
        self._kept: list[Branch] = []  # the rows of the cache
        self._texts: dict[int, list[int]] = {}  # job -> all its tokens, where nothing is kept
        self._cache: Any = None
        self._filled = 0  # tokens of each row in the cache
        self._names = inspect.signature(forward.model.base_model.forward).parameters.keys()

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
        if self._steps.cached:
            windows = self._steps.windows
            self._cache = self._forward.empty_cache() if windows else self._forward.full_cache()
            self._filled = 0
            return [*self._branches], self._over_cache(ids)
        self._texts = {job: [*tokens] for job, tokens in group}
        return [*self._branches], self._last(ids)

    def feed(self) -> Step | None:
        """One token of every branch."""
        if not self._branches:
            return None
        if not self._steps.cached:
            for branch in self._branches:
                self._texts[branch.job].append(branch.token)
            texts = np.array([self._texts[branch.job] for branch in self._branches], np.int64)
            return [*self._branches], self._last(texts)
        if len(self._kept) > len(self._branches) and self._steps.cut:
            rows = [k for k, branch in enumerate(self._kept) if branch in self._branches]
            # Not `batch_select_indices`: linear layers have none, hybrid ones half of it.
            self._cache.reorder_cache(torch.tensor(rows, device=self._forward.device))
            self._kept = [*self._branches]
        ids = np.array([[branch.token] for branch in self._kept], np.int64)
        states = self._over_cache(ids, **self._places(len(ids)))
        if len(self._kept) > len(self._branches):
            states = states[[k for k, branch in enumerate(self._kept) if branch in self._branches]]
        return [*self._branches], states

    def _places(self, rows: int) -> dict[str, Tensor]:
        """Where the next token of each row stands, as far as the model wants to be told."""
        if not self._steps.positions:
            return {}
        at = torch.full((rows, 1), self._filled, device=self._forward.device)
        known = {"position_ids": at, "cache_position": at[0]}
        return {name: place for name, place in known.items() if name in self._names}

    def _over_cache(self, ids: Ids, **places: Tensor) -> Tensor:
        states = self._last(ids, past_key_values=self._cache, **places)
        self._filled += ids.shape[1]
        return states

    def _last(self, ids: Ids, **given: Any) -> Tensor:
        """Hidden states (N, H) of the last tokens of rows (N, T) that follow what is kept."""
        self.computed += ids.size
        return self._forward.trunk(to_device([ids], self._forward.device)[0], **given)[:, -1]

    def leave(self, branch: Branch) -> None:
        """Take out a branch."""
        self._branches.remove(branch)
        self.done += branch.position
