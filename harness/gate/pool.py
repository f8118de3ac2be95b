"""The decision over many scores together, for a checkpoint that is a little worse everywhere."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.analysis.baseline import Key
from harness.gate.scores import GatedScore
from harness.stats.losses import Losses
from harness.stats.sequential import Martingale


@dataclass(slots=True)
class Pool:
    """The mean of the scores' losses, each in standard errors, tested slice by slice.

    Scores of one benchmark share its items, so that their losses are summed item by item.
    """

    scales: dict[Key, float]  # what a loss is divided by
    items: int  # of all their benchmarks
    used: int = 0
    loss: float = 0.0  # so far
    test: Martingale = field(init=False)

    def __post_init__(self) -> None:
        self.test = Martingale(None, items=self.items)

    def add(self, scores: Sequence[GatedScore]) -> None:
        """Add the latest slice of the scores of one benchmark."""
        members = [score for score in scores if score.key in self.scales]
        if not members:
            return
        values = np.zeros(len(members[0].a[-1]))
        for score in members:
            if score.last is not None:
                values += score.last.values / self.scales[score.key]
        self.test.add(Losses(values, np.ones(len(values))))
        self.used += len(values)
        self.loss += float(values.sum())
        if self.used == self.items:
            self.test.finish()


def pool_of(benchmarks: Iterable[Sequence[GatedScore]]) -> Pool | None:
    """The pool of the scores whose rule says so, by benchmark; None if none can be tested."""
    groups = [[s for s in scores if s.rule.in_pool and s.guess] for scores in benchmarks]
    members = [score for group in groups for score in group]
    if not members:
        return None
    # the standard error of a score's summed losses, as guessed, for each score of the mean
    scales = {score.key: score.guess * math.sqrt(score.items) * len(members) for score in members}
    return Pool(scales, sum(group[0].items for group in groups if group))
