"""Simulate pairs of runs, and count how often the limits of the loss contain the true loss.

    python -m benchmarks.interval_coverage [--runs 10000] [--bootstrap 1000]

Both one-sided limits at level 0.025 together are a 95 % interval, which has to contain the true
loss in 94 to 96 % of the runs; exit code 1 if one does not. Beside it: how often the true loss is
above and below, and the interval that `compare` shows (percentiles of the paired bootstrap, in as
many runs as `--bootstrap` says). The second run is worse by the loss in the table. Of 10,000 runs
the share covered is known within 0.4 %; fewer may miss the bounds by chance.
"""

import argparse
import random
import sys
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.signal import lfilter

from harness.metrics import ACCURACY, MEAN, Metric, bits, mean_over_runs, perplexity
from harness.metrics.bleu import bleu, bleu_counts
from harness.stats import right_wrong
from harness.stats.limits import limits
from harness.stats.paired import Table, difference, lost_and_won, values

ALPHA = 0.025  # on each side
COVERED = (0.94, 0.96)
RESAMPLES = 1000
MANY = 200_000  # examples that give the true loss
SEED = 0
WORDS = [f"word{i}" for i in range(300)]

Pair = tuple[Table, Table]
Simulate = Callable[[np.random.Generator, int], Pair]


class Kind(NamedTuple):
    """Runs of one kind of score."""

    name: str
    n: int
    metric: Metric
    simulate: Simulate
    blocks: int | None = None
    loss: float | None = None  # if it is known


def right_wrong_pairs(discordance: float, drop: float) -> Simulate:
    """Right/wrong examples: `discordance` of them are right in one run only; b loses `drop`."""

    def simulate(rng: np.random.Generator, n: int) -> Pair:
        lost, won = (discordance + drop) / 2, (discordance - drop) / 2
        kind = rng.choice(4, n, p=[lost, won, 0.4 - lost, 0.6 - won])
        return _outcomes(np.isin(kind, [0, 2]), 1), _outcomes(np.isin(kind, [1, 2]), 1)

    return simulate


def lines(rng: np.random.Generator, n: int) -> Pair:
    """Nats of lines of running text: long and short ones, neighbours alike, heavy tails."""
    words = rng.geometric(0.05, n)
    level = 3.5 + 0.5 * lfilter([np.sqrt(1 - 0.4**2)], [1, -0.4], rng.normal(size=n))
    shared = rng.gamma(words * 0.5) / 0.5 - words  # as of single words
    a = level * words + shared + rng.normal(0, 0.3, n) * np.sqrt(words)
    b = (level + 0.02) * words + shared + rng.normal(0, 0.3, n) * np.sqrt(words)
    return _outcomes(a, words), _outcomes(b, words)


def last_words(rng: np.random.Generator, n: int) -> Pair:
    """Nats of single words: heavy tails, and b is worse by much on few, better on most."""
    nats = rng.gamma(0.8, 3.5, n)
    change = 0.02 + 0.3 * (rng.exponential(1, n) - 1) + 0.1 * nats * rng.normal(0, 1, n)
    return _outcomes(nats, 1), _outcomes(nats + change, 1)


def stories(rng: np.random.Generator, n: int) -> Pair:
    """F1 of the questions about a story, which share how hard it is and how it suits each run."""
    questions = rng.integers(5, 26, n)
    story = np.repeat(np.arange(n), questions)
    hard = rng.normal(0.5, 0.15, n)[story] + rng.normal(0, 0.35, len(story))
    runs = []
    for drop in (0, 0.02):
        suits = rng.normal(0, 0.08, n)[story]
        found = np.clip(hard + suits + rng.normal(0, 0.25, len(story)) - drop, 0, 1)
        runs.append(_outcomes(np.bincount(story, found), questions))
    return runs[0], runs[1]


def summaries(rng: np.random.Generator, n: int) -> Pair:
    """ROUGE of articles in three draws of the answer; half of the answers are the same in both."""
    base = rng.beta(2, 5, n)[:, None] + rng.normal(0, 0.05, (n, 3))
    moved = np.where(rng.random((n, 3)) < 0.5, 0.0, 0.08 * rng.standard_t(4, (n, 3)) - 0.01)
    ones = np.ones((n, 1))
    return np.hstack([np.clip(base, 0, 1), ones]), np.hstack([np.clip(base + moved, 0, 1), ones])


