"""What is asked of the model, without saying by whom: equal questions are answered once.

A request becomes one or more questions, plain tuples of token ids and parameters. They are what
answers are stored under, so that everything that can move an answer is in them.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.core import Generate, Generated, NextWord, Request, Tokens, Word
from harness.engine.queries.encode import Encoded, Span
from harness.engine.queries.prefix_tree import Sharing


@dataclass(frozen=True, slots=True)
class SpanScores:
    """What was read for one span."""

    logprobs: NDArray[np.float32]  # one a target, in nats
    greedy: NDArray[np.bool_]
    top: tuple[int, ...] = ()  # most probable next tokens, the best first, if asked for


class WordQuery(NamedTuple):
    """Which is the best whole word after `inputs`? As in `NextWord`."""

    inputs: tuple[int, ...]
    skip: frozenset[str]
    among: frozenset[str] | None
    rule: str


class GenerationQuery(NamedTuple):
    """What does the model write after `prompt`? As in `Generate`."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...]
    top_k: int
    seed: tuple[int, ...]  # empty for greedy answers, which do not depend on it


# Tuples compare by content alone; these three differ in length, so that no two are equal.
Query = Span | WordQuery | GenerationQuery


class Answer(NamedTuple):
    """What the model said."""

    value: SpanScores | Word | Generated
    asked: int  # tokens that a separate run of this question would feed


Advance = Callable[[int, int], None]
"""Called after each batch with the tokens done so far and in all."""


class BackendOptions(NamedTuple):
    """How questions are answered, beside the checkpoint."""

    numerics: str  # what moves the last digits of answers
    sharing: Sharing | None  # how prefixes are shared
    budget: int  # padded tokens a batch
    ends: frozenset[int]  # ids of the tokens that end a written text
    vocabulary: int | None = None  # tokens that the model has; None if that is not known


class Backend(Protocol):
    """What answers questions: this process, or workers."""

    tokens: Tokens  # what the answers so far have cost

    @property
    def habits(self) -> BackendOptions: ...  # noqa: D102
    def answer(
        self, asked: Sequence[Query], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each batch.

        Args:
            asked: distinct questions.
            known: those among them that need no answer.
            advance: called with the tokens done so far and in all.

        Raises:
            NumericsError: a log-probability is not finite; its `request` is the index in `asked`.
            CheckpointError: memory does not hold even one question.
        """
        ...


def queries(request: Request, encoded: Encoded) -> tuple[Query, ...]:
    """The questions of one request, in the order of its spans."""
    if isinstance(request, NextWord):
        [span] = encoded.spans
        return (WordQuery(span.inputs, request.skip, request.among, request.rule),)
    if isinstance(request, Generate):
        [span] = encoded.spans
        seed = request.seed if request.top_k > 1 else ()
        limit = request.max_new_tokens
        return (GenerationQuery(span.inputs, limit, request.stop, request.top_k, seed),)
    return encoded.spans
