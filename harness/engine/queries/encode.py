"""Requests -> spans of tokens, with the boundary rule, windows and preflight.

    Loglikelihood("The cat", " sat")  ->  start + [The][ cat] | [ sat]
                                          inputs: all but the last token; targets: after the bar

Everything is encoded before the first forward pass, so that what will be truncated, crosses a
token boundary or is empty is known, counted and, with `strict`, refused in advance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from harness.core import (
    Encoding,
    Generate,
    Loglikelihood,
    NextWord,
    Request,
    RollingLoglikelihood,
)
from harness.engine.tokenizer.text_loss import NO_LOSS, EncodedText, TextLoss, text_losses
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import EncodingError

WORD_TOKENS = 6  # NextWord: one first token and at most five more


class Span(NamedTuple):
    """Tokens to feed and tokens to predict.

    `targets` are predicted at the last `len(targets)` inputs. With `top` the most probable
    tokens after the last input are wanted as well.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    top: bool = False


class Window(NamedTuple):
    """Feed tokens [start, stop-1), score tokens [first, stop) of a sequence."""

    start: int
    first: int
    stop: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """One request as tokens."""

    spans: tuple[Span, ...]
    pieces: tuple[int, ...] = ()  # rolling: how many scored tokens belong to each piece
    truncated: bool = False
    crossing: bool = False  # the boundary rule found a token across context and continuation
    characters: int = 0  # of the text, where the tokenizer loses some of any request
    loss: TextLoss = NO_LOSS  # what it loses of them


@dataclass(frozen=True, slots=True)
class Preflight:
    """What is unusual about a set of requests; each tuple holds indices into it."""

    requests: int
    truncated: tuple[int, ...]
    crossing: tuple[int, ...]
    empty: tuple[int, ...]
    duplicates: int
    lossy: tuple[int, ...] = ()  # the tokenizer loses characters
    unknown: tuple[int, ...] = ()  # of these, some have no token
    lost_characters: int = 0
    characters: int = 0

    def counts(self) -> dict[str, int]:
        """The numbers, for the record; those of lost text where there is any."""
        found = {
            "truncated": len(self.truncated),
            "crossing": len(self.crossing),
            "empty": len(self.empty),
            "duplicates": self.duplicates,
        }
        if self.lossy:
            found |= {
                "lossy": len(self.lossy),
                "unknown": len(self.unknown),
                "lost_characters": self.lost_characters,
                "characters": self.characters,
            }
        return found


Encodings = dict[tuple[str, int, int | None, Encoding, tuple[Request, ...]], list[Encoded]]
"""Tokenizer digest, context, rows, encoding and requests -> the requests as tokens."""


