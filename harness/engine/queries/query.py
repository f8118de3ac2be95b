"""Queries and answers: what a backend receives and returns.

A request becomes one or more queries, plain tuples of token ids and parameters. Equal queries are
answered once. Answers are cached under their query, so it holds everything that can change them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.core import Generated, Word, WordRule


class Span(NamedTuple):
    """Tokens to feed and tokens to predict: a query for log-probabilities.

    `targets` are predicted at the last `len(targets)` inputs. With `top`, the most probable tokens
    after the last input are returned as well.
    """

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    top: bool = False

    @property
    def span(self) -> "Span":
        """The tokens to feed: the query itself."""
        return self


class WordQuery(NamedTuple):
    """Which whole word is the best continuation of `inputs`? Parameters as in `NextWord`."""

    inputs: tuple[int, ...]
    skip: frozenset[str]
    among: frozenset[str] | None
    rule: WordRule

    @property
    def span(self) -> Span:
        """The tokens to feed before the search."""
        return Span(self.inputs, (), top=True)


class GenerationQuery(NamedTuple):
    """What does the model generate after `prompt`? Parameters as in `Generate`."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...]
    top_k: int
    seed: tuple[int, ...]  # empty under greedy decoding, which does not depend on it

    @property
    def span(self) -> Span:
        """The tokens to feed before decoding."""
        return Span(self.prompt, (), top=True)


Query = Span | WordQuery | GenerationQuery
"""Tuples compare by content alone; these types differ in length, so two are never equal."""


@dataclass(frozen=True, slots=True)
class SpanScores:
    """The model's output for one span."""

    logprobs: NDArray[np.float32]  # one per target, in nats
    greedy: NDArray[np.bool_]  # whether each target was the most probable token
    top: tuple[int, ...] = ()  # most probable next tokens, the best first, if asked for


class Answer(NamedTuple):
    """The answer to one query."""

    value: SpanScores | Word | Generated
    asked: int  # tokens that a separate run of this query would feed


@dataclass(frozen=True, slots=True)
class Sharing:
    """When spans may share a row of a batch.

    `pair_cost` is the cost of one (query, key) pair in attention, as a fraction of one token's cost
    in matrix products; sharing pays while the saved tokens outweigh the larger square.
    """

    pair_cost: float
    max_row: int  # tokens
    max_spans: int | None = None  # per row, where each of them will grow; None: no limit


Advance = Callable[[int, int], None]
"""Progress callback: (tokens done so far, tokens in all)."""
