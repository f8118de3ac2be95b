"""Completions: the tokens that continue a prompt, and the rules that end them.

A stop string is first looked for in token space: only a token that can contain its last character
can complete it. Text is decoded and searched only after such a token. Each completion is judged
independently of those that it is decoded with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.core import Generated
from harness.engine.decoding.sampling import draws
from harness.engine.queries.query import GenerationQuery
from harness.engine.tokenizer.tokenizer import Tokenizer


@dataclass(slots=True, eq=False)
class Completion:
    """The new tokens of one query so far."""

    query: GenerationQuery
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    _draws: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.query.top_k > 1:
            count = self.query.max_new_tokens
            self._draws = draws(self.query.seed, self.query.prompt, count).tolist()

    @property
    def draw(self) -> float:
        """The random number in [0, 1) for the next token; 0 where decoding is greedy."""
        return self._draws[len(self.tokens)] if self._draws else 0.0


class Endings:
    """Decides when completions end: at one of the tokens `end`, at a stop string, at the limit."""

    def __init__(self, tokenizer: Tokenizer, end: frozenset[int], vocabulary: int) -> None:
        self._tokenizer, self._end, self._vocabulary = tokenizer, end, vocabulary
        self._stop_tokens: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    def finished(self, completion: Completion) -> Generated | None:
        """The answer, if the last token completes it."""
        tokens, query = completion.tokens, completion.query
        if tokens[-1] in self._end:
            count = len(tokens) - 1
            return self._generated(completion, self._text(query, tokens[:count]), count, "end")
        if query.stop and self._may_complete_stop(query.stop)[tokens[-1]]:
            text = self._text(query, tokens)
            cut = min((at for s in query.stop if (at := text.find(s)) >= 0), default=-1)
            if cut >= 0:
                text = text[:cut]
                counts = range(len(tokens) + 1)  # the fewest tokens that contain the text
                starts = (n for n in counts if self._text(query, tokens[:n]).startswith(text))
                return self._generated(completion, text, next(starts), "stop")
        if len(tokens) == query.max_new_tokens:
            return self._generated(completion, self._text(query, tokens), len(tokens), "length")
        return None

    def _may_complete_stop(self, stop: tuple[str, ...]) -> NDArray[np.bool_]:
        """For each token id, whether its text may contain the end of a stop string."""
        if stop not in self._stop_tokens:
            last = {text[-1] for text in stop}
            self._stop_tokens[stop] = self._tokenizer.tokens_with(last, self._vocabulary)
        return self._stop_tokens[stop]

    @staticmethod
    def _generated(completion: Completion, text: str, count: int, ended: str) -> Generated:
        tokens, logprobs = tuple(completion.tokens), tuple(completion.logprobs)
        return Generated(text, tokens, logprobs, count, ended)  # type: ignore[arg-type]

    def _text(self, query: GenerationQuery, tokens: Sequence[int]) -> str:
        return self._tokenizer.new_text(query.prompt, tokens)
