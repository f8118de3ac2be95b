"""Batches of rows -> log-probabilities; logits only where they are read.

The trunk runs once over the batch, the hidden states that are read are gathered, and the head
is applied to those alone, in chunks. A log-probability is target logit minus log-sum-exp in
float32. One host-to-device copy in, one copy out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engine.encode import Span
from harness.engine.forward import Forward, tree_allowed
from harness.engine.plan import TreeRow

TOP = 128  # how many first tokens a search for a word may walk through
CHUNK_BYTES = 64 << 20  # of logits at a time


@dataclass(frozen=True, slots=True)
class SpanScores:
    """What was read for one span."""

    logprobs: NDArray[np.float32]  # one a target, in nats
    greedy: NDArray[np.bool_]
    top: tuple[int, ...] = ()  # most probable next tokens, the best first, if asked for


@dataclass(slots=True)
class Prefilled:
    """A batch whose keys and values are kept, so that branches can be fed after it.

    The one mutable value of the engine: rows that nobody asks for again are let go.
    """

    cache: Any
    ends: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    places: dict[int, tuple[int, int]]  # span -> (row, node) of its last input

    def keep(self, spans: set[int]) -> None:
        """Let go of all rows but those of these spans."""
        rows = sorted({self.places[span][0] for span in spans})
        if len(rows) == len(self.ends):
            return
        index = torch.tensor(rows, device=self.ends.device)
        self.cache.batch_select_indices(index)
        self.ends, self.positions = self.ends[index], self.positions[index]
        new = {row: k for k, row in enumerate(rows)}
        self.places = {s: (new[r], n) for s, (r, n) in self.places.items() if r in new}


@dataclass(frozen=True, slots=True)
class _Reads:
    """Which logits of a batch are read. Sorted by place, so that a chunk is a slice of each."""

    places: NDArray[np.int64]  # (N,) distinct places among the B * T hidden states, ascending
    at: NDArray[np.int64]  # (R,) index into `places` of each target, ascending
    targets: NDArray[np.int64]  # (R,) token ids
    order: NDArray[np.int64]  # (R,) which target, in the spans' order, stands here
    tops: NDArray[np.int64]  # (K,) indices into `places` whose best tokens are wanted, ascending


def score(
    forward: Forward, rows: Sequence[TreeRow], spans: Sequence[Span], *, keep: bool = False
) -> tuple[dict[int, SpanScores], Prefilled | None]:
    """Scores of every span in the rows; with `keep` also the prefilled cache."""
    order = [(r, s) for r, row in enumerate(rows) for s in row.nodes]
    width = max(len(row) for row in rows)
    reads = _reads(rows, spans, order, width)
    ids, positions, ends = pad(rows, width)
    parts = [ids, positions, ends, reads.places, reads.at, reads.targets, reads.tops]
    moved = to_device(parts, forward.device)  # the one copy in
    d_ids, d_positions, d_ends, places = moved[:4]

    branches = rows[0].branches
    cache = forward.empty_cache() if keep or branches else None
    if branches:
        straight = min(row.straight for row in rows)
        states = tree_states(forward, (d_ids, d_positions, d_ends), straight, cache)
    else:
        states = forward.trunk(d_ids, past_key_values=cache)  # (B, T, H)
    states = states.reshape(-1, states.shape[-1])[places]  # (N, H)
    values = _read_logits(forward, states, reads, moved[4:]).cpu().numpy()  # the one copy out
    kept = None
    if keep:
        last = {s: (r, rows[r].nodes[s][-1]) for r, s in order if spans[s].top}
        kept = Prefilled(cache, d_ends, d_positions, last)
    return _unpack(values, reads, spans, order), kept


def tree_states(
    forward: Forward, batch: tuple[Tensor, Tensor, Tensor], straight: int, cache: Any
) -> Tensor:
    """Hidden states (B, T, H) of rows with branches: ids, positions, ends, each (B, T).

    The tokens before any row bends back take the plain causal path, which skips half of the
    attention that a mask would compute; the others follow over their keys and values.
    """
    ids, positions, ends = batch
    before = forward.trunk(ids[:, :straight], past_key_values=cache)
    after = forward.trunk(
        ids[:, straight:],
        position_ids=positions[:, straight:],
        attention_mask=forward.mask(tree_allowed(ends, straight)),
        past_key_values=cache,
    )
    return torch.cat([before, after], dim=1)


def _reads(
    rows: Sequence[TreeRow], spans: Sequence[Span], order: Sequence[tuple[int, int]], width: int
) -> _Reads:
    flat: list[int] = []
    targets: list[int] = []
    tops: list[int] = []
    for r, s in order:
        nodes = [r * width + node for node in rows[r].nodes[s]]
        if spans[s].targets:
            flat.extend(nodes)
            targets.extend(spans[s].targets)
        if spans[s].top:
            tops.append(nodes[-1])
    places = np.unique(np.array(flat + tops, np.int64))
    at = np.searchsorted(places, np.array(flat, np.int64))
    by_place = np.argsort(at, kind="stable")
    return _Reads(
        places,
        at[by_place],
        np.array(targets, np.int64)[by_place],
        by_place,
        np.unique(np.searchsorted(places, np.array(tops, np.int64))),
    )


def pad(rows: Sequence[TreeRow], width: int) -> tuple[NDArray[np.int64], ...]:
    """Token ids, positions and subtree ends, each (B, T); padding sees itself only."""
    ids = np.zeros((len(rows), width), np.int64)
    positions = np.zeros_like(ids)
    ends = np.tile(np.arange(1, width + 1), (len(rows), 1))
    for r, row in enumerate(rows):
        ids[r, : len(row)] = row.tokens
        positions[r, : len(row)] = row.positions
        ends[r, : len(row)] = row.ends
    return ids, positions, ends


def to_device(parts: Sequence[NDArray[np.int64]], device: torch.device) -> list[Tensor]:
    """Integer arrays -> tensors on the device, in one copy."""
    packed = torch.from_numpy(np.concatenate([part.ravel() for part in parts]))
    if device.type == "cuda":
        packed = packed.pin_memory()
    moved = torch.split(packed.to(device, non_blocking=True), [part.size for part in parts])
    return [t.view(p.shape) for t, p in zip(moved, parts, strict=True)]


def _read_logits(
    forward: Forward, states: Tensor, reads: _Reads, moved: Sequence[Tensor]
) -> Tensor:
    """One flat float32 tensor: R log-probabilities, R greedy flags, K * TOP token ids.

    Float32 holds all three exactly (ids below 2^24), so that one copy brings them to the host.
    """
    at, targets, tops = moved
    chunk = max(16, CHUNK_BYTES // (4 * forward.vocabulary))
    parts: list[Tensor] = []
    flags: list[Tensor] = []
    best: list[Tensor] = []
    for begin in range(0, len(states), chunk):
        logits = forward.head(states[begin : begin + chunk])  # (C, V) float32
        first, last = np.searchsorted(reads.tops, [begin, begin + chunk])
        if first < last:
            chosen = logits[tops[first:last] - begin].topk(min(TOP, logits.shape[1])).indices
            best.append(torch.nn.functional.pad(chosen, (0, TOP - chosen.shape[1])).flatten())
        first, last = np.searchsorted(reads.at, [begin, begin + chunk])
        local, wanted = at[first:last] - begin, targets[first:last]
        peak = logits.amax(dim=-1)
        picked = logits[local, wanted]
        flags.append(_first_choice(logits, local, wanted, picked == peak[local]))
        total = logits.sub_(peak[:, None]).exp_().sum(dim=-1).log_().add_(peak)  # log-sum-exp
        parts.append(picked - total[local])
    return torch.cat([part.float() for part in (*parts, *flags, *best)])


def _first_choice(logits: Tensor, local: Tensor, wanted: Tensor, highest: Tensor) -> Tensor:
    """Which targets are the argmax, ties going to the lowest token id.

    A maximum alone is several times faster than an argmax, so that only rows whose target has
    the highest logit are searched for an equal one before it.
    """
    found = highest.clone()
    candidates = torch.nonzero(highest).squeeze(1)
    best = logits[local[candidates]].argmax(dim=-1)
    found[candidates] = best == wanted[candidates]
    return found


def _unpack(
    values: NDArray[np.float32],
    reads: _Reads,
    spans: Sequence[Span],
    order: Sequence[tuple[int, int]],
) -> dict[int, SpanScores]:
    count = len(reads.targets)
    sorted_logprobs, sorted_greedy, best = np.split(values, [count, 2 * count])
    logprobs, greedy = np.empty(count, np.float32), np.empty(count, np.bool_)
    logprobs[reads.order], greedy[reads.order] = sorted_logprobs, sorted_greedy > 0.5
    tops = iter(best.reshape(-1, TOP).astype(np.int64).tolist())
    found: dict[int, SpanScores] = {}
    done = 0
    for _, s in order:
        stop = done + len(spans[s].targets)
        top = tuple(next(tops)) if spans[s].top else ()
        found[s] = SpanScores(logprobs[done:stop], greedy[done:stop], top)
        done = stop
    return found