@cache
def _sentences() -> Pair:
    """BLEU's counts of 2,000 sentences in two runs: words are replaced, more of them in b."""
    draw = random.Random(SEED)
    runs: tuple[list[tuple[float, ...]], list[tuple[float, ...]]] = ([], [])
    for _ in range(2000):
        reference = draw.choices(WORDS, k=draw.randint(4, 40))
        quality = draw.betavariate(3, 3)
        for found, wrong in zip(runs, (0.0, 0.03), strict=True):
            said = [w if draw.random() < quality - wrong else draw.choice(WORDS) for w in reference]
            length = max(1, len(said) - draw.randint(0, 2))
            counts = bleu_counts(" ".join(said[:length]), " ".join(reference), "none")
            found.append((*counts, 1.0))
    return np.array(runs[0]), np.array(runs[1])


def translations(rng: np.random.Generator, n: int) -> Pair:
    """Sentences drawn from a population of them."""
    a, b = _sentences()
    drawn = rng.integers(0, len(a), n) if n != MANY else np.arange(len(a))
    return a[drawn], b[drawn]


def _outcomes(found: ArrayLike, units: ArrayLike) -> Table:
    return np.stack(np.broadcast_arrays(np.asarray(found, np.float64), units), axis=1)


KINDS = [
    *(
        Kind(f"accuracy, {100 * discordance:g} % differ", n, ACCURACY, simulate, loss=100 * drop)
        for discordance, drop in ((0.05, 0.0), (0.1, 0.0), (0.1, 0.02), (0.3, 0.02))
        for simulate in [right_wrong_pairs(discordance, drop)]
        for n in (500, 2000)
    ),
    Kind("perplexity of lines", 2000, perplexity("word"), lines, blocks=100),
    Kind("perplexity of words", 500, perplexity("word"), last_words),
    Kind("perplexity of words", 2000, perplexity("word"), last_words),
    Kind("bits of lines", 2000, bits("byte"), lines, blocks=100),
    Kind("F1 of stories", 100, MEAN, stories),
    Kind("F1 of stories", 500, MEAN, stories),
    Kind("ROUGE of articles", 200, mean_over_runs(3), summaries),
    Kind("ROUGE of articles", 1000, mean_over_runs(3), summaries),
    Kind("BLEU of sentences", 200, bleu(1), translations),
    Kind("BLEU of sentences", 1000, bleu(1), translations),
]


def true_loss(kind: Kind) -> float:
    """The loss of very many examples, where it is not known."""
    if kind.loss is not None:
        return kind.loss
    a, b = (run.sum(axis=0) for run in kind.simulate(np.random.default_rng(SEED), MANY))
    change = float(values(kind.metric, b) - values(kind.metric, a))
    return -change if kind.metric.higher_is_better else change


@cache
def _right_wrong_misses(lost: int, won: int, n: int, loss: float) -> tuple[bool, bool]:
    above = right_wrong.p_within(lost, won, n, loss / 100) <= ALPHA
    return bool(above), bool(right_wrong.p_worse(lost, won, n, loss / 100) <= ALPHA)


def misses(kind: Kind, a: Table, b: Table, loss: float) -> tuple[bool, bool]:
    """Whether the true loss is above the upper limit, and below the lower one."""
    if kind.metric.proportion:  # by the tests that the limits invert, which is faster
        return _right_wrong_misses(*lost_and_won(a, b), len(a), loss)
    found = limits(kind.metric, a, b, blocks=kind.blocks, alpha=ALPHA)
    return loss > found.upper, loss < found.lower


def bootstrap_misses(kind: Kind, a: Table, b: Table, loss: float) -> bool:
    """Whether the interval that `compare` shows misses the true loss."""
    shown = difference(kind.metric, a, b, blocks=kind.blocks, resamples=RESAMPLES)
    change = -loss if kind.metric.higher_is_better else loss
    assert shown.low is not None
    assert shown.high is not None
    return not shown.low <= change <= shown.high


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--only", default="", help="kinds whose names contain this")
    options = parser.parse_args()
    print("| score | examples | true loss | above | below | covered | bootstrap | |")
    print("|---|--:|--:|--:|--:|--:|--:|---|")
    wrong = 0
    for kind in (k for k in KINDS if options.only in k.name):
        loss, rng = true_loss(kind), np.random.default_rng(SEED + 1)
        above = below = missed = 0
        for i in range(options.runs):
            a, b = kind.simulate(rng, kind.n)
            over, under = misses(kind, a, b, loss)
            above, below = above + over, below + under
            missed += i < options.bootstrap and bootstrap_misses(kind, a, b, loss)
        covered = 1 - (above + below) / options.runs
        fine = COVERED[0] <= covered <= COVERED[1]
        wrong += not fine
        shown = f"{1 - missed / options.bootstrap:.1%}" if options.bootstrap else "-"
        print(
            f"| {kind.name} | {kind.n} | {loss:.3g} {kind.metric.unit} | "
            f"{above / options.runs:.1%} | {below / options.runs:.1%} | {covered:.1%} | {shown} | "
            f"{'ok' if fine else 'MISSED'} |",
            flush=True,
        )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
