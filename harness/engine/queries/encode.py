"""Requests -> queries: tokens, with the boundary rule, windows and truncation.

    Loglikelihood("The cat", " sat")  ->  start + [The][ cat] | [ sat]
                                          inputs: all but the last token; targets: after the bar

All requests are encoded before the first forward pass. What will be truncated, crosses a token
boundary or is empty is therefore counted, and refused under --strict, before anything is computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.core import (
    Encoding,
    Generate,
    Loglikelihood,
    NextWord,
    Request,
    RollingLoglikelihood,
)
from harness.engine.queries.query import GenerationQuery, Query, Span, WordQuery
from harness.engine.queries.windows import windows
from harness.engine.tokenizer.text_loss import NO_LOSS, EncodedText, TextLoss, text_losses
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import EncodingError

WORD_TOKENS = 6  # NextWord: one first token and at most five more


@dataclass(frozen=True, slots=True)
class Encoded:
    """One request as queries."""

    queries: tuple[Query, ...]  # several for a text longer than the context, none for an empty one
    pieces: tuple[int, ...] = ()  # rolling requests: how many scored tokens belong to each piece
    truncated: bool = False
    crossing: bool = False  # a token lies across context and continuation
    characters: int = 0  # length of the text, if the tokenizer loses some of any request
    loss: TextLoss = NO_LOSS  # what it loses of this one

    @property
    def spans(self) -> tuple[Span, ...]:
        """The tokens that each query feeds and predicts."""
        return tuple(query.span for query in self.queries)


Encodings = dict[tuple[str, int, int | None, Encoding, tuple[Request, ...]], list[Encoded]]
"""(tokenizer digest, context, vocabulary, encoding, requests) -> the requests, encoded."""


class Encoder:
    """Turns requests into queries for one tokenizer and one context length.

    Args:
        tokenizer: of the checkpoint.
        context: how many tokens the model may be fed at once.
        cache: encoded requests, shared by checkpoints with equal tokenizers.
        vocabulary: number of tokens that the model has; None if unknown.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context: int,
        cache: Encodings | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self.tokenizer, self.context = tokenizer, context
        self._cache, self._vocabulary = cache, vocabulary

    def encode(self, requests: Sequence[Request], encoding: Encoding) -> list[Encoded]:
        """Encode requests, in order.

        Raises:
            EncodingError: a continuation has no tokens, or more than the context holds; text to
                score has no token but the unknown one; or a token is beyond the model's
                vocabulary. The attribute `request` of the error is the index.
        """
        if self._cache is None:
            return self._encode(requests, encoding)
        key = (self.tokenizer.digest, self.context, self._vocabulary, encoding, tuple(requests))
        if key not in self._cache:
            self._cache[key] = self._encode(requests, encoding)
        return self._cache[key]

    def _encode(self, requests: Sequence[Request], encoding: Encoding) -> list[Encoded]:
        start = self.tokenizer.start_tokens(encoding.bos)
        pairs = {
            i: _context_and_continuation(request)
            for i, request in enumerate(requests)
            if not isinstance(request, RollingLoglikelihood)
        }
        texts = {text: None for pair in pairs.values() for text in (pair[0], "".join(pair))}
        ids = dict(zip(texts, self.tokenizer.encode(list(texts)), strict=True))
        read = {i: EncodedText("".join(p), ids["".join(p)], len(p[0])) for i, p in pairs.items()}
        result: list[Encoded] = []
        for i, request in enumerate(requests):
            try:
                if isinstance(request, RollingLoglikelihood):
                    encoded, read[i] = self._rolling(request, start, encoding)
                elif isinstance(request, NextWord):
                    encoded = self._next_word(request, ids[request.context], start)
                elif isinstance(request, Generate):
                    encoded = self._generate(request, ids[request.prompt], start)
                else:
                    encoded = self._loglikelihood(pairs[i], ids, start, encoding)
                self._check_vocabulary(encoded)
            except EncodingError as error:
                error.request = i
                raise
            result.append(encoded)
        return self._with_losses(result, [read[i] for i in range(len(requests))])

    def _with_losses(self, encoded: list[Encoded], read: Sequence[EncodedText]) -> list[Encoded]:
        """Add what the tokenizer lost of each text; raises as `text_losses` does."""
        lost = text_losses(self.tokenizer, read)
        if not any(loss.lost for loss in lost):
            return encoded
        return [
            replace(e, characters=len(r.text), loss=loss)
            for e, r, loss in zip(encoded, read, lost, strict=True)
        ]

    def _check_vocabulary(self, encoded: Encoded) -> None:
        """The tokenizer may have more tokens than the model, but must not use them."""
        if self._vocabulary is None or self.tokenizer.largest_id < self._vocabulary:
            return
        largest = max((max(*span.inputs, *span.targets) for span in encoded.spans), default=-1)
        if largest >= self._vocabulary:
            raise EncodingError(
                f"token {largest} ({self.tokenizer.token_name(largest)!r}) is beyond the "
                f"{self._vocabulary:,} tokens of the model; tokenizer and weights do not belong "
                "together"
            )

    def _loglikelihood(
        self,
        pair: tuple[str, str],
        ids: dict[str, list[int]],
        start: tuple[int, ...],
        encoding: Encoding,
    ) -> Encoded:
        context, joined = ids[pair[0]], ids["".join(pair)]
        crossing = joined[: len(context)] != context
        after = self.tokenizer.encode_continuation(pair[1]) if crossing else joined[len(context) :]
        if not context and not start and encoding.bos == "tokenizer":
            start = self.tokenizer.start_tokens("auto")
        if not context and not start:  # nothing to condition on: the first token is only context
            context, after = after[:1], after[1:]
        if not after:
            raise EncodingError(f"continuation {pair[1]!r} has no token to score")
        if len(after) > self.context:
            raise EncodingError(
                f"a continuation of {len(after)} tokens does not fit the context of "
                f"{self.context}; expected a longer --context, if the model has one"
            )
        room = self.context + 1 - len(after)
        kept, truncated = _truncate_left(context, start, room)
        tokens = (*kept, *after)
        return Encoded((Span(tokens[:-1], tuple(after)),), truncated=truncated, crossing=crossing)

    def _next_word(self, request: NextWord, context: list[int], start: tuple[int, ...]) -> Encoded:
        if not context and not start:
            raise EncodingError("NextWord needs a context or a start token")
        kept, truncated = _truncate_left(context, start, self.context - WORD_TOKENS)
        query = WordQuery(kept, request.skip, request.among, request.rule)
        return Encoded((query,), truncated=truncated)

    def _generate(self, request: Generate, prompt: list[int], start: tuple[int, ...]) -> Encoded:
        room = self.context - request.max_new_tokens
        if room < 1:
            raise EncodingError(
                f"{request.max_new_tokens} new tokens leave no room for a prompt in the context of "
                f"{self.context}; expected fewer new tokens or a longer --context"
            )
        if not prompt and not start:
            raise EncodingError("Generate needs a prompt or a start token")
        truncated = len(start) + len(prompt) > room
        if truncated:
            prompt = self._shorten(request, prompt, room - len(start))
        kept, _ = _truncate_left(prompt, start, room)
        seed = request.seed if request.top_k > 1 else ()
        query = GenerationQuery(kept, request.max_new_tokens, request.stop, request.top_k, seed)
        return Encoded((query,), truncated=truncated)

    def _shorten(self, request: Generate, prompt: list[int], room: int) -> list[int]:
        """The prompt's tokens, shortened as `overflow` says; may still be too long."""
        first, *others = request.parts
        if request.overflow == "right":
            tail = self.tokenizer.encode_continuation("".join(others))
            head = self.tokenizer.encode([first])[0]
            return [*head[: max(room - len(tail), 0)], *tail]
        if request.overflow == "turns":
            for oldest in range(1, len(others)):
                prompt = self.tokenizer.encode([first + "".join(others[oldest:])])[0]
                if len(prompt) <= room:
                    break
        return prompt

    def _rolling(
        self, request: RollingLoglikelihood, start: tuple[int, ...], encoding: Encoding
    ) -> tuple[Encoded, EncodedText]:
        text, ends = _join(request.pieces)
        ids, starts = self.tokenizer.encode_with_starts(text)
        if encoding.windows == "hf":
            start = ()
        sequence = (*start, *ids)
        plan = windows(
            len(sequence),
            context=self.context,
            stride=min(encoding.stride or self.context, self.context),
            kind=encoding.windows,
            given=len(start),
        )
        spans = tuple(
            Span(sequence[w.start : w.stop - 1], sequence[w.first : w.stop]) for w in plan
        )
        scored = [k - len(start) for w in plan for k in range(w.first, w.stop)]
        piece_of = np.searchsorted(ends, starts[scored], side="right")
        counts = np.bincount(piece_of, minlength=len(request.pieces))
        return Encoded(spans, pieces=tuple(int(n) for n in counts)), EncodedText(text, ids, 0)


