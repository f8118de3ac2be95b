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
    draws: Sequence[float] = field(init=False)
    """A random number in [0, 1) for each token; 0 where decoding is greedy."""

    def __post_init__(self) -> None:
        query, count = self.query, self.query.max_new_tokens
        sampled = query.top_k > 1
        self.draws = draws(query.seed, query.prompt, count).tolist() if sampled else [0.0] * count


class Endings:
    """Decides when completions end: at one of the tokens `ends`, at a stop string, at the limit."""

    def __init__(self, tokenizer: Tokenizer, ends: frozenset[int], vocabulary: int) -> None:
        self.ends = ends
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._stop_tokens: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    def finished(self, completions: Sequence[Completion]) -> list[tuple[Completion, Generated]]:
        """The completions that their last tokens complete, with their answers."""
        candidates = [c for c in completions if self._may_be_complete(c)]
        shown = [c.tokens[:-1] if c.tokens[-1] in self.ends else c.tokens for c in candidates]
        prompts = [c.query.prompt for c in candidates]
        texts = self._tokenizer.new_texts(list(zip(prompts, shown, strict=True)))
        answers = [(c, self._answer(c, text)) for c, text in zip(candidates, texts, strict=True)]
        return [(c, generated) for c, generated in answers if generated is not None]

    def cut(
        self, query: GenerationQuery, tokens: Sequence[int], logprobs: Sequence[float]
    ) -> Generated | None:
        """The answer that these tokens, or the first of them, complete; None if they go on."""
        completion = Completion(query)
        for token, logprob in zip(tokens, logprobs, strict=True):
            completion.tokens.append(token)
            completion.logprobs.append(logprob)
            for _, generated in self.finished([completion]):
                return generated
        return None

    def _may_be_complete(self, completion: Completion) -> bool:
        tokens, query = completion.tokens, completion.query
        if tokens[-1] in self.ends or len(tokens) == query.max_new_tokens:
            return True
        return bool(query.stop) and self._may_complete_stop(query.stop, tokens[-1])

    def _may_complete_stop(self, stop: tuple[str, ...], token: int) -> bool:
        """Whether the text of a token may contain the end of a stop string."""
        if stop not in self._stop_tokens:
            last = {text[-1] for text in stop}
            self._stop_tokens[stop] = self._tokenizer.tokens_with(last, self._vocabulary)
        # A server may have tokens that the tokenizer lacks, such as those that pad a vocabulary.
        return token >= self._vocabulary or bool(self._stop_tokens[stop][token])

    def _answer(self, completion: Completion, text: str) -> Generated | None:
        """The answer of a completion with this text; None if it goes on."""
        query = completion.query
        tokens, logprobs = tuple(completion.tokens), tuple(completion.logprobs)
        if tokens[-1] in self.ends:
            return Generated(text, tokens, logprobs, len(tokens) - 1, "end")
        cut = min((at for s in query.stop if (at := text.find(s)) >= 0), default=-1)
        if cut >= 0 and self._may_complete_stop(query.stop, tokens[-1]):
            beginnings = [(query.prompt, tokens[:count]) for count in range(len(tokens) + 1)]
            texts = self._tokenizer.new_texts(beginnings)
            fewest = next(n for n, shown in enumerate(texts) if shown.startswith(text[:cut]))
            return Generated(text[:cut], tokens, logprobs, fewest, "stop")
        if len(tokens) == query.max_new_tokens:
            return Generated(text, tokens, logprobs, len(tokens), "length")
        return None
