"""Metrics of the Hugging Face `evaluate` library in this harness, and ours for that library.

A task may use any module of `evaluate` as its metric: `Measure("wer", ModuleMetric("wer", ...))`
with an extractor that returns (prediction, references), such as `harness.metrics.extract.texts`.
A module on disk works without a network. In the other direction, `as_module("f1")` wraps a metric
of ours in the interface of `evaluate.load`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import UsageError
from harness.metrics.exact_match import Compare, exact_match, f1, leave_one_out, max_over_references

Texts = tuple[str, tuple[str, ...]]
"""A prediction and its references."""
MAX_ERROR_CHARS = 160


@dataclass(frozen=True, slots=True)
class ModuleMetric:
    """A module of `evaluate`, computed once over all texts.

    Its outcomes are `Texts`. It is not a function of sums, so its score has no interval.
    """

    module: str  # what `evaluate.load` takes: a name on the hub or a local path
    key: str  # the entry of the module's result that is the score
    unit: str
    higher_is_better: bool
    several: bool = False  # whether the module takes a list of references for each prediction
    settings: Mapping[str, Any] = field(default_factory=dict)  # passed to the module's `compute`

    def compute(self, outcomes: Sequence[Texts]) -> float:
        """The module's score over all texts.

        Raises:
            UsageError: the module cannot be loaded or computed, or its result lacks `key`.
        """
        # evaluate has its own offline switch; without it, it waits long for the network.
        os.environ.setdefault("HF_EVALUATE_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "0"))
        import evaluate

        predictions = [prediction for prediction, _ in outcomes]
        try:
            references = [[*refs] if self.several else refs[0] for _, refs in outcomes]
            module = evaluate.load(self.module)
            result = module.compute(predictions=predictions, references=references, **self.settings)
            return float(result[self.key])
        except Exception as error:
            reason = " ".join(str(error).split())[:MAX_ERROR_CHARS]
            raise UsageError(
                f"evaluate module {self.module!r} gave no {self.key!r} ({type(error).__name__}: "
                f"{reason}); expected a name or a local path that evaluate.load takes"
            ) from error


def _mean_over(
    aggregate: Callable[[Compare, str, Sequence[str]], float], compare: Compare
) -> Callable[[Sequence[Texts]], float]:
    def mean(pairs: Sequence[Texts]) -> float:
        return 100 * sum(aggregate(compare, p, refs) for p, refs in pairs) / len(pairs)

    return mean


def _bleu(pairs: Sequence[Texts]) -> float:
    from harness.metrics.bleu import bleu, bleu_counts

    counts = [(*bleu_counts(p, refs[0], "13a"), 1.0) for p, refs in pairs]
    return float(bleu(1).compute([sum(column) for column in zip(*counts, strict=True)]))


def _rouge(place: int) -> Callable[[Sequence[Texts]], float]:
    def mean(pairs: Sequence[Texts]) -> float:
        from harness.metrics.rouge import rouge

        return 100 * sum(rouge(p.split("\n"), refs[0])[place] for p, refs in pairs) / len(pairs)

    return mean


METRICS: Mapping[str, Callable[[Sequence[Texts]], float]] = {
    "exact_match": _mean_over(max_over_references, exact_match),
    "f1": _mean_over(max_over_references, f1),
    "coqa_f1": _mean_over(leave_one_out, f1),
    "bleu": _bleu,
    "rouge1": _rouge(0),
    "rouge2": _rouge(1),
    "rougeLsum": _rouge(2),
}
"""Name -> a function from texts to a score from 0 to 100."""


def as_module(name: str) -> Any:
    """One of our metrics as an `evaluate.Metric`.

    >>> as_module("f1").compute(predictions=["a cat"], references=[["the cat", "dog"]])
    {'f1': 100.0}

    Raises:
        UsageError: there is no such metric.
    """
    if name not in METRICS:
        raise UsageError(f"there is no metric {name!r}; choose from: {', '.join(METRICS)}")
    import datasets
    import evaluate

    class Module(evaluate.Metric):  # type: ignore[misc] # evaluate has no types
        def _info(self) -> Any:
            features = datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            )
            return evaluate.MetricInfo(
                description=f"{name} as zero-shot-harness computes it",
                citation="",
                inputs_description="predictions: texts; references: a list for each",
                features=features,
            )

        def _compute(
            self, predictions: Sequence[str], references: Sequence[Sequence[str]]
        ) -> dict[str, float]:
            pairs = [(p, tuple(r)) for p, r in zip(predictions, references, strict=True)]
            if not pairs or not all(refs for _, refs in pairs):
                raise UsageError(f"{name} needs predictions, each with at least one reference")
            return {name: METRICS[name](pairs)}

    Module.__name__ = name  # evaluate takes the name of the metric from it
    return Module()
