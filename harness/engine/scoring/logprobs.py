"""Batches of rows -> log-probabilities. Logits are computed only where they are read.

The trunk runs once over the batch, the hidden states that are read are gathered, and the head
is applied to those alone, in chunks. A log-probability is the target's logit minus the log-sum-exp
in float32. There is one copy to the device and one back.

Letters: B rows of T padded tokens, N states that are read, R targets, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.core import Tokens
from harness.engine.model.forward import Forward
from harness.engine.model.masks import tree_allowed
from harness.engine.queries.prefix_tree import TreeRow
from harness.engine.queries.query import Span, SpanScores
from harness.engine.scoring.target_logprobs import target_logprobs
from harness.engine.scoring.ties import tie_counts, tied
from harness.engine.scoring.word_search import TOP
from harness.errors import NumericsError

Ints = NDArray[np.int64]


@dataclass(slots=True)
class PrefilledBatch:
    """A batch whose keys and values are kept, so that branches can be fed after it.

    Mutable: rows that are not needed any more are dropped.
    """

    cache: Any
    ends: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    last_nodes: dict[int, tuple[int, int]]  # span -> (row, node) of its last input

    def __contains__(self, span: int) -> bool:
        return span in self.last_nodes

    def keep_rows_of(self, spans: set[int]) -> None:
        """Drop all rows but those of these spans."""
        rows = sorted({self.last_nodes[span][0] for span in spans})
        if len(rows) == len(self.ends):
            return
        index = torch.tensor(rows, device=self.ends.device)
        self.cache.reorder_cache(index)  # layers may be on several devices
        self.ends, self.positions = self.ends[index], self.positions[index]
        new = {row: k for k, row in enumerate(rows)}
        self.last_nodes = {s: (new[r], n) for s, (r, n) in self.last_nodes.items() if r in new}


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """A batch on the device."""

    ids: Tensor  # (B, T)
    positions: Tensor  # (B, T)
    ends: Tensor  # (B, T)
    reads: Tensor  # (N,) among the B * T states
    causal_columns: int  # first columns, before any row branches: they need no mask
    causal_reads: Tensor  # reads in these columns, among the states of these columns
    masked_reads: Tensor  # reads in the other columns, among the states of those


@dataclass(frozen=True, slots=True)
class Reads:
    """Which logits of a batch are read. Sorted by state, so that a chunk is a slice of each."""

    states: Ints  # (N,) distinct indices among the B * T states, ascending
    at: Ints  # (R,) index into `states` of each target, ascending
    targets: Ints  # (R,) token ids
    order: Ints  # (R,) index of each target in the order of the spans
    tops: Ints  # indices into `states` whose best tokens are needed, ascending
    spans: Sequence[int]  # in the order of the rows


def score(
    forward: Forward, rows: Sequence[TreeRow], spans: Sequence[Span], *, keep: bool = False
) -> tuple[dict[int, SpanScores], PrefilledBatch | None, Tokens]:
    """Scores of every span in the rows; with `keep`, the prefilled cache; the ties seen.

    Raises:
        NumericsError: the most probable tokens were asked for, and a logit is not a number.
    """
    order = [(r, s) for r, row in enumerate(rows) for s in row.nodes]
    reads = plan_reads(rows, spans, order)
    more = reads.at, reads.targets, reads.tops
    batch, on_device = to_device_batch(forward, rows, reads.states, more)
    cache = forward.full_cache() if keep or rows[0].branches else None
    states = batch_states(forward, batch, cache)  # (N, H)
    kept = None
    if keep:
        last = {s: (r, rows[r].nodes[s][-1]) for r, s in order if spans[s].top}
        kept = PrefilledBatch(cache, batch.ends, batch.positions, last)
    scores, ties = scores_of(forward, states, reads, on_device, spans)
    return scores, kept, ties


def scores_of(
    forward: Forward,
    states: Tensor,
    reads: Reads,
    on_device: Sequence[Tensor],
    spans: Sequence[Span],
) -> tuple[dict[int, SpanScores], Tokens]:
    """Scores by the hidden states (N, H) that are read; the ties seen.

    `on_device` are `reads.at`, `reads.targets` and `reads.tops`.
    """
    values = _read_logits(forward, states, reads, on_device).cpu().numpy()  # the one copy back
    scores, ties = _unpack(values, reads, [(s, spans[s]) for s in reads.spans])
    count, chunk = len(states), forward.chunk
    chunks = [min(chunk, count - begin) for begin in range(0, count, chunk)]
    return scores, tie_counts(chunks, ties)


def to_device_batch(
    forward: Forward, rows: Sequence[TreeRow], reads: Ints, more: Sequence[Ints] = ()
) -> tuple[DeviceBatch, list[Tensor]]:
    """A batch and any further integers on the device, in one copy.

    `rows` are all trees or all paths; `reads` (N,) are at least one of the B * T states.
    """
    width = max(len(row) for row in rows)
    cut = min(row.straight for row in rows) if rows[0].branches else width
    row, column = np.divmod(reads, width)
    causal = column < cut
    halves = (row * cut + column)[causal], (row * (width - cut) + column - cut)[~causal]
    parts = [*_pad(rows, width), *(h if h.size else np.zeros(1, np.int64) for h in halves)]
    ids, positions, ends, causal_reads, masked_reads, all_reads, *others = to_device(
        [*parts, reads, *more], forward.device
    )
    batch = DeviceBatch(ids, positions, ends, all_reads, cut, causal_reads, masked_reads)
    return batch, others


def _pad(rows: Sequence[TreeRow], width: int) -> tuple[Ints, Ints, Ints]:
    """Token ids, positions and subtree ends, each (B, T); padding sees only itself."""
    ids = np.zeros((len(rows), width), np.int64)
    positions = np.zeros_like(ids)
    ends = np.tile(np.arange(1, width + 1), (len(rows), 1))
    for r, row in enumerate(rows):
        ids[r, : len(row)] = row.tokens
        positions[r, : len(row)] = row.positions
        ends[r, : len(row)] = row.ends
    return ids, positions, ends


def to_device(arrays: Sequence[Ints], device: torch.device) -> list[Tensor]:
    """Integer arrays as tensors on the device, in one copy."""
    packed = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    if device.type == "cuda":
        packed = packed.pin_memory()
    moved = torch.split(packed.to(device, non_blocking=True), [array.size for array in arrays])
    return [tensor.view(array.shape) for tensor, array in zip(moved, arrays, strict=True)]


def batch_states(forward: Forward, batch: DeviceBatch, cache: Any) -> Tensor:
    """Hidden states (N, H) that are read of a batch.

    The columns before any row branches take the plain causal path, which skips half of the
    attention that a mask would compute; the others follow over their keys and values.
    """
    ids, cut = batch.ids, batch.causal_columns
    states = forward.trunk(ids[:, :cut], batch.causal_reads, past_key_values=cache)
    if cut < ids.shape[1]:
        positions = batch.positions[:, cut:]
        masked = forward.trunk(
            ids[:, cut:],
            batch.masked_reads,
            position_ids=positions,
            attention_mask=forward.mask(tree_allowed(batch.ends, cut), positions, batch.positions),
            past_key_values=cache,
        )
        states = torch.cat([states, masked], dim=1)
    return states.flatten(0, 1)[batch.reads]


def plan_reads(
    rows: Sequence[TreeRow], spans: Sequence[Span], order: Sequence[tuple[int, int]]
) -> Reads:
    """Which logits the spans of `order`, (row, span), read in rows of equal width."""
    width = max(len(row) for row in rows)
    read: list[int] = []
    targets: list[int] = []
    tops: list[int] = []
    for r, s in order:
        states = [r * width + node for node in rows[r].nodes[s]]
        if spans[s].targets:
            read.extend(states)
            targets.extend(spans[s].targets)
        if spans[s].top:
            tops.append(states[-1])
    distinct = np.unique(np.array(read + tops, np.int64))
    at = np.searchsorted(distinct, np.array(read, np.int64))
    by_state = np.argsort(at, kind="stable")
    return Reads(
        distinct,
        at[by_state],
        np.array(targets, np.int64)[by_state],
        by_state,
        np.unique(np.searchsorted(distinct, np.array(tops, np.int64))),
        [s for _, s in order],
    )


def _read_logits(
    forward: Forward, states: Tensor, reads: Reads, on_device: Sequence[Tensor]
) -> Tensor:
    """One flat float32 tensor, so that one copy brings everything back.

    R log-probabilities, R greedy flags, TOP token ids per top, the highest logit per top, and the
    number of ties. Float32 represents all of these exactly (ids are below 2^24).
    """
    at, targets, tops = on_device
    chunk = forward.chunk
    logprobs: list[Tensor] = []
    greedy: list[Tensor] = []
    best: list[Tensor] = []
    highest: list[Tensor] = []
    ties: list[Tensor] = []
    for begin in range(0, len(states), chunk):
        logits = forward.head(states[begin : begin + chunk])  # (C, V) float32
        ties.append(tied(logits)[None])
        peak = logits.amax(dim=-1)
        first, last = np.searchsorted(reads.tops, [begin, begin + chunk])
        if first < last:
            row = tops[first:last] - begin
            top = logits[row].topk(min(TOP, logits.shape[1])).indices
            best.append(torch.nn.functional.pad(top, (0, TOP - top.shape[1])).flatten())
            highest.append(peak[row])
        first, last = np.searchsorted(reads.at, [begin, begin + chunk])
        row, target = at[first:last] - begin, targets[first:last]
        is_peak = logits[row, target] == peak[row]
        greedy.append(_is_argmax(logits, row, target, is_peak))
        logprobs.append(target_logprobs(logits, peak, row, target))  # overwrites the logits
    parts = (*logprobs, *greedy, *best, *highest, torch.cat(ties).sum()[None])
    return torch.cat([part.float() for part in parts])


def _is_argmax(logits: Tensor, row: Tensor, target: Tensor, highest: Tensor) -> Tensor:
    """Which targets are the argmax of their row, where ties go to the lowest token id.

    On a CPU a maximum alone is several times faster than an argmax, so that only rows whose target
    has the highest logit (`highest`) are searched for an equal one before it. On an accelerator
    that would wait for the device.
    """
    if logits.device.type != "cpu":
        return logits.argmax(dim=-1)[row] == target
    is_argmax = highest.clone()
    candidates = torch.nonzero(highest).squeeze(1)
    is_argmax[candidates] = logits[row[candidates]].argmax(dim=-1) == target[candidates]
    return is_argmax


def _unpack(
    values: NDArray[np.float32], reads: Reads, order: Sequence[tuple[int, Span]]
) -> tuple[dict[int, SpanScores], float]:
    """The scores of each span and the number of ties, from what `_read_logits` returns."""
    count, tops_count = len(reads.targets), len(reads.tops)
    ends = np.cumsum([count, count, TOP * tops_count, tops_count])
    sorted_logprobs, sorted_greedy, best, highest, ties = np.split(values, ends)
    logprobs, greedy = np.empty(count, np.float32), np.empty(count, np.bool_)
    logprobs[reads.order], greedy[reads.order] = sorted_logprobs, sorted_greedy > 0.5
    tops = iter(best.reshape(-1, TOP).astype(np.int64).tolist())
    peaks = iter(highest.tolist())
    scores: dict[int, SpanScores] = {}
    begin = 0
    for s, span in order:
        end = begin + len(span.targets)
        top = tuple(next(tops)) if span.top else ()
        if span.top:
            check_finite(next(peaks), span)
        scores[s] = SpanScores(logprobs[begin:end], greedy[begin:end], top)
        begin = end
    return scores, ties[0]


def check_finite(highest: float, span: Span) -> None:
    """Refuse the most probable tokens of logits without a finite maximum: NaN is above all."""
    if not np.isfinite(highest):
        message = f"the highest logit after its context is {highest}, expected a finite number"
        raise NumericsError(message, query=span)
