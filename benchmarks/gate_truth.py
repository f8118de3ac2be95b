"""Simulate runs with and without a drop, and count what the gate detects.

    python -m benchmarks.gate_truth [--pairs 1000]

Table 1: how often the one-sided test finds b worse than a at level 0.05 although they are equally
good; has to lie in [0.03, 0.07]. Table 2: how often it detects a true drop of 2 points on
LAMBADA's 5,153 items of which 10 % are right in one run only; has to be at least 90 %. Exit code 1
if a bound is violated. Sign-flip tests draw 999 swaps here rather than 10,000: the level holds for
either number, and fewer take less time.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from harness.metrics import ACCURACY, MEAN, Metric, perplexity
from harness.stats.paired import Table, difference

ALPHA = 0.05
ALARMS = (0.03, 0.07)
DETECTED = 0.90
ITEMS = 5153  # LAMBADA
STORIES = 500  # CoQA
ACCURATE = 0.40
DISCORDANCE = 0.10  # share of the examples that only one run gets right
DROP = 0.02
RESAMPLES = 999
SEED = 0

Pair = tuple[Table, Table]


def right_wrong(rng: np.random.Generator, drop: float) -> Pair:
    """Right/wrong examples, (right, 1); b's accuracy is lower than a's by `drop`."""
    lost, won = (DISCORDANCE + drop) / 2, (DISCORDANCE - drop) / 2
    kind = rng.choice(4, ITEMS, p=[lost, won, ACCURATE - lost, 1 - ACCURATE - won])
    a, b = np.isin(kind, [0, 2]), np.isin(kind, [1, 2])
    return _outcomes(a, np.ones(ITEMS)), _outcomes(b, np.ones(ITEMS))


def surprisal(rng: np.random.Generator) -> Pair:
    """Nats of last words, (nats, 1): heavy tails, and b's changes are lopsided.

    b is better on most examples by a little and worse on few by much, with mean zero: the runs are
    equally good, but swapping them does change the distribution.
    """
    nats = rng.lognormal(0, 1.2, ITEMS)
    a = nats * rng.lognormal(0, 0.2, ITEMS)
    b = nats * rng.lognormal(0, 0.2, ITEMS) + 0.5 * (rng.exponential(1, ITEMS) - 1)
    return _outcomes(a, np.ones(ITEMS)), _outcomes(b, np.ones(ITEMS))


def f1(rng: np.random.Generator) -> Pair:
    """F1 of questions about stories, (sum of the values, questions) a story.

    The questions of a story share how hard it is, and how well it suits each of the runs.
    """
    questions = rng.integers(5, 26, STORIES)
    story = np.repeat(np.arange(STORIES), questions)
    hard = rng.normal(0.5, 0.15, STORIES)[story] + rng.normal(0, 0.35, len(story))
    runs = []
    for _ in "ab":
        suits = rng.normal(0, 0.08, STORIES)[story]
        values = np.clip(hard + suits + rng.normal(0, 0.25, len(story)), 0, 1)
        runs.append(_outcomes(np.bincount(story, values), questions))
    return runs[0], runs[1]


def _outcomes(values: ArrayLike, units: ArrayLike) -> Table:
    return np.array([values, units], np.float64).T


def found_worse(metric: Metric, simulate: Callable[[np.random.Generator], Pair], n: int) -> float:
    """The share of n simulated pairs in which b is found worse than a."""
    rng = np.random.default_rng(SEED)
    hits = 0
    for i in range(n):
        found = difference(metric, *simulate(rng), seed=i, resamples=RESAMPLES)
        hits += found.p_worse is not None and found.p_worse < ALPHA
    return hits / n


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    n = parser.parse_args().pairs
    wrong = 0
    print(f"No difference: share of {n} pairs with p < {ALPHA}, expected in {list(ALARMS)}\n")
    print("| outcomes | items | test | false alarms | |")
    print("|---|--:|---|--:|---|")
    for name, items, test, metric, simulate in (
        ("accuracy", ITEMS, "McNemar", ACCURACY, lambda rng: right_wrong(rng, 0)),
        ("perplexity", ITEMS, "sign-flip", perplexity("word"), surprisal),
        ("F1", STORIES, "sign-flip", MEAN, f1),
    ):
        share = found_worse(metric, simulate, n)
        fine = ALARMS[0] <= share <= ALARMS[1]
        wrong += not fine
        print(f"| {name} | {items} | {test} | {share:.3f} | {_verdict(fine)} |", flush=True)
    share = found_worse(ACCURACY, lambda rng: right_wrong(rng, DROP), n)
    fine = share >= DETECTED
    wrong += not fine
    print(f"\nA drop of {100 * DROP:g} points: expected at least {DETECTED:.0%}\n")
    print("| outcomes | items | discordance | detected | |")
    print("|---|--:|--:|--:|---|")
    print(f"| accuracy | {ITEMS} | {DISCORDANCE:.0%} | {share:.1%} | {_verdict(fine)} |")
    sys.exit(1 if wrong else 0)


def _verdict(fine: bool) -> str:
    return "ok" if fine else "MISSED"


if __name__ == "__main__":
    main()
