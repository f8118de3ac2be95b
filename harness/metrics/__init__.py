"""Metrics and extractors: from the responses of an example to the numbers of a benchmark.

An extractor turns the responses of one example into outcomes, and a metric turns the sum of all
outcomes into a score:

    corpus        accuracy, perplexity, bits per byte and other metrics over summed outcomes
    extract       extractors that several tasks share
    exact_match   exact match and F1 of short answers, as SQuAD and CoQA define them
    rouge         sentences and ROUGE of summaries
    bleu          BLEU and chrF of translations
    calibration   expected calibration error
    hf_evaluate   metrics of the Hugging Face `evaluate` library, and ours for it
"""

from typing import TYPE_CHECKING

from harness import moved
from harness.metrics.corpus import (
    ACCURACY,
    MEAN,
    Metric,
    Outcome,
    bits,
    mean,
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
    "mean",
    "mean_over_runs",
    "perplexity",
    "selective_accuracy",
    "std_over_runs",
]

if not TYPE_CHECKING:  # old names
    __getattr__ = moved.attributes(__name__)