def _context_and_continuation(request: Loglikelihood | NextWord | Generate) -> tuple[str, str]:
    """Context and continuation; white space at the end of a context opens the continuation."""
    if isinstance(request, Generate):
        return request.prompt, ""
    if isinstance(request, NextWord):
        return request.context, ""
    context = request.context.rstrip() or request.context
    return context, request.context[len(context) :] + request.continuation


def _truncate_left(
    context: list[int], start: tuple[int, ...], room: int
) -> tuple[tuple[int, ...], bool]:
    """Start token and context in at most `room` tokens, and whether the oldest were dropped.

    The start token stays unless there is no room for it.
    """
    if len(start) + len(context) <= room:
        return (*start, *context), False
    start = start if room > len(start) else ()
    return (*start, *context[len(context) - (room - len(start)) :]), True


def _join(pieces: tuple[str, ...] | tuple[bytes, ...]) -> tuple[str, NDArray[np.int64]]:
    """The joined text, and the character at which each piece ends (exclusive)."""
    if any(isinstance(piece, bytes) for piece in pieces):
        joined = b"".join(p for p in pieces if isinstance(p, bytes))
        text = joined.decode("utf-8", "surrogateescape")
        sizes = np.array([len(p) for p in pieces], np.int64)
        # Byte at which each character ends; a piece that ends inside a character counts it.
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        escaped = (points >= 0xDC80) & (points <= 0xDCFF)
        widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
        byte_ends = np.cumsum(np.where(escaped, 1, widths))
        return text, np.searchsorted(byte_ends, np.cumsum(sizes), side="right")
    lengths = np.array([len(p) for p in pieces], np.int64)
    return "".join(p for p in pieces if isinstance(p, str)), np.cumsum(lengths)
