"""Spans and searches -> answers: batch after batch, each complete when it is handed on.

Rows run longest first. When memory runs out the budget is halved and the same rows go on.
Batches are planned from all questions, those with a known answer included, so that a run that
was stopped is continued with the very batches of an undisturbed one, and comes to the same bits.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from harness.core import NextWord, Tokens
from harness.engine.model.forward import Forward
from harness.engine.model.out_of_memory import is_out_of_memory
from harness.engine.queries.encode import Span
from harness.engine.queries.prefix_tree import TreeRow, batches
from harness.engine.queries.query import Advance, Answer, Query, SpanScores, WordQuery
from harness.engine.scoring.logprobs import Prefilled, score
from harness.engine.scoring.next_word import Following, WordSearch, search_all
from harness.engine.scoring.planner import Planner
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import CheckpointError

log = logging.getLogger(__name__)


class Scorer:
    """Scores spans and searches for words with one model.

    Args:
        forward: the model.
        planner: arranges rows.
        tokenizer: for the texts of tokens.
        budget: padded tokens a batch.

    Attributes:
        tokens: what the answers so far have cost.
    """

    def __init__(
        self, forward: Forward, planner: Planner, tokenizer: Tokenizer, budget: int
    ) -> None:
        self.tokens = Tokens()
        self._forward, self._planner, self._budget = forward, planner, budget
        self._strings = _Strings(tokenizer)
        self._space_apart = tokenizer.has_lone_spaces

    def answer(
        self, asked: Sequence[Span | WordQuery], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each batch.

        Args:
            asked: distinct questions.
            known: those among them that need no answer.
            advance: called with the row tokens done so far and in all.

        Raises:
            CheckpointError: memory does not hold a single row.
        """
        wanted: dict[Span, list[WordQuery]] = defaultdict(list)
        spans = list(dict.fromkeys(fed(question) for question in asked))
        for question in asked:
            if question not in known:
                wanted[fed(question)] += [question] if isinstance(question, WordQuery) else []
        rows = self._planner.rows(spans) if wanted else []
        total = sum(len(row) for row in rows)
        done = 0
        advance(done, total)
        while rows:
            batch = next(batches(rows, self._budget, self._forward.rope_limit))
            try:
                answers = self._answer_batch(batch, spans, wanted)
            except (RuntimeError, MemoryError) as error:
                self._shrink(error, batch)
                continue
            rows = rows[len(batch) :]
            done += sum(len(row) for row in batch)
            advance(done, total)
            if answers:
                yield answers

    def _answer_batch(
        self,
        batch: Sequence[TreeRow],
        spans: Sequence[Span],
        wanted: Mapping[Span, list[WordQuery]],
    ) -> dict[Query, Answer]:
        """Answers to what is wanted of a batch; it runs as planned if that is all of it."""
        held = [spans[s] for row in batch for s in row.nodes]
        mine = [span for span in held if span in wanted]
        if len(mine) == len(held):
            return self._score(batch, spans, wanted)
        found: dict[Query, Answer] = {}
        rest = self._planner.rows(mine)
        while rest:
            part = next(batches(rest, self._budget, self._forward.rope_limit))
            found |= self._score(part, mine, wanted)
            rest = rest[len(part) :]
        return found

    def _score(
        self,
        batch: Sequence[TreeRow],
        spans: Sequence[Span],
        wanted: Mapping[Span, list[WordQuery]],
    ) -> dict[Query, Answer]:
        keep = self._planner.shares and any(spans[s].top for row in batch for s in row.nodes)
        with torch.inference_mode():
            scores, kept = score(self._forward, batch, spans, keep=keep)
            found = self._search(scores, kept, spans, wanted)
        reads = sum(max(len(spans[s].targets), 1) for row in batch for s in row.nodes)
        self.tokens += Tokens(computed=sum(len(row) for row in batch), scored=reads)
        for s, scored in scores.items():
            if not spans[s].top:
                found[spans[s]] = Answer(scored, len(spans[s].inputs))
        return found

    def _search(
        self,
        scores: Mapping[int, SpanScores],
        kept: Prefilled | None,
        spans: Sequence[Span],
        wanted: Mapping[Span, list[WordQuery]],
    ) -> dict[Query, Answer]:
        """The words of all searches of a batch."""
        searches: dict[int, tuple[int, WordSearch]] = {}
        asked: list[WordQuery] = []
        for s, scored in scores.items():
            for search in wanted[spans[s]] if spans[s].top else ():
                request = NextWord("", search.skip, search.among, search.rule)  # type: ignore[arg-type]
                string, apart = self._strings.__getitem__, self._space_apart
                searches[len(asked)] = s, WordSearch(request, scored.top, string, apart)
                asked.append(search)
        following = Following(self._forward, spans, kept, self._budget)
        words = search_all(searches, following)
        self.tokens += following.tokens
        return {
            asked[k]: Answer(word, searches[k][1].asked(len(asked[k].inputs)))
            for k, word in words.items()
        }

    def _shrink(self, error: RuntimeError | MemoryError, batch: Sequence[TreeRow]) -> None:
        """Halve the budget after running out of memory; anything else is raised again."""
        if not is_out_of_memory(error):
            raise error
        if len(batch) == 1:
            raise CheckpointError(
                f"out of memory on a single row of {len(batch[0])} tokens; use a smaller "
                "--context, --dtype bfloat16 or another device"
            ) from error
        if self._forward.device.type != "cpu":
            torch.accelerator.empty_cache()
        width = len(batch[0])
        self._budget = max(width, min(self._budget, width * len(batch)) // 2)
        log.warning("out of memory: going on with batches of %d tokens", self._budget)


def fed(question: Span | WordQuery) -> Span:
    """The span that is fed for a question."""
    return question if isinstance(question, Span) else Span(question.inputs, (), top=True)


class _Strings(dict[int, str]):
    """Token id -> its text, decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: int) -> str:
        text = self[token] = self._tokenizer.token_texts([token])[0]
        return text
