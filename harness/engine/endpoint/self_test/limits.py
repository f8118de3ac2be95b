"""Probes of size and speed: the longest prompt, the blocks of the prefix cache, seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from random import Random
from time import perf_counter
from typing import NamedTuple

import numpy as np

from harness.engine.endpoint.call import Ask
from harness.engine.endpoint.self_test.probing import Probing
from harness.engine.endpoint.self_test.prompts import LENGTHS

LONGEST, CACHE, SPEED = "longest prompt", "prefix cache", "speed"
MORE = 2  # tokens that are tried beyond what the server says, because servers count differently
IN_FLIGHT = 32  # calls of a round at most
ROUNDS = 2  # of short calls, because another program may take the processor from one
SHORT = 4  # tokens of a short prompt
LARGEST_BLOCK = 256  # that is told apart by time
UNREAD = (3 * LARGEST_BLOCK - 1, LARGEST_BLOCK - 1)  # tokens of a prompt that is read twice
# Of the time of a token that goes through the model's head as well. The head has 30 % of the
# weights of the smallest models and 5 % of large ones; anything else was not timed well.
UNSCORED_SHARES = (0.7, 0.95)
LEAST = 0.1  # share of the time of a long prompt that its tokens take at least
HIT = 0.6  # share of the time of a prompt that a repeat takes at most if it was cached


@dataclass(frozen=True, slots=True)
class Limits:
    """What was measured."""

    longest: int
    block: int | None
    seconds_per_call: float
    seconds_per_token: float
    unscored_share: float  # see `Abilities`


def measure(probing: Probing, *, wanted: int, concurrency: int, prompted: bool) -> Limits:
    """Find the longest prompt that is needed and accepted, and how long calls take.

    Args:
        probing: the self-test.
        wanted: tokens of the longest prompt that the run may need.
        concurrency: calls in flight.
        prompted: whether prompt log-probabilities are offered.
    """
    tokens = probing.prompts.draw(max(wanted, max(LENGTHS)), Random())
    trial = _Trial(probing, tokens, prompted)
    with probing.probe(LONGEST):
        longest = trial.longest(wanted)
    with probing.probe(SPEED):
        per_call = _seconds_per_call(probing, min(concurrency, IN_FLIGHT), prompted=prompted)
    per_token = max(trial.seconds - per_call, LEAST * trial.seconds) / longest
    block, share = None, 1.0
    length = next((length for length in UNREAD if length <= longest), longest)
    unread = probing.prompts.draw(length, Random())
    with probing.probe(CACHE):
        ask = _reading(probing, unread, prompted=False)
        if ask is None:
            probing.found(CACHE, "not looked for: the server offers nothing that would use it")
        else:
            _, seconds = probing.asking.timed(ask)
            if prompted:
                share = (seconds - per_call) / len(unread) / per_token
                share = float(np.clip(share, *UNSCORED_SHARES))
            block = _block(probing, ask, unread, _Speed(per_call, per_token * share))
    text = f"{per_call * 1e3:.1f} ms for a short call, {per_token * 1e3:.3g} ms for a token"
    probing.found(SPEED, text + (f", {share:.2f} of it if it is only read" if share < 1 else ""))
    return Limits(longest, block, per_call, per_token, share)


class _Speed(NamedTuple):
    """Seconds of a short call, and of a token that is only read."""

    per_call: float
    per_token: float


class _Trial:
    """Prompts of different lengths; made-up ones, because no text need be long enough."""

    def __init__(self, probing: Probing, tokens: tuple[int, ...], prompted: bool) -> None:
        self._probing, self.tokens, self._prompted = probing, tokens, prompted
        self.seconds = 0.0  # of the longest accepted so far
        self._largest = 0

    def longest(self, wanted: int) -> int:
        """The length of the longest prompt that is accepted, and no more than is needed."""
        said = self._probing.dialect.server.longest
        known = max(map(len, self._probing.prompts.sequences))  # accepted before
        accepted = self._lower(known, wanted if said is None else min(wanted, said - 1))
        if not self._largest:
            self._accepts(known)  # to see how long it takes
        if accepted >= wanted:
            self._probing.found(LONGEST, f"{accepted:,} tokens, as many as are needed")
            return accepted
        for _ in range(MORE):
            if accepted < wanted and self._accepts(accepted + 1):
                accepted += 1
        seen = f"{accepted:,} tokens; the whole context would need {wanted:,}"
        self._probing.found(LONGEST, seen)
        return accepted

    def _lower(self, low: int, start: int) -> int:
        """The longest accepted prompt of at most `start` tokens; `low` are known to be."""
        for length in (start, start - 1, start - 2):
            if length <= low or self._accepts(length):
                return max(length, low)
        high = start - 2  # refused
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._accepts(middle) else (low, middle)
        return low

    def _accepts(self, length: int) -> bool:
        tokens = self.tokens[:length]
        start = perf_counter()
        answer = self._probing.asking.offered(
            _reading(self._probing, tokens, prompted=self._prompted)
        )
        if isinstance(answer, str):
            return False
        if length > self._largest:
            self._largest, self.seconds = length, perf_counter() - start
        return True


def _reading(probing: Probing, tokens: Sequence[int], *, prompted: bool) -> Ask[int | None] | None:
    """How to have the server read a prompt; what comes back is how much of it was cached."""
    if prompted and (scored := probing.dialect.prompted(tokens, len(tokens) - 1)):
        return Ask(scored.call, lambda reply: scored.read(reply).cached)
    if following := probing.following(tokens, [tokens[0]]):
        return Ask(following.call, lambda reply: following.read(reply).cached)
    return None


def _seconds_per_call(probing: Probing, concurrency: int, *, prompted: bool) -> float:
    """Seconds of the faster round of short calls, divided by their number."""
    draw, prompted = Random(), prompted and not probing.named
    seconds: list[float] = []
    for _ in range(ROUNDS):
        prompts = [probing.prompts.draw(SHORT, draw) for _ in range(concurrency)]
        asks = [ask for ids in prompts if (ask := _reading(probing, ids, prompted=prompted))]
        start = perf_counter()
        probing.asking.together(asks)
        seconds.append((perf_counter() - start) / len(asks))
    return min(seconds)


def _block(
    probing: Probing, ask: Ask[int | None], prompt: tuple[int, ...], speed: _Speed
) -> int | None:
    """The size of the blocks in which the server keeps prompts; None if it keeps none.

    A prompt of n tokens that was read before is taken from the cache but for its last, incomplete
    block; and at least one token is always read. So a prompt of just the tokens that were cached
    misses exactly one block.
    """
    cached, seconds = probing.asking.timed(ask)
    if cached is None:
        return _block_by_time(probing, len(prompt), seconds, speed)
    if cached < 2:
        probing.found(CACHE, f"none seen: a repeated prompt of {len(prompt):,} tokens is read anew")
        return None
    shorter = _reading(probing, prompt[:cached], prompted=False)
    assert shorter is not None
    block = max(cached - (probing.asking.one(shorter) or 0), 1)
    seen = f"{cached:,} of {len(prompt):,} tokens of a repeated prompt"
    probing.found(CACHE, f"{seen}; blocks of {block}")
    return block


def _block_by_time(probing: Probing, length: int, seconds: float, speed: _Speed) -> int | None:
    """The size of a block from the time of a repeated prompt, of which one block is not complete.

    It lacks just one token, because the length is one less than a multiple of the largest block.
    """
    read = (seconds - speed.per_call) / speed.per_token
    if read > HIT * length or length < LARGEST_BLOCK - 1:
        seen = "the server does not say what it reads from it, and a repeat is hardly faster"
        probing.found(CACHE, f"none seen: {seen}")
        return None
    block = min(1 << max(round(log2(max(read, 1.0) + 1)), 4), LARGEST_BLOCK)
    seen = f"by its time, a repeated prompt of {length:,} tokens is read from it"
    probing.found(CACHE, f"{seen}; blocks of about {block} (the server does not say)")
    return block
