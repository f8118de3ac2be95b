"""Simulate gates that may stop early, and count their errors and the items that they use.

    python -m benchmarks.gate_simulation [--runs 2000] [--score SCORE ...] [--loss MARGINS ...]

A margin and a number of items are chosen so that a fixed test of all items at level 0.05 has a
power of 0.9 at the margin. The true loss is 0, a half, one, one and a half or two margins, or a
gain of half a margin. All designs see the same items in the same order, in 20 or 50 slices: the
fixed test (one look at the end), the group-sequential design with four looks, and bets on every
slice.
Exit code 1 if a wrong verdict is more frequent than its level (false regressions 0.05, false
`fine` 0.10; two standard errors of the simulation allowed), or if the bets need more items at 10 %
discordance than they may.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product

import numpy as np
from scipy.optimize import brentq

from harness.metrics import ACCURACY, MEAN, Metric, perplexity
from harness.metrics.bleu import bleu
from harness.stats.losses import Losses, losses, losses_so_far
from harness.stats.paired import Table, values
from harness.stats.sequential import GroupSequential, Martingale

ALPHA, BETA = 0.05, 0.10
QUANTILES = 1.645 + 1.282
MARGINS = (0.0, 0.5, 1.0, 1.5, 2.0, -0.5)
DRAWS = 499  # for the fixed test at the end; more of them take longer and have the same level
PILOT = 40_000  # units, to learn the spread and the effect of a change
MOST_ITEMS = {0.0: 0.70, 1.0: 0.80, 2.0: 0.45}  # of the fixed test, at 10 % discordance
SEED = 0

Pair = tuple[Table, Table]
Draw = Callable[[np.random.Generator, int, float], Pair]
"""(generator, units, how much worse b is) -> outcomes of a and b."""
Verdict = tuple[str, float]
"""`regression`, `fine` or `undecided`; the share of the items that it took."""


@dataclass(frozen=True)
class Kind:
    """A kind of score; one of `items` and `margin` follows from the other."""

    name: str
    metric: Metric
    draw: Draw
    items: int = 0
    margin: float = 0.0
    slices: int = 50


def right_wrong(rng: np.random.Generator, n: int, worse: float, *, discordance: float) -> Pair:
    """Right/wrong items, (right, 1), of which b loses a share `worse` more than it wins."""
    lost, won = (discordance + worse) / 2, (discordance - worse) / 2
    kind = rng.choice(4, n, p=[lost, won, 0.4 - lost, 0.6 - won])
    return _outcomes(np.isin(kind, [0, 2]), np.ones(n)), _outcomes(
        np.isin(kind, [1, 2]), np.ones(n)
    )


def surprisal(rng: np.random.Generator, n: int, worse: float) -> Pair:
    """Blocks of 20 lines, (nats, words): heavy tails, and b's changes are lopsided.

    b is better on most lines by a little and worse on few by much.
    """
    words = rng.integers(5, 40, (n, 20)).astype(np.float64)
    hard = rng.normal(3.5, 0.15, (n, 1)) * words
    a = hard * rng.lognormal(0, 0.2, (n, 20))
    b = a + words * (0.1 * (rng.exponential(1, (n, 20)) - 1) + worse)
    return _outcomes(a.sum(1), words.sum(1)), _outcomes(b.sum(1), words.sum(1))


def f1(rng: np.random.Generator, n: int, worse: float) -> Pair:
    """Stories, (sum of the F1 of its questions, questions); a story suits each run more or less."""
    questions = rng.integers(5, 26, n)
    story = np.repeat(np.arange(n), questions)
    hard = rng.normal(0.5, 0.15, n)[story] + rng.normal(0, 0.35, len(story))
    runs = []
    for change in (0.0, worse):
        suits = rng.normal(0, 0.08, n)[story] - change
        noisy = np.clip(hard + suits + rng.normal(0, 0.25, len(story)), 0, 1)
        runs.append(_outcomes(np.bincount(story, noisy), questions))
    return runs[0], runs[1]


def translations(rng: np.random.Generator, n: int, worse: float) -> Pair:
    """Sentences, the counts of BLEU: matches and n-grams of each order, lengths of both."""
    reference = rng.integers(8, 45, n)
    quality = rng.normal(0.6, 0.12, n)
    runs = []
    for change in (0.0, worse):
        length = np.maximum(reference + rng.integers(-2, 3, n), 4)
        share = np.clip(quality + rng.normal(0, 0.06, n) - change, 0.05, 0.95)
        totals = [length - order for order in range(4)]
        matches = [rng.binomial(total, share ** (1 + order)) for order, total in enumerate(totals)]
        table = np.array([*matches, *totals, length, reference, np.ones(n)], np.float64).T
        runs.append(table)
    return runs[0], runs[1]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("accuracy, 5 % differ", ACCURACY, partial(right_wrong, discordance=0.05), margin=2.0),
        Kind("accuracy, 10 % differ", ACCURACY, partial(right_wrong, discordance=0.10), margin=2.0),
        Kind("perplexity, blocks", perplexity("word"), surprisal, items=100),
        Kind("F1, stories", MEAN, f1, items=500),
        Kind("BLEU, sentences", bleu(1), translations, items=1000, slices=20),
    )
}


def _outcomes(first: np.ndarray, units: np.ndarray) -> Table:
    return np.array([first, units], np.float64).T


def complete(kind: Kind) -> Kind:
    """The kind with both margin and items, by the spread of a large sample without a loss."""
    sd = float(
        losses(kind.metric, *kind.draw(np.random.default_rng(SEED), PILOT, 0.0)).values.std()
    )
    if kind.metric is ACCURACY:  # known: the spread at the margin
        share = kind.margin / 100
        differ = kind.draw.keywords["discordance"]  # type: ignore[attr-defined]
        items = math.ceil(QUANTILES**2 * (differ - share**2) / share**2)
        return replace(kind, items=items)
    return replace(kind, margin=QUANTILES * sd / math.sqrt(kind.items))


def change_for(kind: Kind, loss: float) -> float:
    """How much worse b has to be for a true loss, in the metric's unit."""
    if not loss:
        return 0.0
    if kind.metric is ACCURACY:
        return loss / 100

    def excess(worse: float) -> float:
        a, b = kind.draw(np.random.default_rng(SEED), PILOT, worse)
        gain = float(values(kind.metric, b.sum(0)) - values(kind.metric, a.sum(0)))
        base_a, base_b = kind.draw(np.random.default_rng(SEED), PILOT, 0.0)
        gain -= float(values(kind.metric, base_b.sum(0)) - values(kind.metric, base_a.sum(0)))
        return (-gain if kind.metric.higher_is_better else gain) - loss

    return float(brentq(excess, -0.3, 0.3, xtol=1e-5))


