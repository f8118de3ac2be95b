"""The outcomes of a run so far, and the scores and tables made of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from harness.core import Example, Response, Score
from harness.metrics import Outcome
from harness.metrics.hf_evaluate import ModuleMetric
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown
from harness.runner.job import Job
from harness.stats import intervals
from harness.task import Measure

ByMeasure = list[list[Outcome | None]]
"""The outcomes of one example: by measure, then in order; None: not known yet."""


def known(outcomes: ByMeasure) -> list[list[Outcome]]:
    """The outcomes that are known, by measure."""
    return [[outcome for outcome in of if outcome is not None] for of in outcomes]


class Answered(NamedTuple):
    """What is known of one example."""

    outcomes: ByMeasure
    shown: Shown


@dataclass(slots=True)
class Results:
    """What is known of all examples that were answered, in whole or in part."""

    measures: tuple[Measure, ...]
    answered: dict[int, Answered] = field(default_factory=dict)  # by example

    def extract(self, example: Example, responses: Sequence[Response]) -> ByMeasure:
        """The outcomes of a complete example."""
        return [list(measure.extract(example, responses)) for measure in self.measures]

    def of_pieces(
        self, e: int, example: Example, response: Response, pieces: Sequence[int]
    ) -> ByMeasure:
        """The outcomes of a text after further pieces; the response has only those."""
        new = self.extract(example, [response])
        before: ByMeasure = [[None] * len(outcomes) for outcomes in new]
        if e in self.answered:
            before = self.answered[e].outcomes
        chosen = set(pieces)
        return [
            [outcome if k in chosen else old[k] for k, outcome in enumerate(outcomes)]
            for old, outcomes in zip(before, new, strict=True)
        ]

    def scores(self, job: Job, parts: int | None = None) -> tuple[Score, ...]:
        """One score per measure; optional measures without outcomes have none.

        `parts` is how many were used of a run that was stopped, in which any measure may have none.
        """
        scores = []
        for m, measure in enumerate(self.measures):
            outcomes = [outcome for _, _, outcome in self._known(m)]
            if parts is not None and measure.blocks:
                measure = replace(measure, blocks=min(measure.blocks, parts))
            if outcomes or not (measure.optional or parts):
                scores.append(intervals.score_of_task(job.task.name, measure, outcomes, job.seed))
        return tuple(scores)

    def scored_examples(self) -> int:
        """Number of examples that have an outcome of the model, not only of a baseline."""
        own = [m for m, measure in enumerate(self.measures) if measure.baseline is None]
        return len({e for m in own for e, _, _ in self._known(m)})

    def table(self, examples: Sequence[Example]) -> Outcomes:
        """The outcomes by measure, for comparing with another run; those of texts are left out."""
        places = {e: place for place, e in enumerate(sorted(self.answered))}
        metrics: dict[str, MetricOutcomes] = {}
        for m, measure in enumerate(self.measures):
            if not isinstance(measure.metric, ModuleMetric):
                known = list(self._known(m))
                metrics[measure.name] = MetricOutcomes(
                    tuple(places[e] for e, _, _ in known),
                    tuple(tuple(map(float, outcome)) for _, _, outcome in known),
                    tuple(k for _, k, _ in known) if self._has_gaps(m) else None,
                )
        shown = tuple(self.answered[e].shown for e in places)
        return Outcomes(tuple(examples[e].id for e in places), shown, metrics)

    def _known(self, m: int) -> Iterator[tuple[int, int, Outcome]]:
        """(example, place among its outcomes, outcome) of a measure, in order."""
        for e, answered in sorted(self.answered.items()):
            for k, outcome in enumerate(answered.outcomes[m]):
                if outcome is not None:
                    yield e, k, outcome

    def _has_gaps(self, m: int) -> bool:
        return any(None in answered.outcomes[m] for answered in self.answered.values())