class Encoder:
    """Turns requests into spans for one tokenizer and one context length.

    Args:
        tokenizer: of the checkpoint.
        context: how many tokens the model may be fed at once.
        known: what is encoded is kept there, and looked for first.
        rows: how many tokens the model has; None if that is not known.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context: int,
        known: Encodings | None = None,
        rows: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self._known = known
        self._rows = rows

    def encode(self, requests: Sequence[Request], encoding: Encoding) -> list[Encoded]:
        """Spans of every request, in order.

        Raises:
            EncodingError: a continuation has no tokens, or more than the context holds; text to
                score has no token but the one for what is unknown; or a token is beyond the
                model's. The attribute `request` of the error is its index.
        """
        if self._known is None:
            return self._encode(requests, encoding)
        key = (self.tokenizer.digest, self.context, self._rows, encoding, tuple(requests))
        if key not in self._known:
            self._known[key] = self._encode(requests, encoding)
        return self._known[key]

    def _encode(self, requests: Sequence[Request], encoding: Encoding) -> list[Encoded]:
        start = self.tokenizer.start_tokens(encoding.bos)
        pairs = {
            i: self._pair(request)
            for i, request in enumerate(requests)
            if not isinstance(request, RollingLoglikelihood)
        }
        texts = {text: None for pair in pairs.values() for text in (pair[0], "".join(pair))}
        ids = dict(zip(texts, self.tokenizer.encode(list(texts)), strict=True))
        read = {i: EncodedText("".join(p), ids["".join(p)], len(p[0])) for i, p in pairs.items()}
        done: list[Encoded] = []
        for i, request in enumerate(requests):
            try:
                if isinstance(request, RollingLoglikelihood):
                    rolled, read[i] = self._rolling(request, start, encoding)
                    done.append(rolled)
                elif isinstance(request, NextWord):
                    done.append(self._next_word(ids[pairs[i][0]], start))
                elif isinstance(request, Generate):
                    done.append(self._prompt(request, ids[pairs[i][0]], start))
                else:
                    done.append(self._loglikelihood(pairs[i], ids, start, encoding))
                self._check_rows(done[-1])
            except EncodingError as error:
                error.request = i
                raise
        return self._with_losses(done, [read[i] for i in range(len(requests))])

    def _with_losses(self, done: list[Encoded], read: Sequence[EncodedText]) -> list[Encoded]:
        """What was encoded, with what the tokenizer lost of it; raises as `text_losses`."""
        found = text_losses(self.tokenizer, read)
        if not any(loss.lost for loss in found):
            return done
        return [
            replace(encoded, characters=len(each.text), loss=loss)
            for encoded, each, loss in zip(done, read, found, strict=True)
        ]

    def _check_rows(self, encoded: Encoded) -> None:
        """The vocabulary may be larger than the model's; a token that is fed or scored may not."""
        if self._rows is None or self.tokenizer.largest_id < self._rows:
            return
        largest = max((max(*span.inputs, *span.targets) for span in encoded.spans), default=-1)
        if largest >= self._rows:
            raise EncodingError(
                f"token {largest} ({self.tokenizer.token_name(largest)!r}) is beyond the "
                f"{self._rows:,} tokens of the model; tokenizer and weights do not belong together"
            )

    @staticmethod
    def _pair(request: Loglikelihood | NextWord | Generate) -> tuple[str, str]:
        """Context and continuation; white space that ends a context opens the continuation."""
        if isinstance(request, Generate):
            return request.prompt, ""
        if isinstance(request, NextWord):
            return request.context, ""
        context = request.context.rstrip() or request.context
        return context, request.context[len(context) :] + request.continuation

    def _loglikelihood(
        self,
        pair: tuple[str, str],
        ids: dict[str, list[int]],
        start: tuple[int, ...],
        encoding: Encoding,
    ) -> Encoded:
        before, whole = ids[pair[0]], ids["".join(pair)]
        crossing = whole[: len(before)] != before
        after = self.tokenizer.encode_continuation(pair[1]) if crossing else whole[len(before) :]
        if not before and not start and encoding.bos == "tokenizer":
            start = self.tokenizer.start_tokens("auto")
        if not before and not start:  # nothing to condition on: the first token is context only
            before, after = after[:1], after[1:]
        if not after:
            raise EncodingError(f"continuation {pair[1]!r} has no token to score")
        if len(after) > self.context:
            raise EncodingError(
                f"a continuation of {len(after)} tokens does not fit the context of "
                f"{self.context}; expected a longer --context or another model"
            )
        room = self.context + 1 - len(after)
        kept, truncated = self._left_truncate(before, start, room)
        tokens = (*kept, *after)
        return Encoded((Span(tokens[:-1], tuple(after)),), truncated=truncated, crossing=crossing)

    def _next_word(self, before: list[int], start: tuple[int, ...]) -> Encoded:
        if not before and not start:
            raise EncodingError("NextWord needs a context or a start token")
        kept, truncated = self._left_truncate(before, start, self.context - WORD_TOKENS)
        return Encoded((Span(kept, (), top=True),), truncated=truncated)

    def _prompt(self, request: Generate, whole: list[int], start: tuple[int, ...]) -> Encoded:
        room = self.context - request.max_new_tokens
        if room < 1:
            raise EncodingError(
                f"{request.max_new_tokens} new tokens leave no room for a prompt in the context of "
                f"{self.context}; expected fewer new tokens or a longer --context"
            )
        if not whole and not start:
            raise EncodingError("Generate needs a prompt or a start token")
        truncated = len(start) + len(whole) > room
        if truncated:
            whole = self._shorten(request, whole, room - len(start))
        kept, _ = self._left_truncate(whole, start, room)
        return Encoded((Span(kept, (), top=True),), truncated=truncated)

    def _shorten(self, request: Generate, whole: list[int], room: int) -> list[int]:
        """The prompt's tokens after giving way as `overflow` says; may still be too long."""
        first, *others = request.parts
        if request.overflow == "right":
            tail = self.tokenizer.encode_continuation("".join(others))
            head = self.tokenizer.encode([first])[0]
            return [*head[: max(room - len(tail), 0)], *tail]
        if request.overflow == "turns":
            for oldest in range(1, len(others)):
                whole = self.tokenizer.encode([first + "".join(others[oldest:])])[0]
                if len(whole) <= room:
                    break
        return whole

    @staticmethod
    def _left_truncate(
        before: list[int], start: tuple[int, ...], room: int
    ) -> tuple[tuple[int, ...], bool]:
        """Start token and context in at most `room` tokens; the oldest go, the start stays."""
        if len(start) + len(before) <= room:
            return (*start, *before), False
        start = start if room > len(start) else ()
        return (*start, *before[len(before) - (room - len(start)) :]), True

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


