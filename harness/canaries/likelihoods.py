"""Canaries of log-probabilities: all equal, blind to the text, or worse than guessing.

The first two are suspicions that a single counterexample ends, after which they cost nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.canaries.chance import ROUNDING, is_no_better_than_uniform, uniform_loss
from harness.core import Request, Rolled, Scored

MIN_LOGPROBS = 20
MIN_REPEATED = 5  # distinct tokens that occur again: one may be certain wherever it occurs
MAX_REPEATS = 10_000  # after so many the suspicion is confirmed
MIN_LOSS_TOKENS = 100
_COMPARE = "compare the weights with their origin, and run harness doctor"


@dataclass(slots=True)
class Constant:
    """Are all log-probabilities equal?"""

    refuted: bool = False  # by a counterexample
    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    _asked: set[Request] = field(default_factory=set)

    def add(self, request: Request, logprobs: Iterable[float]) -> None:
        """Take the log-probabilities of one request; equal requests count once."""
        if self.refuted or request in self._asked:
            return
        if len(self._asked) < MIN_LOGPROBS:
            self._asked.add(request)
        for logprob in logprobs:
            self.low, self.high = min(self.low, logprob), max(self.high, logprob)
            self.count += 1
            if self.high - self.low > ROUNDING:
                self.refuted = True
                return

    @property
    def seen(self) -> bool:
        """Whether there were enough of them, all equal."""
        return not self.refuted and self.count >= MIN_LOGPROBS

    def warning(self) -> str:
        """What was seen; empty if all is well."""
        if not self.seen:
            return ""
        if self.high >= -ROUNDING:
            return (
                f"zero log-probabilities: all {self.count:,} log-probabilities are 0, as if every "
                f"token were certain; expected likely and unlikely tokens; {_COMPARE}"
            )
        return (
            f"constant log-probabilities: all {self.count:,} log-probabilities are "
            f"{self.high:.3f} nats, whatever the token; expected likely and unlikely tokens; "
            f"{_COMPARE}"
        )


@dataclass(slots=True)
class IgnoredInput:
    """Does each token have the same log-probability wherever it occurs?"""

    refuted: bool = False  # by a counterexample
    repeats: int = 0
    _first: dict[int, float] = field(default_factory=dict)  # of each token
    _repeated: set[int] = field(default_factory=set)

    def add(self, tokens: Iterable[int], logprobs: Iterable[float]) -> None:
        """Take the tokens of one request with their log-probabilities."""
        if self.refuted or self.repeats >= MAX_REPEATS:
            return
        for token, logprob in zip(tokens, logprobs, strict=False):
            if token not in self._first:
                self._first[token] = logprob
                continue
            self.repeats += 1
            self._repeated.add(token)
            if abs(logprob - self._first[token]) > ROUNDING:
                self.refuted = True
                return
            if self.repeats >= MAX_REPEATS:
                return

    def warning(self) -> str:
        """What was seen; empty if all is well."""
        if self.refuted or self.repeats < MIN_LOGPROBS or len(self._repeated) < MIN_REPEATED:
            return ""
        return (
            f"ignored input: {len(self._repeated):,} tokens that occur several times have the same "
            f"log-probability at all {self.repeats:,} further places, whatever precedes them; "
            f"expected it to depend on the text; {_COMPARE}"
        )


@dataclass(slots=True)
class Loss:
    """Nats and tokens of some responses."""

    nats: float = 0.0
    tokens: int = 0

    def add(self, response: Scored | Rolled) -> None:
        """Take one response."""
        self.nats -= response.logprob
        self.tokens += response.num_tokens

    @property
    def per_token(self) -> float:
        """Nats per token."""
        return self.nats / max(self.tokens, 1)

    def is_no_better_than_uniform(self, vocabulary: int) -> bool:
        """Whether it is at or above ln V, of enough tokens."""
        enough = self.tokens >= MIN_LOSS_TOKENS and vocabulary > 1
        return enough and is_no_better_than_uniform(self.per_token, vocabulary)

    def warning(self, vocabulary: int) -> str:
        """What was seen; empty if all is well."""
        if not self.is_no_better_than_uniform(vocabulary):
            return ""
        return (
            f"loss above uniform: {self.per_token:.2f} nats per token over {self.tokens:,} tokens; "
            f"expected less than the {uniform_loss(vocabulary):.2f} of uniform probabilities over "
            f"{vocabulary:,} tokens; the weights are random or damaged, or the tokenizer belongs "
            "to another model: run harness doctor"
        )
