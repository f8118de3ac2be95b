"""Requests of every kind for the tiny checkpoints, made of artificial sentences.

Contexts are longer than any attention window of the tiny models, and texts are longer than their
context.
"""

import random

from harness.core import Generate, Loglikelihood, NextWord, Request, RollingLoglikelihood

WORDS = [
    "the", "sand", "sea", "said", "and", "an", "end", "than", "that", "hand", "saw", "a", "boat",
    "by", "night", "far", "land", "when", "we",
]  # fmt: skip
KINDS = ("score", "next word", "choices", "text", "generation")
NEW_TOKENS = 7


def prose(words: int, seed: int) -> str:
    """`words` words in sentences of six."""
    drawn = random.Random(seed).choices(WORDS, k=words)
    sentences = [" ".join(drawn[i : i + 6]) for i in range(0, words, 6)]
    return ". ".join(sentences)


LONG = prose(90, seed=8)  # more than the 256 tokens that most tiny models are fed


def score() -> list[Request]:
    """Passages of many lengths and their last words, as LAMBADA has them; one has no passage."""
    lengths = (2, 5, 9, 14, 25, 40)
    asked: list[Request] = [
        Loglikelihood(prose(n, seed=n), f" {WORDS[n % len(WORDS)]} and") for n in lengths
    ]
    return [*asked, Loglikelihood("", "the hand"), Loglikelihood(LONG, " the hand")]


def choices() -> list[Request]:
    """Three questions of eight options; the second continues the first, options begin alike."""
    first = prose(22, seed=1)
    contexts = [first, f"{first} {prose(9, seed=2)}", prose(45, seed=3)]
    options = [
        f" {begin} {prose(4, seed=n)}" for begin in ("the sand", "an end") for n in range(10, 14)
    ]
    return [Loglikelihood(context, option) for context in contexts for option in options]


def text(context: int) -> list[Request]:
    """A text of about two and a half windows and one that fits into a window."""
    longest = min(context, 256)
    words = int(2.5 * longest / 4)
    return [
        RollingLoglikelihood(tuple(prose(words // 5, seed=n) + "\n" for n in range(5))),
        RollingLoglikelihood((prose(8, seed=9),)),
    ]


def generation() -> list[Request]:
    """Prompts with a common beginning, one without it, and one that is repeated."""
    shared = prose(30, seed=4)
    prompts = [f"{shared} {end}" for end in ("the", "an end", "by night")]
    prompts += [prose(3, seed=5), shared, shared, LONG]
    return [Generate((prompt,), NEW_TOKENS) for prompt in prompts]


def next_word(skips: dict[str, frozenset[str]]) -> list[Request]:
    """The best word after each passage that is not among those given for it."""
    return [NextWord(context, skip) for context, skip in skips.items()]


def passages() -> list[str]:
    """What `next_word` continues; the second continues the first, the last is too long."""
    first = prose(12, seed=6)
    return [first, f"{first} when we saw", prose(30, seed=7), LONG]