def judge(test: Martingale | GroupSequential, slices: Sequence[Losses], items: int) -> Verdict:
    """The verdict of one score alone, and the share of the items after which it was known."""
    used = 0
    for part in slices:
        test.add(part)
        used += len(part.values)
        if used == items:
            test.finish(DRAWS) if isinstance(test, Martingale) else test.finish()
        if test.p_worse < ALPHA:
            return "regression", used / items
        if test.p_within < BETA:
            return "fine", used / items
    return "undecided", 1.0


def slices_of(kind: Kind, a: Table, b: Table, cuts: Sequence[int]) -> Iterator[Losses]:
    """The losses of each slice, as a gate sees them: next to all slices before."""
    whole = a.sum(axis=0)
    for start, stop in pairwise([0, *cuts, kind.items]):
        found = losses_so_far(kind.metric, a[:stop], b[:stop], whole)
        yield Losses(found.values[start:], found.weights[start:])


def simulate(name: str, multiple: float, runs: int) -> list[list[Verdict]]:
    """Verdicts of every run: of the fixed test, the group-sequential design and the bets."""
    kind = complete(KINDS[name])
    worse = change_for(kind, multiple * kind.margin)
    rng = np.random.default_rng(SEED + 1)
    found: list[list[Verdict]] = []
    proportion = kind.metric.proportion
    cuts = np.linspace(0, kind.items, kind.slices + 1).round().astype(int)[1:-1]
    for _ in range(runs):
        a, b = kind.draw(rng, kind.items, worse)
        slices = list(slices_of(kind, a, b, cuts))
        looks = partial(GroupSequential, kind.margin, proportion=proportion, items=kind.items)
        bets = Martingale(kind.margin, proportion=proportion, items=kind.items)
        designs = (looks(looks=1), looks(looks=4), bets)
        found.append([judge(design, slices, kind.items) for design in designs])
    return found


def shares(verdicts: Sequence[Verdict]) -> list[float]:
    """Shares of regression, fine and undecided, and the mean share of the items used."""
    words = [word for word, _ in verdicts]
    counts = [words.count(word) / len(words) for word in ("regression", "fine", "undecided")]
    return [*counts, sum(used for _, used in verdicts) / len(verdicts)]


def too_many(rate: float, level: float, runs: int) -> bool:
    """Whether a wrong verdict is more frequent than its level by two standard errors."""
    return rate > level + 2 * math.sqrt(level * (1 - level) / runs)


def wrong(multiple: float, found: Sequence[Sequence[float]], runs: int) -> bool:
    """Whether a sequential design errs too often at this true loss, in margins."""
    for regression, fine, *_ in found[1:]:
        if multiple <= 0 and too_many(regression, ALPHA, runs):
            return True
        if multiple >= 1 and too_many(fine, BETA, runs):
            return True
    return False


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--score", nargs="*", choices=KINDS, default=[*KINDS])
    parser.add_argument("--loss", type=float, nargs="*", choices=MARGINS, default=MARGINS)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    begun, missed = time.perf_counter(), 0
    cases = list(product(options.score, options.loss))
    print(
        f"{options.runs} runs each; regression / fine / undecided in %, mean share of the items\n"
    )
    print(
        "| score | items | margin | loss in margins | fixed test | 4 looks | used | bets | used | |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|---|")
    with ProcessPoolExecutor(options.processes) as pool:
        jobs = [pool.submit(simulate, name, loss, options.runs) for name, loss in cases]
        for (name, loss), job in zip(cases, jobs, strict=True):
            kind = complete(KINDS[name])
            found = [shares(verdicts) for verdicts in zip(*job.result(), strict=True)]
            bad = wrong(loss, found, options.runs)
            if "10 %" in name:
                bad = bad or found[2][3] > MOST_ITEMS.get(loss, 1.0)
            missed += bad
            cells = [" / ".join(f"{100 * share:.1f}" for share in design[:3]) for design in found]
            print(
                f"| {name} | {kind.items} | {kind.margin:.3g} | {loss:g} | {cells[0]} | {cells[1]} "
                f"| {found[1][3]:.2f} | {cells[2]} | {found[2][3]:.2f} "
                f"| {'MISSED' if bad else 'ok'} |",
                flush=True,
            )
    print(f"\n{time.perf_counter() - begun:.0f} s")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
