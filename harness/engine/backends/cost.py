"""Estimate what requests will cost: tokens, rows, memory and time.

Time is arithmetic over the batches that will be run, with rates measured on made-up tokens; no
token of the data is fed. Generated texts are assumed to be as long as they may be, so their cost is
an upper bound.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.engine.backends.machine import resident_bytes
from harness.engine.backends.rates import Rates
from harness.engine.decoding.generator import Generator
from harness.engine.decoding.rows import Limits
from harness.engine.model.forward import Forward
from harness.engine.queries.prefix_tree import TreeRow, batches
from harness.engine.queries.query import GenerationQuery, Query, Span, WordQuery
from harness.engine.scoring.planner import Planner

# Cost of a word search, measured on LAMBADA: paths behind its context, and their tokens.
SEARCH_PATHS, SEARCH_TOKENS = 6, 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of one task's requests."""

    queries: int  # distinct ones
    asked: int  # tokens that separate requests would feed
    stored: int  # tokens of these that the response cache answers
    computed: int  # tokens that will be fed
    rows: int
    largest: int  # padded tokens of the largest batch
    seconds: float
    peak_bytes: int
    at_most: bool  # whether the cost is an upper bound, because texts are generated

    @property
    def sharing(self) -> float:
        """Tokens asked per token computed."""
        return (self.asked - self.stored) / max(self.computed, 1)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Estimates costs from how the model is run."""

    forward: Forward
    planner: Planner
    generator: Generator
    limits: Limits
    rates: Rates

    def estimate(self, counts: Mapping[Query, int], known: Collection[Query]) -> Estimate:
        """Estimate the cost of queries.

        Args:
            counts: query -> how many requests it belongs to.
            known: queries that need no answer.
        """
        left = [query for query in counts if query not in known]
        scored, generated = self._scored(left), self._generated(left)
        asked = {query: asked_tokens(query) * count for query, count in counts.items()}
        return Estimate(
            queries=len(counts),
            asked=sum(asked.values()),
            stored=sum(asked[query] for query in known),
            computed=scored.tokens + generated.tokens,
            rows=scored.rows + generated.rows,
            largest=scored.largest,
            seconds=scored.seconds + generated.seconds,
            peak_bytes=(resident_bytes() or _weight_bytes(self.forward))
            + max(scored.peak_bytes, generated.peak_bytes),
            at_most=generated.rows > 0,
        )

    def _scored(self, queries: Sequence[Query]) -> "_Part":
        """Cost of log-probabilities and word searches."""
        spans = list(dict.fromkeys(q.span for q in queries if not isinstance(q, GenerationQuery)))
        rows = self.planner.rows(spans) if spans else []
        planned = list(batches(rows, self.limits.prefill, self.forward.rope_limit))
        searches = sum(span.top for span in spans)
        largest = peak = 0
        for batch in planned:
            width = max(len(row) for row in batch)
            kept = batch[0].branches or searches > 0
            largest = max(largest, len(batch) * width)
            peak = max(peak, batch_bytes(self.forward, len(batch) * width, width, kept=kept))
        return _Part(
            tokens=sum(len(row) for row in rows) + SEARCH_TOKENS * searches,
            rows=len(rows),
            seconds=sum(_batch_seconds(batch, spans, self.rates) for batch in planned),
            peak_bytes=peak,
            largest=largest,
        )

    def _generated(self, queries: Sequence[Query]) -> "_Part":
        """Cost of generated texts, at most."""
        left = [query for query in queries if isinstance(query, GenerationQuery)]
        if not left:
            return _Part()
        rates, forward = self.rates, self.forward
        rows = [planned.row for planned in self.generator.plan(left)]
        prefills = [(len(row), rates.tree if row.branches else rates.path) for row in rows]
        # Without a KV cache, all tokens before a new one are fed again.
        prefills += [
            (length, rates.path)
            for query in self.generator.full_passes(left)
            for length in range(len(query.prompt), len(query.prompt) + query.max_new_tokens - 1)
        ]
        new = sum(query.max_new_tokens for query in left)
        prefill_bytes = batch_bytes(forward, self.limits.prefill, forward.context, kept=True)
        return _Part(
            tokens=sum(length for length, _ in prefills) + new - len(left),
            rows=len(rows),
            seconds=sum(length * rates.token + length**2 * pair for length, pair in prefills)
            + new * (rates.step + rates.head),
            peak_bytes=prefill_bytes + self.limits.cache_bytes,
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """Cost of one kind of queries."""

    tokens: int = 0
    rows: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    largest: int = 0


def asked_tokens(query: Query) -> int:
    """Tokens that a separate run of a query would feed."""
    if isinstance(query, GenerationQuery):
        return len(query.prompt) + query.max_new_tokens - 1
    if isinstance(query, WordQuery):
        return len(query.inputs) * (1 + SEARCH_PATHS) + SEARCH_TOKENS
    return len(query.inputs)


def _batch_seconds(batch: Sequence[TreeRow], spans: Sequence[Span], rates: Rates) -> float:
    """Time of one batch of rows that are scored."""
    width = max(len(row) for row in batch)
    tokens = len(batch) * width
    pair = rates.tree if batch[0].branches else rates.path
    reads = sum(max(len(spans[s].targets), 1) for row in batch for s in row.nodes)
    searches = sum(spans[s].top for row in batch for s in row.nodes)
    seconds = tokens * rates.token + tokens * width * pair + reads * rates.head
    return seconds + searches * SEARCH_TOKENS * (rates.step + rates.head / 2)


def batch_bytes(forward: Forward, tokens: int, width: int, *, kept: bool) -> int:
    """Memory of a batch of `tokens` padded tokens, `width` per row, without the weights.

    `kept` tells whether keys and values are kept.
    """
    hidden = forward.width
    inner = _inner_size(forward.model.config.get_text_config()) or 4 * hidden
    size = int(forward.model.dtype.itemsize)
    activations = tokens * (8 * hidden + 3 * inner) * size
    cache = tokens * forward.cache_bytes_per_token() if kept else 0
    mask = tokens * width * size if kept else 0
    logits = forward.chunk * forward.vocabulary * 4
    # A model whose own head is used computes logits at every position, and scales them in a copy.
    everywhere = tokens * forward.vocabulary * size if forward.all_logits else 0
    return activations + cache + mask + 2 * (logits + everywhere)


def _inner_size(config: Any) -> int:
    """Width of the widest feed-forward layer according to the config; 0 if it has none."""
    for name in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"):
        value = getattr(config, name, None)
        sizes = value if isinstance(value, list | tuple) else [value]
        if sizes and all(isinstance(size, int) for size in sizes):
            return int(max(sizes))
    return 0


def _weight_bytes(forward: Forward) -> int:
    return sum(p.numel() * p.element_size() for p in forward.model.parameters())
