"""Reference values: a loop over transformers, one request at a time, without a cache.

Forward passes are in float32 on the CPU, log-softmax in float64. Token ids come from the
tokenizer's own encoding. No code of the engine is used.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

FIRST_TOKENS, WORD_TOKENS = 50, 6  # of a search for a word: how many begin one, how long it is


class Text(NamedTuple):
    """A greedy answer."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    margins: tuple[float, ...]  # by how much each token beat the second best, in nats


class Found(NamedTuple):
    """The word that a search finds."""

    word: str
    skipped: tuple[str, ...]
    margin: float  # the closest decision on the way, in nats


class Referee:
    """Answers requests about one checkpoint.

    Args:
        folder: the checkpoint.
        context: how many tokens are fed at most.
    """

    def __init__(self, folder: Path, context: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.context = context
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self.start = int(self._tokenizer.bos_token_id)
        self._known: dict[tuple[int, ...], Tensor] = {}

    def ids(self, text: str) -> tuple[int, ...]:
        """Tokens of a text, nothing added."""
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def logprobs(self, ids: Sequence[int]) -> Tensor:
        """Log-probabilities (T, V) in float64 after each of T tokens, by one full pass."""
        if tuple(ids) not in self._known:
            self._known[tuple(ids)] = log_softmax(full_pass(self.model, ids))
        return self._known[tuple(ids)]

    def longest(self) -> tuple[int, ...]:
        """The longest tokens that were fed so far."""
        return max(self._known, key=len)

    def loglikelihood(self, context: str, continuation: str) -> float:
        """Nats of a continuation; the oldest tokens of the context go where it does not fit."""
        before = self.ids(context)
        after = self.ids(context + continuation)[len(before) :]
        tokens = (*self._cut(before, self.context + 1 - len(after)), *after)
        return self._sum(tokens[:-1], after)

    def _cut(self, ids: tuple[int, ...], room: int) -> tuple[int, ...]:
        """The start token and the last tokens, together at most `room`."""
        return (self.start, *ids[max(len(ids) + 1 - room, 0) :])

    def text(self, pieces: Sequence[str]) -> float:
        """Nats of a whole text in windows without overlap; a window begins with a known token."""
        tokens = (self.start, *self.ids("".join(pieces)))
        windows = [
            tokens[begin : begin + self.context + 1]
            for begin in range(0, len(tokens) - 1, self.context)
        ]
        return math.fsum(self._sum(window[:-1], window[1:]) for window in windows)

    def _sum(self, fed: Sequence[int], targets: Sequence[int]) -> float:
        rows = self.logprobs(fed)[-len(targets) :]
        return float(rows.gather(1, torch.tensor(targets)[:, None]).sum())

    def prompt(self, prompt: str, count: int) -> tuple[int, ...]:
        """The tokens of a prompt that leave room for `count` more."""
        return self._cut(self.ids(prompt), self.context - count)

    def generate(self, prompt: str, count: int) -> Text:
        """The most probable token, again and again, until the end token or the limit."""
        tokens = [*self.prompt(prompt, count)]
        given = len(tokens)
        logprobs, margins = [], []
        while len(tokens) < given + count:
            best = self.logprobs(tokens)[-1].topk(2)
            tokens.append(int(best.indices[0]))
            logprobs.append(float(best.values[0]))
            margins.append(float(best.values[0] - best.values[1]))
            if tokens[-1] == self.start:  # which also ends texts
                break
        return Text(tuple(tokens[given:]), tuple(logprobs), tuple(margins))

    def next_word(self, context: str, skip: frozenset[str]) -> Found:
        """The best word that is not in `skip`: first tokens in order, each extended greedily.

        A space alone may begin a word, for the tiny tokenizer has it as a token of its own.
        """
        tokens = self._cut(self.ids(context), self.context - WORD_TOKENS)
        first = self.logprobs(tokens)[-1].topk(FIRST_TOKENS)
        gaps = (first.values[:-1] - first.values[1:]).tolist()
        margin, skipped = math.inf, []
        for rank, token in enumerate(first.indices.tolist()):
            margin = min(margin, gaps[min(rank, len(gaps) - 1)])
            text = self._text(token)
            if text != " " and ("\n" in text or not any(c.isalnum() for c in text)):
                continue
            word, closest = self._extended(tokens, token)
            margin = min(margin, closest)
            if not word:
                continue
            if word.lower() not in skip:
                return Found(word, tuple(skipped), margin)
            skipped.append(word)
        return Found("", tuple(skipped), margin)

    def _extended(self, tokens: tuple[int, ...], first: int) -> tuple[str, float]:
        """A first token grown to a whole word, and the closest decision."""
        path, margin = [first], math.inf
        while len(path) < WORD_TOKENS:
            best = self.logprobs((*tokens, *path))[-1].topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            following = int(best.indices[0])
            if not self._text(following)[:1].isalnum():
                break
            path.append(following)
        return "".join(map(self._text, path)).strip(), margin

    def _text(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))


def full_pass(model: Any, ids: Sequence[int]) -> Tensor:
    """Logits (T, V) of one pass over T tokens, without a cache."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in float64."""
    return logits.double().log_softmax(-1)
