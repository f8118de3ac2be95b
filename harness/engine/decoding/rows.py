"""Rows of prompts of equal length that share nothing; `shared_rows` has those that share prefixes.

Both kinds have the same methods: `admit` prefills waiting prompts, `feed` feeds the last token of
every completion, `leave` takes out a finished one. Letters: T tokens of a row, N completions.
"""

import inspect
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.engine.decoding.completion import Completion
from harness.engine.model.forward import Forward
from harness.engine.scoring.logprobs import to_device


class Step(NamedTuple):
    """Completions, and the hidden states from which their next tokens are chosen."""

    completions: list[Completion]
    states: Tensor  # (R, H): of each completion one, and one more for every token of its draft
    drafts: Sequence[Sequence[int]] = ()  # one per completion, if there are any

    def drafted(self) -> list[tuple[Completion, Sequence[int]]]:
        """Each completion with the tokens that were fed after its last one."""
        drafts = self.drafts or [()] * len(self.completions)
        return [*zip(self.completions, drafts, strict=True)]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is decoded at once. Limits change no answer."""

    prefill: int  # padded tokens
    completions: int
    cache_bytes: int

    def halved(self) -> "Limits":
        """Smaller limits, for use after running out of memory."""
        return Limits(
            max(self.prefill // 2, 1), max(self.completions // 2, 1), max(self.cache_bytes // 2, 1)
        )


@dataclass(frozen=True, slots=True)
class StepMethod:
    """How the tokens of a completion are fed; `verify_decoding` finds one that is correct."""

    cached: bool = True  # over a KV cache; if not, all tokens are fed again
    windows: bool = True  # the cache may drop what lies before an attention window
    positions: bool = True  # position ids are passed; if not, the model counts for itself
    cut: bool = True  # finished rows are removed from the cache; if not, they are fed along


FULL_PASSES = StepMethod(cached=False)


class PlainRows:
    """Prompts of equal length on the plain causal path: no mask, no sharing.

    Any causal model supports this, if need be by full passes.

    Attributes:
        computed: tokens fed so far.
        done: prompt tokens whose completions are finished.
    """

    def __init__(
        self,
        forward: Forward,
        completions: Sequence[Completion],
        limits: Limits,
        method: StepMethod,
    ) -> None:
        self.computed = self.done = 0
        self._forward, self._method = forward, method
        by_length: dict[int, list[Completion]] = defaultdict(list)
        for completion in completions:
            by_length[len(completion.query.prompt)].append(completion)
        self._waiting: deque[list[Completion]] = deque()
        for length in sorted(by_length, reverse=True):
            group, count = (
                by_length[length],
                max(1, min(limits.prefill // length, limits.completions)),
            )
            self._waiting += [group[i : i + count] for i in range(0, len(group), count)]
        self._active: list[Completion] = []
        self._cached: list[Completion] = []  # one per row of the cache
        self._cache: Any = None
        self._filled = 0  # tokens of each row in the cache
        self._takes = inspect.signature(forward.model.base_model.forward).parameters.keys()

    def admit(self) -> Step | None:
        """Prefill the next group; None if the one before is unfinished, or none are waiting."""
        if self._active or not self._waiting:
            return None
        self._active = self._waiting.popleft()
        if not self._method.cached:
            return self._full_pass()
        self._cached, self._filled = [*self._active], 0
        windows = self._method.windows
        self._cache = self._forward.empty_cache() if windows else self._forward.full_cache()
        return Step([*self._active], self._over_cache([c.query.prompt for c in self._active]))

    def feed(self) -> Step | None:
        """Feed one token per completion, or all again without a cache; None if none are left."""
        if not self._active:
            return None
        if not self._method.cached:
            return self._full_pass()
        if len(self._cached) > len(self._active) and self._method.cut:
            # Not `batch_select_indices`: linear layers lack it, hybrid ones implement half of it.
            rows = torch.tensor(self._active_rows(), device=self._forward.device)
            self._cache.reorder_cache(rows)
            self._cached = [*self._active]
        states = self._over_cache([c.tokens[-1:] for c in self._cached], **self._positions())
        if len(self._cached) > len(self._active):
            states = states[self._active_rows()]
        return Step([*self._active], states)

    def leave(self, completion: Completion) -> None:
        """Take out a finished completion."""
        self._active.remove(completion)
        self.done += len(completion.query.prompt)

    def _active_rows(self) -> list[int]:
        """The rows of the cache whose completions are not finished."""
        return [k for k, completion in enumerate(self._cached) if completion in self._active]

    def _positions(self) -> dict[str, Tensor]:
        """Position arguments for the next token, as far as the model takes them."""
        if not self._method.positions:
            return {}
        ids = torch.full((len(self._cached), 1), self._filled, device=self._forward.device)
        arguments = {"position_ids": ids, "cache_position": ids[0]}
        return {name: value for name, value in arguments.items() if name in self._takes}

    def _full_pass(self) -> Step:
        rows = [[*c.query.prompt, *c.tokens] for c in self._active]
        return Step([*self._active], self._last(rows))

    def _over_cache(self, rows: Sequence[Sequence[int]], **positions: Tensor) -> Tensor:
        states = self._last(rows, past_key_values=self._cache, **positions)
        self._filled += len(rows[0])
        return states

    def _last(self, rows: Sequence[Sequence[int]], **arguments: Any) -> Tensor:
        """Hidden states (N, H) of the last tokens of rows (N, T)."""
        ids = np.array(rows, np.int64)
        self.computed += ids.size
        return self._forward.trunk(to_device([ids], self._forward.device)[0], **arguments)[:, -1]
