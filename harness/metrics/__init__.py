"""Extractors and metrics: from the responses of an example to the numbers of a benchmark."""

from typing import TYPE_CHECKING

from harness import moved
from harness.metrics.corpus import (
    ACCURACY,
    MEAN,
    Metric,
    Outcome,
    bits,
    mean_over_runs,
    perplexity,
    selective_accuracy,
    std_over_runs,
)

__all__ = [
    "ACCURACY",
    "MEAN",
    "Metric",
    "Outcome",
    "bits",
    "mean_over_runs",
    "perplexity",
    "selective_accuracy",
    "std_over_runs",
]

if not TYPE_CHECKING:  # old names
    __getattr__ = moved.attributes(__name__)
