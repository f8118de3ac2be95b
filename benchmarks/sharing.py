"""Requests with shared prefixes and in separate rows, in turns; for `windows` and `states`."""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from benchmarks import common, speed
from harness.core import Generated, Request, Response, Scored
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.engine import Engine

Answers = dict[int, Response]


class Turns(NamedTuple):
    """What was measured; pairs are (shared, separate)."""

    sharing: Engine
    seconds: tuple[list[float], list[float]]
    tokens: tuple[int, int]  # computed in a round
    apart: float  # the largest difference of a score, in nats

    def cells(self) -> list[str]:
        """Seconds of separate and of shared rows, their ratio, and how far apart scores are."""
        shared, separate = self.seconds
        ratios = [alone / together for together, alone in zip(shared, separate, strict=True)]
        return [
            f"{statistics.median(separate):.2f}",
            f"{statistics.median(shared):.2f}",
            common.ratio_cell(ratios),
            f"{self.apart:.0e}",
        ]


def take_turns(checkpoint: Checkpoint, asked: Sequence[Request], rounds: int) -> Turns:
    """Answer requests in both ways, so many times each."""
    sides = [Engine(checkpoint), Engine(checkpoint, share=False)]
    answers: list[Answers] = [{}, {}]

    def run(side: int) -> None:
        engine = sides[side]
        answers[side] = dict(engine.answer(asked, engine.encode(asked, speed.PLAIN)))

    run(0)  # self-tests
    spent: tuple[list[float], list[float]] = ([], [])
    before = [engine.tokens.computed for engine in sides]
    for _ in range(rounds):
        for side in (0, 1):
            spent[side].append(common.seconds(partial(run, side)))
    shared, separate = (
        (engine.tokens.computed - b) // rounds for engine, b in zip(sides, before, strict=True)
    )
    return Turns(sides[0], spent, (shared, separate), _apart(*answers))


def _apart(one: Answers, two: Answers) -> float:
    """The largest difference between scores in nats; infinite if texts are of other tokens."""
    worst = 0.0
    for i, mine in one.items():
        other = two[i]
        if isinstance(mine, Scored) and isinstance(other, Scored):
            worst = max(worst, abs(mine.logprob - other.logprob))
        elif isinstance(mine, Generated) and isinstance(other, Generated):
            if mine.tokens != other.tokens:
                return float("inf")
            pairs = zip(mine.logprobs, other.logprobs, strict=True)
            worst = max(worst, abs(sum(a - b for a, b in pairs)))
    return worst
