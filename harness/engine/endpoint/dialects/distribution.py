"""Log-probabilities at one position: what is best, what ties, and what cannot be."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.engine.endpoint.dialects.check import ROUNDING, refuse
from harness.engine.endpoint.dialects.dialect import Next, Prompted

BESIDE = 2  # best tokens shown at each place of a prompt: one alone would hide a tie with it
_SUM = 1e-3  # by which rounded probabilities may add up to more than 1


class Position(NamedTuple):
    """The log-probability of a token of a prompt."""

    logprob: float
    greedy: bool
    tie: bool  # whether another token is exactly as probable as the best
    best: float  # log-probability of the most probable token


def position(token: int, logprob: float, shown: Mapping[int, float], what: str) -> Position:
    """A token of a prompt, beside the `BESIDE` most probable ones at its place.

    Of exactly equal tokens the one with the lowest id is the best.
    """
    if (own := shown.get(token, min(shown.values()))) < logprob - ROUNDING:
        refuse(what, f"token {token} with {logprob:g} to be among the best", sorted(shown))
    if token in shown and own > logprob + ROUNDING:
        refuse(what, f"{logprob:g} of token {token}, as elsewhere in the reply", own)
    values = {**shown, token: logprob}
    at_most_one(values.values(), what)
    most = max(values.values())
    best = [other for other, value in values.items() if value == most]
    return Position(logprob, greedy=min(best) == token, tie=len(best) > 1, best=most)


def prompted(positions: Sequence[Position], cached: int | None) -> Prompted:
    """The positions of a prompt as arrays."""
    return Prompted(
        np.array([position.logprob for position in positions], np.float32),
        np.array([position.greedy for position in positions], np.bool_),
        np.array([position.best for position in positions], np.float32),
        sum(position.tie for position in positions),
        cached,
    )


def following(logprobs: Mapping[int, float], chosen: int, cached: int | None, what: str) -> Next:
    """Log-probabilities of tokens after a prompt; `chosen` is the server's own best token.

    Of exactly equal tokens the one with the lowest id is the best.
    """
    most = max(logprobs.values())
    if most - logprobs[chosen] > ROUNDING:
        better = max(logprobs, key=logprobs.__getitem__)
        refuse(what, f"no token above {chosen}, which the server chose as the best", better)
    at_most_one(logprobs.values(), what)
    best = [token for token, value in logprobs.items() if value == most]
    return Next(logprobs, min(best), cached, tie=len(best) > 1)


def merged(shown: Mapping[int, float], chosen: int, logprob: float, what: str) -> dict[int, float]:
    """Log-probabilities at a position with that of the chosen token, which may be among them."""
    if abs(shown.get(chosen, logprob) - logprob) > ROUNDING:
        refuse(what, f"{logprob:g} of token {chosen}, as elsewhere in the reply", shown[chosen])
    return {chosen: logprob, **shown}


def best_of(after: Next, count: int) -> Next:
    """The `count` most probable tokens, the best first; of equal ones the lowest id first."""
    order = sorted(after.logprobs, key=lambda token: (-after.logprobs[token], token))[:count]
    return after._replace(logprobs={token: after.logprobs[token] for token in order})


def only(after: Next, ids: Iterable[int]) -> Next:
    """The tokens that were asked for."""
    return after._replace(logprobs={token: after.logprobs[token] for token in ids})


def at_most_one(logprobs: Iterable[float], what: str) -> None:
    """Refuse log-probabilities of different tokens whose probabilities add up to more than 1."""
    total = math.fsum(map(math.exp, logprobs))
    if total > 1 + _SUM:
        refuse(what, "probabilities that add up to at most 1", round(total, 4))
