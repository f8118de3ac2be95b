"""The engine: requests in, responses out, each as soon as it is complete.

    requests --encode--> spans --arrange--> rows --batches--> score --> responses

Identical spans run once; rows run longest first; when memory runs out the budget is halved and
the same rows go on. Nothing here knows what a benchmark is.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from harness.core import (
    Encoding,
    Generate,
    Loglikelihood,
    NextWord,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Scored,
    Tokens,
    Word,
)
from harness.engine import probe
from harness.engine.checkpoint import Checkpoint, Identity
from harness.engine.draft import Endings
from harness.engine.encode import Encoded, Encoder, Preflight, Span, preflight
from harness.engine.forward import Forward
from harness.engine.generate import Generator, out_of_memory
from harness.engine.plan import Sharing, TreeRow, arrange, batches
from harness.engine.rows import Limits
from harness.engine.score import Prefilled, SpanScores, score
from harness.engine.tokenizer import Tokenizer
from harness.engine.words import Following, WordSearch, search_all
from harness.errors import CheckpointError, NumericsError

log = logging.getLogger(__name__)

CPU_BUDGET = 2048  # padded tokens a batch; more does not help a CPU, its caches overflow
ACCELERATOR_BUDGET = 16384
# Answers decoded at once: a step reads all weights, so that many share the cost; and bytes of
# the keys and values that they are decoded over.
CPU_ANSWERS, CPU_CACHE = 64, 640 << 20
ACCELERATOR_ANSWERS, ACCELERATOR_CACHE = 256, 4 << 30

Advance = Callable[[int, int], None]
"""Called after each batch with the tokens done so far and in all."""


class Engine:
    """Answers requests with one resident checkpoint.

    Args:
        checkpoint: the loaded model.
        budget: padded tokens a batch; None chooses by the device.
        share: whether requests may share prefixes.

    Attributes:
        tokens: what all answers so far have cost.

    Raises:
        CheckpointError: the model is not causal.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        budget: int | None = None,
        share: bool = True,
    ) -> None:
        self.checkpoint = checkpoint
        self.encoder = Encoder(checkpoint.tokenizer, checkpoint.identity.context)
        self.tokens = Tokens()
        on_cpu = checkpoint.device.type == "cpu"
        self._budget = budget or (CPU_BUDGET if on_cpu else ACCELERATOR_BUDGET)
        self._forward = Forward(checkpoint)
        self._tested: dict[probe.Check, int] = {}  # lengths up to which a check has passed
        self._strings = _Strings(checkpoint.tokenizer)
        self._limits = Limits(
            self._budget,
            CPU_ANSWERS if on_cpu else ACCELERATOR_ANSWERS,
            CPU_CACHE if on_cpu else ACCELERATOR_CACHE,
        )
        self._endings = Endings(checkpoint.tokenizer, checkpoint.ends, self._forward.vocabulary)
        with torch.inference_mode():
            probe.check_model(self._forward, checkpoint.identity.name)
        self._sharing: Sharing | None = None
        if share:
            self._sharing, reason = self._forward.sharing(max(self._budget, 1))
            if reason:
                log.warning("prefixes are not shared: %s", reason)

    @property
    def identity(self) -> Identity:
        """Of the resident checkpoint."""
        return self.checkpoint.identity

    def describe(self) -> dict[str, int | bool]:
        """How requests are run, for the record; none of it may change a score."""
        return {"budget": self._budget, "sharing": self._sharing is not None}

    def encode(self, requests: Sequence[Request], encoding: Encoding) -> list[Encoded]:
        """Tokens of every request; raises as `Encoder.encode` does."""
        return self.encoder.encode(requests, encoding)

    @staticmethod
    def preflight(requests: Sequence[Request], encoded: Sequence[Encoded]) -> Preflight:
        """What is unusual about encoded requests."""
        return preflight(requests, encoded)

    def answer(
        self,
        requests: Sequence[Request],
        encoded: Sequence[Encoded],
        advance: Advance = lambda done, total: None,
    ) -> Iterator[tuple[int, Response]]:
        """(index, response) of every request, in the order in which they become complete.

        Raises:
            NumericsError: a log-probability is not finite; its `request` is the index.
        """
        written = {i: r for i, r in enumerate(requests) if isinstance(r, Generate)}
        read = [i for i in range(len(requests)) if i not in written]
        if read:
            yield from self._read(read, requests, encoded, advance)
        if written:
            yield from self._write(written, encoded, advance)

    def _write(
        self, requests: Mapping[int, Generate], encoded: Sequence[Encoded], advance: Advance
    ) -> Iterator[tuple[int, Response]]:
        """Answers of all `Generate` requests."""
        generator = Generator(self._forward, self._endings, self._limits)
        prompts = {i: encoded[i].spans[0].inputs for i in requests}
        before = generator.tokens
        for i, answer in generator.answer(requests, prompts, self._plan_answers, advance):
            self.tokens += generator.tokens - before
            before = generator.tokens
            yield i, answer
        self.tokens += generator.tokens - before

    def _plan_answers(self, spans: Sequence[Span], grown: int, most: int) -> list[TreeRow] | None:
        """Rows of at most `most` prompts, if branches over a kept prefix are computed rightly."""
        if self._sharing is None:
            return None
        rows = arrange(spans, replace(self._sharing, max_spans=most))
        deepest = max((max(row.positions) + 1 for row in rows if row.branches), default=0)
        return rows if self._shares(deepest, grown) else None

    def _read(
        self,
        read: Sequence[int],
        requests: Sequence[Request],
        encoded: Sequence[Encoded],
        advance: Advance,
    ) -> Iterator[tuple[int, Response]]:
        """Responses to all requests but `Generate`."""
        spans = list(dict.fromkeys(span for i in read for span in encoded[i].spans))
        number = {span: s for s, span in enumerate(spans)}
        owners: dict[int, list[int]] = defaultdict(list)
        missing: dict[int, int] = {}
        for i in read:
            missing[i] = len(encoded[i].spans)
            for span in encoded[i].spans:
                owners[number[span]].append(i)
            if not encoded[i].spans:
                yield i, _response(requests[i], encoded[i], [])
        asked = sum(len(span.inputs) for i in read for span in encoded[i].spans)
        self.tokens += Tokens(asked=asked)
        held: dict[int, SpanScores] = {}
        words: dict[int, Word] = {}
        for scores, found in self._run(spans, requests, owners, advance):
            held.update(scores)
            words.update(found)
            for s in scores:
                for i in owners[s]:
                    missing[i] -= 1
                    if not missing[i]:
                        parts = [held[number[span]] for span in encoded[i].spans]
                        _check_finite(parts, i)
                        word = words.get(i)
                        yield i, word or _response(requests[i], encoded[i], parts)

    def _run(
        self,
        spans: Sequence[Span],
        requests: Sequence[Request],
        owners: Mapping[int, list[int]],
        advance: Advance,
    ) -> Iterator[tuple[dict[int, SpanScores], dict[int, Word]]]:
        """Scores and words of each batch; the planned rows shrink to what memory allows."""
        rows = self._plan(spans)
        total = sum(len(row) for row in rows)
        done = 0
        advance(done, total)
        while rows:
            batch = next(batches(rows, self._budget))
            keep = self._sharing is not None and any(spans[s].top for r in batch for s in r.nodes)
            try:
                with torch.inference_mode():
                    scores, kept = score(self._forward, batch, spans, keep=keep)
                    words = self._words(scores, kept, spans, requests, owners)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                self._shrink(error, batch)
                continue
            rows = rows[len(batch) :]
            done += sum(len(row) for row in batch)
            reads = sum(max(len(spans[s].targets), 1) for row in batch for s in row.nodes)
            self.tokens += Tokens(computed=sum(len(row) for row in batch), scored=reads)
            advance(done, total)
            yield scores, words

    def _plan(self, spans: Sequence[Span]) -> list[TreeRow]:
        """Rows, after making sure that trees of their length are scored rightly."""
        rows = arrange(spans, self._sharing)
        if self._sharing is None:
            return rows
        deepest = max((max(row.positions) + 1 for row in rows if row.branches), default=0)
        searched = max((len(span.inputs) for span in spans if span.top), default=0)
        return rows if self._shares(deepest, searched) else arrange(spans, None)

    def _shares(self, deepest: int, cached: int) -> bool:
        """Whether the model is right on trees and kept prefixes so long; if not, it never shares.

        Args:
            deepest: the longest path of a row with branches.
            cached: the longest path over a kept prefix.
        """
        for check, length in ((probe.honours_trees, deepest), (probe.honours_cache, cached)):
            if not self._passes(check, length):
                self._sharing = None
                log.warning(
                    "prefixes are not shared: at %d tokens this model scores rows with branches "
                    "differently from separate rows",
                    length,
                )
                return False
        return True

    def _passes(self, check: probe.Check, length: int) -> bool:
        """Whether the model passes a check at this length; a longer one that passed counts."""
        if length > self._tested.get(check, 0):
            with torch.inference_mode():
                if not check(self._forward, length):
                    return False
            self._tested[check] = length
        return True

    def _shrink(self, error: RuntimeError, batch: Sequence[TreeRow]) -> None:
        """Halve the budget after running out of memory; anything else is raised again."""
        if not out_of_memory(error):
            raise error
        if len(batch) == 1:
            raise CheckpointError(
                f"out of memory on a single row of {len(batch[0])} tokens; use a smaller "
                "--context, --dtype bfloat16 or another device"
            ) from error
        if self.checkpoint.device.type != "cpu":
            torch.accelerator.empty_cache()
        width = len(batch[0])
        self._budget = max(width, min(self._budget, width * len(batch)) // 2)
        log.warning("out of memory: going on with batches of %d tokens", self._budget)

    def _words(
        self,
        scores: Mapping[int, SpanScores],
        kept: Prefilled | None,
        spans: Sequence[Span],
        requests: Sequence[Request],
        owners: Mapping[int, list[int]],
    ) -> dict[int, Word]:
        """The words of all `NextWord` requests of a batch."""
        string = self._strings.__getitem__
        searches: dict[int, tuple[int, WordSearch]] = {}
        for s, found in scores.items():
            for i in owners[s]:
                request = requests[i]
                if found.top and isinstance(request, NextWord):
                    searches[i] = (s, WordSearch(request, found.top, string))
        following = Following(self._forward, spans, kept, self._budget)
        words = search_all(searches, following)
        self.tokens += following.tokens
        return words


class _Strings(dict[int, str]):
    """Token id -> its text, decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: int) -> str:
        text = self[token] = self._tokenizer.strings([token])[0]
        return text


def _check_finite(parts: Sequence[SpanScores], request: int) -> None:
    for part in parts:
        bad = part.logprobs[~np.isfinite(part.logprobs)]
        if bad.size:
            raise NumericsError(f"a log-probability is {bad[0]}, expected a finite number", request)


def _response(request: Request, encoded: Encoded, parts: Sequence[SpanScores]) -> Response:
    """Scores of a request's spans, in order -> its response."""
    logprobs = [float(x) for part in parts for x in part.logprobs]
    greedy = [bool(x) for part in parts for x in part.greedy]
    if isinstance(request, RollingLoglikelihood):
        pieces: list[Scored] = []
        done = 0
        for count in encoded.pieces:
            stop = done + count
            pieces.append(Scored(tuple(logprobs[done:stop]), tuple(greedy[done:stop])))
            done = stop
        return Rolled(tuple(pieces))
    assert isinstance(request, Loglikelihood), f"no score for {type(request).__name__}"
    return Scored(tuple(logprobs), tuple(greedy))
