"""BLEU and chrF of translations through sacrebleu (Post 2018, arXiv:1804.08771).

Both are functions of summed counts, so the corpus score and every resample of it come from the same
outcomes. One outcome holds the counts of several runs over the same sentence, one run per draw of
example pairs; the score is the mean over the runs.
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
    score = _bleu(tokenize).corpus_score([translation], [[reference]])
    return (*score.counts, *score.totals, score.sys_len, score.ref_len)


def chrf_counts(translation: str, reference: str) -> Outcome:
    """`CHRF_COUNTS` of one sentence."""
    [counts] = _chrf()._extract_corpus_statistics([translation], [[reference]])
    return tuple(float(count) for count in counts)


def bleu(runs: int, spread: bool = False) -> Metric:
    """Corpus BLEU, from 0 to 100: the mean over the runs, or their standard deviation (`spread`).

    Outcomes are the counts of each run, then (1,).
    """

    def score(counts: Sequence[float]) -> float:
        from sacrebleu.metrics.bleu import BLEU

        correct, total = [round(c) for c in counts[:4]], [round(c) for c in counts[4:8]]
        sizes = (round(counts[8]), round(counts[9]))
        return float(BLEU.compute_bleu(correct, total, *sizes, smooth_method="exp").score)

    return Metric("points", not spread, _over_runs(score, len(BLEU_COUNTS), runs, spread))


def chrf(runs: int) -> Metric:
    """Corpus chrF2, from 0 to 100: the mean over the runs. Outcomes are like those of `bleu`."""

    def score(counts: Sequence[float]) -> float:
        return float(_chrf()._compute_score_from_stats([*counts]).score)

    return Metric("points", True, _over_runs(score, len(CHRF_COUNTS), runs, spread=False))


def signature(tokenize: str) -> str:
    """The signature that sacrebleu gives its BLEU."""
    return f"{_bleu(tokenize).get_signature().format()}".replace("|", ",")


def _over_runs(
    score: Callable[[Sequence[float]], float], size: int, runs: int, spread: bool
) -> Callable[[Sequence[Any]], Any]:
    """`Metric.compute` for outcomes with `size` counts per run."""

    def compute(sums: Sequence[Any]) -> Any:
        import numpy as np

        table = np.atleast_2d(np.array(sums, np.float64).T)  # (resamples, runs * size + 1)
        scores = np.array(
            [[score(row[r * size : (r + 1) * size]) for r in range(runs)] for row in table]
        )
        values = scores.std(axis=1, ddof=1) if spread else scores.mean(axis=1)
        return values if np.ndim(sums[0]) else float(values[0])

    return compute


@cache
def _bleu(tokenize: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize=tokenize)
    metric.corpus_score(["a"], [["a"]])  # before the first score it has no signature
    return metric


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
