"""An answer in the making: takes token after token and says when it is complete.

A stop string is looked for in token space first: only a token that can hold its last character
can complete it. The text is decoded, and searched, only when such a token has come. Each answer
is judged by itself, never with those it is decoded beside.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.core import Generated
from harness.engine.decoding.sampling import draws
from harness.engine.queries.query import GenerationQuery
from harness.engine.tokenizer.tokenizer import Tokenizer


class Endings:
    """What ends an answer, for one tokenizer.

    Args:
        tokenizer: of the checkpoint.
        end: ids of the tokens that end a text.
        vocabulary: how many ids the model can choose from.
    """

    def __init__(self, tokenizer: Tokenizer, end: frozenset[int], vocabulary: int) -> None:
        self.tokenizer = tokenizer
        self.end = end
        self._vocabulary = vocabulary
        self._suspects: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    def suspects(self, stop: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which tokens may complete one of the stop strings, by id."""
        if stop not in self._suspects:
            last = {text[-1] for text in stop}
            self._suspects[stop] = self.tokenizer.tokens_with(last, self._vocabulary)
        return self._suspects[stop]


@dataclass(slots=True)
class Completion:
    """One answer so far.

    Attributes:
        asked: the prompt's tokens, and how they are continued.
        endings: shared by all answers.
    """

    asked: GenerationQuery
    endings: Endings
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    _draws: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.asked.top_k > 1:
            count = self.asked.max_new_tokens
            self._draws = draws(self.asked.seed, self.asked.prompt, count).tolist()

    @property
    def draw(self) -> float:
        """The number that decides the next token, where it is drawn."""
        return self._draws[len(self.tokens)] if self._draws else 0.0

    def take(self, token: int, logprob: float) -> Generated | None:
        """Add a token; the answer, if that completes it."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in self.endings.end:
            return self._done(self._text(self.tokens[:-1]), "end")
        stop = self.asked.stop
        if stop and self.endings.suspects(stop)[token]:
            text = self._text(self.tokens)
            cut = min((at for s in stop if (at := text.find(s)) >= 0), default=-1)
            if cut >= 0:
                return self._done(text[:cut], "stop")
        if len(self.tokens) == self.asked.max_new_tokens:
            return self._done(self._text(self.tokens), "length")
        return None

    def _done(self, text: str, ended: str) -> Generated:
        tokens, logprobs = tuple(self.tokens), tuple(self.logprobs)
        if ended == "length":
            count = len(tokens)
        elif ended == "end":
            count = len(tokens) - 1
        else:  # the fewest tokens that hold the text
            counts = range(len(tokens) + 1)
            count = next(n for n in counts if self._text(tokens[:n]).startswith(text))
        return Generated(text, tokens, logprobs, count, ended)  # type: ignore[arg-type]

    def _text(self, tokens: Sequence[int]) -> str:
        return self.endings.tokenizer.new_text(self.asked.prompt, tokens)
