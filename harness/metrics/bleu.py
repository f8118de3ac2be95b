"""Translations: BLEU and chrF through sacrebleu (Post 2018, arXiv:1804.08771).

Both are functions of summed counts, so that a corpus score and every resample of it come from
the same statistics. Several runs over the same sentences, one a set of example pairs, are kept
side by side in one outcome; the score is the mean over the runs.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from harness.metrics import Metric, Outcome

BLEU_COUNTS = ("correct1", "correct2", "correct3", "correct4", "total1", "total2", "total3",
               "total4", "length", "reference_length")  # fmt: skip
CHRF_COUNTS = tuple(
    f"{what}{n}" for n in range(1, 7) for what in ("hypothesis", "reference", "match")
)


def bleu_counts(translation: str, reference: str, tokenize: str) -> Outcome:
    """`BLEU_COUNTS` of one sentence."""
    found = _bleu(tokenize).corpus_score([translation], [[reference]])
    return (*found.counts, *found.totals, found.sys_len, found.ref_len)


def chrf_counts(translation: str, reference: str) -> Outcome:
    """`CHRF_COUNTS` of one sentence."""
    [counts] = _chrf()._extract_corpus_statistics([translation], [[reference]])
    return tuple(float(count) for count in counts)


def bleu(runs: int, spread: bool = False) -> Metric:
    """Corpus BLEU, from 0 to 100: the mean over runs, or their standard deviation.

    Outcomes are the counts of each run, then (1,).
    """

    def value(counts: Sequence[float]) -> float:
        from sacrebleu.metrics.bleu import BLEU

        correct, total = [round(c) for c in counts[:4]], [round(c) for c in counts[4:8]]
        sizes = (round(counts[8]), round(counts[9]))
        return float(BLEU.compute_bleu(correct, total, *sizes, smooth_method="exp").score)

    return Metric("points", not spread, _over_runs(value, len(BLEU_COUNTS), runs, spread))


def chrf(runs: int) -> Metric:
    """Corpus chrF2, from 0 to 100: the mean over runs. Outcomes as for `bleu`."""

    def value(counts: Sequence[float]) -> float:
        return float(_chrf()._compute_score_from_stats([*counts]).score)

    return Metric("points", True, _over_runs(value, len(CHRF_COUNTS), runs, spread=False))


def signature(tokenize: str) -> str:
    """What sacrebleu says of its BLEU."""
    return f"{_bleu(tokenize).get_signature().format()}".replace("|", ",")


def _over_runs(
    value: Callable[[Sequence[float]], float], size: int, runs: int, spread: bool
) -> Callable[[Sequence[Any]], Any]:
    def compute(sums: Sequence[Any]) -> Any:
        import numpy as np

        table = np.atleast_2d(np.array(sums, np.float64).T)  # (resamples, runs * size + 1)
        scores = np.array(
            [[value(row[r * size : (r + 1) * size]) for r in range(runs)] for row in table]
        )
        found = scores.std(axis=1, ddof=1) if spread else scores.mean(axis=1)
        return found if np.ndim(sums[0]) else float(found[0])

    return compute


@cache
def _bleu(tokenize: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize=tokenize)
    metric.corpus_score(["a"], [["a"]])  # its signature is unknown before the first score
    return metric


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
