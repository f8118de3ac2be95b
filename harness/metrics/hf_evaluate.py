"""Both ways between this harness and the `evaluate` library.

A benchmark may name any of its modules as a metric: `Measure("wer", ModuleMetric("wer", ...))`
with an extractor that gives (prediction, references). A local path works without a network.
The other way, `as_module("f1")` is a metric of ours with the interface of `evaluate.load`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import UsageError
from harness.metrics.exact_match import exact_match, f1, leave_one_out, max_over_references

Texts = tuple[str, tuple[str, ...]]
"""A prediction and its references."""


@dataclass(frozen=True, slots=True)
class ModuleMetric:
    """A module of `evaluate`, computed once over all texts.

    Its outcomes are `Texts`. It is no function of sums, so that it has no interval.
    """

    module: str  # what `evaluate.load` takes: a name on the hub, or a local path
    key: str  # of the number in what it returns
    unit: str
    higher_is_better: bool
    several: bool = False  # whether it takes a list of references for each prediction
    settings: Mapping[str, Any] = field(default_factory=dict)  # passed on to `compute`

    def compute(self, outcomes: Sequence[Texts]) -> float:
        """The module's number over all texts.

        Raises:
            UsageError: the module cannot be loaded or computed, or gives no such number.
        """
        # It has a switch of its own; without it a name is looked for on the network for long.
        os.environ.setdefault("HF_EVALUATE_OFFLINE", os.environ.get("HF_HUB_OFFLINE", "0"))
        import evaluate

        predictions = [prediction for prediction, _ in outcomes]
        try:
            references = [[*wanted] if self.several else wanted[0] for _, wanted in outcomes]
            module = evaluate.load(self.module)
            found = module.compute(predictions=predictions, references=references, **self.settings)
            return float(found[self.key])
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise UsageError(
                f"evaluate module {self.module!r} gave no {self.key!r} ({type(error).__name__}: "
                f"{reason}); expected a name or a local path that evaluate.load takes"
            ) from error


def _answers(compare: Callable[[str, str], float]) -> Callable[..., float]:
    def mean(pairs: Sequence[Texts]) -> float:
        return 100 * sum(max_over_references(compare, p, r) for p, r in pairs) / len(pairs)

    return mean


def _left_out(pairs: Sequence[Texts]) -> float:
    return 100 * sum(leave_one_out(f1, p, r) for p, r in pairs) / len(pairs)


def _bleu(pairs: Sequence[Texts]) -> float:
    from harness.metrics.bleu import bleu, bleu_counts

    counts = [(*bleu_counts(p, r[0], "13a"), 1.0) for p, r in pairs]
    return float(bleu(1).compute([sum(column) for column in zip(*counts, strict=True)]))


def _rouge(place: int) -> Callable[[Sequence[Texts]], float]:
    def mean(pairs: Sequence[Texts]) -> float:
        from harness.metrics.rouge import rouge

        return 100 * sum(rouge(p.split("\n"), r[0])[place] for p, r in pairs) / len(pairs)

    return mean


METRICS: Mapping[str, Callable[[Sequence[Texts]], float]] = {
    "exact_match": _answers(exact_match),
    "f1": _answers(f1),
    "coqa_f1": _left_out,
    "bleu": _bleu,
    "rouge1": _rouge(0),
    "rouge2": _rouge(1),
    "rougeLsum": _rouge(2),
}
"""Name -> texts to a number from 0 to 100."""


def as_module(name: str) -> Any:
    """A metric of ours as an `evaluate.Metric`.

    >>> as_module("f1").compute(predictions=["a cat"], references=[["the cat", "dog"]])
    {'f1': 100.0}

    Raises:
        UsageError: there is no metric of that name.
    """
    if name not in METRICS:
        raise UsageError(f"there is no metric {name!r}; choose from: {', '.join(METRICS)}")
    import datasets
    import evaluate

    class Ours(evaluate.Metric):  # type: ignore[misc] # evaluate has no types
        def _info(self) -> Any:
            features = datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            )
            return evaluate.MetricInfo(
                description=f"{name} as this harness computes it",
                citation="",
                inputs_description="predictions: texts; references: a list of texts for each",
                features=features,
            )

        def _compute(
            self, predictions: Sequence[str], references: Sequence[Sequence[str]]
        ) -> dict[str, float]:
            pairs = [(p, tuple(r)) for p, r in zip(predictions, references, strict=True)]
            if not pairs or not all(wanted for _, wanted in pairs):
                raise UsageError(f"{name} needs a prediction, and a reference for each")
            return {name: METRICS[name](pairs)}

    Ours.__name__ = name  # what evaluate calls the module
    return Ours()
