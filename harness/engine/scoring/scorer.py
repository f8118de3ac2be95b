"""Spans and word queries -> answers, batch by batch.

Rows run longest first. After running out of memory the budget is halved and the remaining rows go
on. Batches are planned from all queries, including those with a known answer, so that an
interrupted run is resumed with the same batches as an undisturbed one, and gives the same bits.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence

from harness.core import Tokens
from harness.engine.model.forward import Forward
from harness.engine.model.out_of_memory import recover
from harness.engine.queries.prefix_groups import GroupRow
from harness.engine.queries.prefix_tree import TreeRow, batches
from harness.engine.queries.query import Advance, Answer, Query, Span, SpanScores, WordQuery
from harness.engine.scoring.logprobs import PrefilledBatch, score
from harness.engine.scoring.next_word import NextTokens, run_searches
from harness.engine.scoring.planner import Planner
from harness.engine.scoring.shared_states import KeptState, SharedStates
from harness.engine.scoring.word_search import TokenTexts, WordSearch
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import NumericsError

log = logging.getLogger(__name__)

Needed = Mapping[Span, Sequence[WordQuery]]
"""Spans that need an answer, and the word queries that begin at each."""


class Scorer:
    """Scores spans and searches for words with one model.

    `budget` is in padded tokens per batch; `tokens` is the cost of the answers so far.
    """

    def __init__(
        self,
        forward: Forward,
        planner: Planner,
        tokenizer: Tokenizer,
        budget: int,
        states: SharedStates,
    ) -> None:
        self.tokens = Tokens()
        self._states = states
        self._forward, self._planner, self._budget = forward, planner, budget
        self._strings = TokenTexts(tokenizer)
        self._space_apart = tokenizer.has_lone_spaces

    def answer(
        self, queries: Sequence[Span | WordQuery], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each batch; see `Backend.answer`. Progress is in tokens of rows."""
        spans = list(dict.fromkeys(query.span for query in queries))
        needed: dict[Span, list[WordQuery]] = {}
        for query in queries:
            if query not in known:
                searches = needed.setdefault(query.span, [])
                if isinstance(query, WordQuery):
                    searches.append(query)
        rows = self._planner.rows(spans) if needed else []
        total = sum(len(row) for row in rows)
        done = 0
        advance(done, total)
        while rows:
            batch = next(batches(rows, self._budget, self._forward.rope_limit))
            try:
                answers = self._answer_batch(batch, spans, needed)
            except (RuntimeError, MemoryError) as error:
                width = len(batch[0])
                smallest = len(batch) == 1 and not self._fewer_copies(batch[0])
                single = f"a single row of {width} tokens" if smallest else ""
                recover(error, self._forward.device, single, self._forward.processes)
                self._budget = max(width, min(self._budget, width * len(batch)) // 2)
                self._forward.limit_compiled(self._budget)
                log.warning("out of memory: going on with batches of %d tokens", self._budget)
                continue
            rows = rows[len(batch) :]
            done += sum(len(row) for row in batch)
            advance(done, total)
            if answers:
                yield answers

    def _fewer_copies(self, row: TreeRow) -> bool:
        """Make fewer copies of states at once; whether that is possible for a row."""
        return isinstance(row, GroupRow) and self._states.halve()

    def _answer_batch(
        self, batch: Sequence[TreeRow], spans: Sequence[Span], needed: Needed
    ) -> dict[Query, Answer]:
        """The answers needed of a batch. It runs as planned if all of its spans are needed."""
        in_batch = [spans[s] for row in batch for s in row.nodes]
        left = [span for span in in_batch if span in needed]
        if len(left) == len(in_batch):
            return self._score(batch, spans, needed)
        answers: dict[Query, Answer] = {}
        rows = self._planner.rows(left)
        for part in batches(rows, self._budget, self._forward.rope_limit):
            answers |= self._score(part, left, needed)
        return answers

    def _score(
        self, batch: Sequence[TreeRow], spans: Sequence[Span], needed: Needed
    ) -> dict[Query, Answer]:
        if isinstance(batch[0], GroupRow) and len(batch) > 1:  # each has a prefix of its own
            return {q: a for row in batch for q, a in self._score([row], spans, needed).items()}
        in_batch = [spans[s] for row in batch for s in row.nodes]
        keep = self._planner.sharing is not None and any(span.top for span in in_batch)
        with self._forward.inference():
            try:
                scores, prefilled, ties = self._scores(batch, spans, keep=keep)
                answers = self._search(scores, prefilled, spans, needed)
            except NumericsError as error:
                [error.query, *_] = needed[error.query]  # the search that began with this span
                raise
        reads = sum(max(len(span.targets), 1) for span in in_batch)
        self.tokens += Tokens(computed=sum(len(row) for row in batch), scored=reads) + ties
        for s, span_scores in scores.items():
            if not spans[s].top:
                answers[spans[s]] = Answer(span_scores, len(spans[s].inputs))
        return answers

    def _scores(
        self, batch: Sequence[TreeRow], spans: Sequence[Span], *, keep: bool
    ) -> tuple[dict[int, SpanScores], PrefilledBatch | KeptState | None, Tokens]:
        """Scores of a batch, what is kept of it, and the ties seen."""
        method = self._planner.state_method
        if isinstance(batch[0], GroupRow):
            assert method is not None, "groups are arranged for a method"
            return self._states.score(batch[0], spans, method)
        return score(self._forward, batch, spans, keep=keep)

    def _search(
        self,
        scores: Mapping[int, SpanScores],
        prefilled: PrefilledBatch | KeptState | None,
        spans: Sequence[Span],
        needed: Needed,
    ) -> dict[Query, Answer]:
        """The answers to all word queries of a batch."""
        searches: list[tuple[int, WordSearch]] = []
        self._strings.add(token for span_scores in scores.values() for token in span_scores.top)
        for s, span_scores in scores.items():
            for query in needed[spans[s]] if spans[s].top else ():
                string, apart = self._strings.__getitem__, self._space_apart
                searches.append((s, WordSearch(query, span_scores.top, string, apart)))
        next_tokens = NextTokens(self._forward, spans, prefilled, self._budget)
        run_searches(searches, next_tokens)
        self.tokens += next_tokens.tokens
        return {
            search.query: Answer(search.result, search.tokens_fed())
            for _, search in searches
            if search.result is not None
        }
