"""The decision over many scores together, for a checkpoint that is a little worse everywhere."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.analysis.baseline import Key
from harness.analysis.rules.rule import TIERS, Rule
from harness.gate.scores import GatedScore
from harness.stats.sequential import Martingale, pooled_losses


@dataclass(slots=True)
class Pool:
    """The mean of the scores' losses, each in standard errors, tested slice by slice."""

    rule: Rule
    scales: dict[Key, float]  # standard error of each score's summed losses, as guessed
    items: int  # parts of all their benchmarks
    used: int = 0
    total: float = 0.0  # the loss so far, in standard errors
    test: Martingale = field(init=False)

    def __post_init__(self) -> None:
        self.test = Martingale(None, items=self.items)

    def add(self, scores: Sequence[GatedScore]) -> None:
        """Add the latest slice of the scores of one benchmark."""
        members = [s for s in scores if s.key in self.scales and s.last is not None]
        if not members:
            return
        slices = [score.last for score in members if score.last is not None]
        found = pooled_losses(slices, [self.scales[score.key] for score in members])
        self.test.add(found)
        self.used += len(found.values)
        self.total += float(found.values.sum())
        if self.used == self.items:
            self.test.finish()


def pool_of(benchmarks: Iterable[Sequence[GatedScore]]) -> Pool | None:
    """The pool of the scores whose rule says so, by benchmark; None if there are none."""
    members = [[s for s in scores if s.rule.in_pool and s.guess] for scores in benchmarks]
    scores = [score for group in members for score in group]
    if not scores:
        return None
    tier = min((score.rule.tier for score in scores), key=TIERS.index)
    scales = {score.key: score.guess * math.sqrt(score.items) for score in scores}
    return Pool(Rule("pooled", tier=tier), scales, sum(g[0].items for g in members if g))
