"""What the slices of a gate say about one score: its value so far, and the evidence."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.analysis.baseline import Key
from harness.analysis.rules.judge import ROUNDING
from harness.analysis.rules.rule import OWN_TEST, Rule
from harness.metrics import Metric
from harness.stats.losses import Losses, losses_so_far
from harness.stats.paired import Table, values
from harness.stats.power import needed, sd_guess
from harness.stats.sequential import GroupSequential, Martingale

CORRELATION = 0.9  # of two checkpoints of one training run, until their losses are seen
GUESS_COUNTS = 10  # parts for which the guess of their spread counts
USUAL_DROP = 0.02  # of the value, or of 100 points: what a score without a margin is planned for

Test = Martingale | GroupSequential


@dataclass(frozen=True, slots=True)
class Levels:
    """Error rates, and how often the evidence is looked at."""

    alpha: float
    beta: float
    looks: int | None = None  # None: after every slice


@dataclass(slots=True)
class GatedScore:
    """One score of a gate."""

    key: Key
    rule: Rule
    metric: Metric
    value: float  # of the baseline's whole run
    whole: Table  # the summed outcomes of all parts of the baseline, (statistics,)
    guess: float  # standard deviation of a part's loss, before any is seen
    items: int  # parts that there are
    test: Test | None  # None where only all items decide
    a: list[Table] = field(default_factory=list)  # outcomes so far, of the baseline
    b: list[Table] = field(default_factory=list)  # of the candidate
    last: Losses | None = None  # of the latest slice
    squares: float = 0.0  # of all losses so far

    @property
    def name(self) -> str:
        """Of the measure."""
        return self.key[2]

    @property
    def used(self) -> int:
        """Number of parts so far."""
        return sum(map(len, self.a))

    @property
    def rounding(self) -> float:
        """A loss that may come from rounding; a flip of a right answer never does."""
        return 0.0 if self.metric.proportion else ROUNDING * abs(self.value)

    def add(self, a: Table, b: Table) -> None:
        """Add the parts of a slice.

        Losses are taken at the middle of all parts so far, which a swap of the runs in any part
        leaves where it is.
        """
        self.a.append(a)
        self.b.append(b)
        tables = self.tables()
        applies = all(table[:, -1].any() for table in tables)  # an optional measure may not
        if self.metric.select is not None or not applies:
            return
        everything = losses_so_far(self.metric, *tables, self.whole)
        self.last = Losses(everything.values[-len(a) :], everything.weights[-len(a) :])
        self.squares += float((self.last.values**2).sum())
        if self.test is not None:
            self.test.add(self.last)

    def tables(self) -> tuple[Table, Table]:
        """The outcomes of both runs on the parts so far, (n, statistics) each."""
        return np.concatenate(self.a), np.concatenate(self.b)

    def now(self) -> tuple[float, float] | None:
        """The values of both runs on the parts so far; None if they have none yet."""
        if self.last is None:
            return None
        sums = np.stack([table.sum(axis=0) for table in self.tables()])
        before, after = values(self.metric, sums)
        return float(before), float(after)

    @property
    def loss(self) -> float:
        """How much worse the candidate is on the parts so far, in the metric's unit."""
        before, after = self.now() or (0.0, 0.0)
        return before - after if self.metric.higher_is_better else after - before

    @property
    def sd(self) -> float:
        """Standard deviation of a part's loss: what was guessed, and what was seen so far."""
        guessed = GUESS_COUNTS * self.guess**2
        return math.sqrt((guessed + self.squares) / (GUESS_COUNTS + self.used))

    def share_needed(self, levels: Levels) -> float:
        """Which share of the parts a decision is expected to take, from 0 to 1."""
        usual = USUAL_DROP * (100.0 if self.metric.unit == "%" else abs(self.value))
        drop, sd = self.rule.margin or usual, self.sd
        if not sd or not drop:
            return 1.0
        parts = needed(sd, drop, alpha=levels.alpha, power=1 - levels.beta)
        return min(1.0, parts / self.items)


def gated(
    key: Key, rule: Rule, metric: Metric, value: float, table: Table, levels: Levels
) -> GatedScore:
    """A score before the first slice; `table` has the baseline's outcomes of all parts."""
    testable = metric.select is None
    guess = sd_guess(metric, table, CORRELATION) if testable and len(table) > 1 else 0.0
    score = GatedScore(key, rule, metric, value, table.sum(axis=0), guess, len(table), None)
    if rule.kind in OWN_TEST and testable:
        score.test = _test(score, table, levels)
    return score


def _test(score: GatedScore, table: Table, levels: Levels) -> Test:
    """The test of no loss, and of a loss of the margin if there is one."""
    common: dict[str, Any] = {
        "margin": score.rule.margin,
        "min_loss": score.rule.min_loss,
        # Of several answers in one part, only some may be right.
        "proportion": score.metric.proportion and bool((table[:, -1] == 1).all()),
        "items": score.items,
    }
    if levels.looks is None:
        return Martingale(**common)
    return GroupSequential(**common, looks=levels.looks)
