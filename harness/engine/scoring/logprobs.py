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

from harness.engine.model.forward import Forward, tree_allowed
from harness.engine.queries.prefix_tree import TreeRow
from harness.engine.queries.query import Span, SpanScores

TOP = 128  # how many first tokens a search for a word may walk through


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
class Laid:
    """A batch on the device."""

    ids: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    ends: Tensor  # (B, T)
    before: Tensor  # places that are read among those of the columns on the plain causal path
    after: Tensor  # and among those of the other columns
    straight: int  # columns on the plain causal path


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
    batch, places, targets = lay(forward, rows, reads.places, (reads.at, reads.targets, reads.tops))
    cache = forward.full_cache() if keep or rows[0].branches else None
    states = batch_states(forward, batch, places, cache)  # (N, H)
    values = _read_logits(forward, states, reads, targets).cpu().numpy()  # the one copy out
    kept = None
    if keep:
        last = {s: (r, rows[r].nodes[s][-1]) for r, s in order if spans[s].top}
        kept = Prefilled(cache, batch.ends, batch.positions, last)
    return _unpack(values, reads, spans, order), kept


def lay(
    forward: Forward,
    rows: Sequence[TreeRow],
    places: NDArray[np.int64],
    more: Sequence[NDArray[np.int64]] = (),
) -> tuple[Laid, Tensor, list[Tensor]]:
    """A batch, the places that are read of it, and whatever else is needed, in one copy.

    Args:
        forward: for the device.
        rows: of one kind.
        places: (N,) among the B * T places, at least one.
        more: integers that come along.
    """
    width = max(len(row) for row in rows)
    cut = min(row.straight for row in rows) if rows[0].branches else width
    row, column = np.divmod(places, width)
    early = column < cut
    before = (row * cut + column)[early]
    after = (row * (width - cut) + column - cut)[~early]
    halves = [half if half.size else np.zeros(1, np.int64) for half in (before, after)]
    parts = [*pad(rows, width), *halves, places, *more]
    ids, positions, ends, first, second, read, *others = to_device(parts, forward.device)
    return Laid(ids, positions, ends, first, second, cut), read, others


def batch_states(forward: Forward, batch: Laid, places: Tensor, cache: Any) -> Tensor:
    """Hidden states (N, H) at `places` (N,) among the B * T of a batch.

    The tokens before any row bends back take the plain causal path, which skips half of the
    attention that a mask would compute; the others follow over their keys and values.
    """
    ids, cut = batch.ids, batch.straight
    if cut == ids.shape[1]:
        states = forward.trunk(ids, batch.before, past_key_values=cache)
    else:
        before = forward.trunk(ids[:, :cut], batch.before, past_key_values=cache)
        after = forward.trunk(
            ids[:, cut:],
            batch.after,
            position_ids=batch.positions[:, cut:],
            attention_mask=forward.mask(tree_allowed(batch.ends, cut)),
            past_key_values=cache,
        )
        states = torch.cat([before, after], dim=1)
    return states.flatten(0, 1)[places]


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
    chunk = forward.chunk
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

    On a CPU a maximum alone is several times faster than an argmax, so that only rows whose
    target has the highest logit are searched for an equal one before it. Elsewhere that would
    wait for the device.
    """
    if logits.device.type != "cpu":
        return logits.argmax(dim=-1)[local] == wanted
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