def windows(n: int, *, context: int, stride: int, kind: str, given: int) -> list[Window]:
    """Windows over a sequence of `n` tokens, `given` of which only open it as context.

    Every token after the given ones is scored once, except under `hf`. Two tokens a window:

        >>> windows(5, context=2, stride=2, kind="plain", given=1)  # start token + 4
        [Window(start=0, first=1, stop=3), Window(start=2, first=3, stop=5)]

    `lm-eval` fills the last window up to the left; `hf` feeds no token that it does not also
    hold as a label, so that the first one of a disjoint window goes unscored
    (huggingface.co/docs/transformers/perplexity).
    """
    reach = context if kind == "hf" else context + 1
    found: list[Window] = []
    start, done = 0, max(given, 1)
    while done < n:
        stop = min(start + reach, n)
        begin = max(0, stop - reach) if kind == "lm-eval" else start
        first = max(done, start + 1) if kind == "hf" else done
        if first < stop:
            found.append(Window(begin, first, stop))
        done = stop
        start += stride
    return found


def preflight(requests: Sequence[Request], encoded: Sequence[Encoded]) -> Preflight:
    """Count what is unusual, before any forward pass."""
    return Preflight(
        requests=len(requests),
        truncated=tuple(i for i, e in enumerate(encoded) if e.truncated),
        crossing=tuple(i for i, e in enumerate(encoded) if e.crossing),
        empty=tuple(i for i, e in enumerate(encoded) if not e.spans),
        duplicates=len(requests) - len(set(requests)),
        lossy=tuple(i for i, e in enumerate(encoded) if e.loss.lost),
        unknown=tuple(i for i, e in enumerate(encoded) if e.loss.unknown),
        lost_characters=sum(e.loss.lost for e in encoded),
        characters=sum(e.characters for e in encoded),
    )


def _join(
    pieces: tuple[str, ...] | tuple[bytes, ...],
) -> tuple[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The whole text, and the character at which each piece ends (exclusive)."""
    if any(isinstance(piece, bytes) for piece in pieces):
        whole = b"".join(p for p in pieces if isinstance(p, bytes))
        text = whole.decode("utf-8", "surrogateescape")
        sizes = np.array([len(p) for p in pieces], np.int64)
        # Byte at which each character ends; a piece that ends inside a character counts it.
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        escaped = (points >= 0xDC80) & (points <= 0xDCFF)
        widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
        byte_ends = np.cumsum(np.where(escaped, 1, widths))
        return text, np.searchsorted(byte_ends, np.cumsum(sizes), side="right")
    lengths = np.array([len(p) for p in pieces], np.int64)
    return "".join(p for p in pieces if isinstance(p, str)), np.cumsum(lengths)
