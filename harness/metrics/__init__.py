"""Extractors and metrics: from the responses of an example to the numbers of a benchmark."""

from harness.metrics.corpus import (
    ACCURACY,
    MEAN,
    Metric,
    Outcome,
    bits,
    mean_over_runs,
    most_confident,
    perplexity,
    spread_over_runs,
)

__all__ = [
    "ACCURACY",
    "MEAN",
    "Metric",
    "Outcome",
    "bits",
    "mean_over_runs",
    "most_confident",
    "perplexity",
    "spread_over_runs",
]
