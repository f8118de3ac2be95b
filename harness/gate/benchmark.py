"""One benchmark of a gate: the parts that were answered, in random order, and its scores."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.analysis.rules.judge import NO_TEST, too_few
from harness.analysis.rules.rule import TESTED
from harness.errors import RecordError
from harness.gate import order
from harness.gate.plan import Name, Planned
from harness.gate.scores import GatedScore, Levels, gated
from harness.gate.state import Cost
from harness.records.outcomes import Outcomes
from harness.runner import Evaluation, Part, encode

if TYPE_CHECKING:
    from harness.engine.engine import Engine

MIN_SHARE = 1 / order.SLICES  # of its parts that a decision takes at least
MIN_SECONDS = 1e-9


@dataclass(slots=True)
class Benchmark:
    """A benchmark with the candidate's evaluation, which grows slice by slice."""

    planned: Planned
    evaluation: Evaluation
    order: tuple[int, ...]  # of the parts that the baseline has
    cost: Cost
    batch: int  # parts that fill a batch
    scores: list[GatedScore]
    refused: dict[str, str]  # metric -> why the model has no such score
    open: set[str] = field(default_factory=set)  # metrics that keep the benchmark running
    done: int = 0  # parts
    failure: str = ""  # why the model cannot be scored on it

    @property
    def name(self) -> Name:
        """Benchmark and protocol."""
        return self.planned.name

    @property
    def items(self) -> int:
        """Number of parts that both runs can have."""
        return len(self.order)

    @property
    def complete(self) -> bool:
        """Whether all parts are answered."""
        return self.done == self.items

    @property
    def runs_on(self) -> bool:
        """Whether more parts may bring a verdict."""
        return bool(self.open) and not self.complete and not self.failure

    def information(self, levels: Levels) -> float:
        """How much of a decision a second brings, for the open score that needs the fewest."""
        share = min(s.share_needed(levels) for s in self.scores if s.name in self.open)
        return 1 / (max(share, MIN_SHARE) * max(self.cost.seconds, MIN_SECONDS))

    def next_slice(self, total_seconds: float, looks: int | None) -> int:
        """How many parts to answer next."""
        if looks is not None:
            return order.look(self.items, self.done, looks)
        size = order.slice_size(self.items, self.cost.seconds, total_seconds)
        return min(max(size, self.batch), self.items - self.done)

    def answer(self, count: int) -> None:
        """Answer the next parts, and add them to the evidence.

        Raises:
            HarnessError: the model gives no finite number, or cannot read a request.
        """
        parts = self.order[self.done : self.done + count]
        self.evaluation.answer(parts)
        chosen = [self.evaluation.parts[p] for p in parts]
        outcomes = self.evaluation.outcomes()
        self.done += count
        for score in self.scores:
            if not self._watched(score):
                continue
            before, after = (
                self.planned.sums(chosen, of, score.name)
                for of in (self.planned.run.outcomes, outcomes)
            )
            score.add(before, after)
            if self.complete and score.test is not None:
                score.test.finish()

    def _watched(self, score: GatedScore) -> bool:
        """Whether more parts matter for a score: its evidence stays as it was for its verdict."""
        return score.name in self.open or score.rule.kind == "report" or score.rule.in_pool


def cost_of(planned: Planned, engine: "Engine") -> Cost:
    """The estimated cost of a benchmark, as if nothing were cached.

    Raises:
        EncodingError: a request cannot be encoded.
    """
    encoded = encode(planned.job, planned.prepared, engine)
    estimate = engine.estimate(planned.prepared.requests, encoded, cached=False)
    return Cost(estimate.seconds, estimate.computed)


def begin(
    planned: Planned, engine: "Engine", levels: Levels, *, cost: Cost, seed: int
) -> Benchmark:
    """A benchmark none of whose parts is answered yet.

    Args:
        planned: the benchmark.
        engine: with the candidate.
        levels: of the tests.
        cost: of the whole benchmark.
        seed: of the order of its parts.

    Raises:
        RecordError: the baseline has none of the parts, or no score can be tested.
    """
    evaluation = Evaluation(planned.job, engine, prepared=planned.prepared)
    outcomes = planned.run.outcomes
    refused = refused_scores(planned, engine.identity.tokenizer)
    known = known_parts(evaluation.parts, outcomes, {*planned.rules} - {*refused})
    if not known:
        raise RecordError(
            f"{planned.run.file} has none of the {len(evaluation.parts)} items of "
            f"{planned.name[0]} in the data; write a new baseline"
        )
    if few := too_few(len(known), levels.alpha):
        refused |= {metric: few for metric, rule in planned.rules.items() if rule.kind == "paired"}
    rules = {metric: rule for metric, rule in planned.rules.items() if metric not in refused}
    parts = [evaluation.parts[p] for p in known]
    scores = []
    for metric, rule in rules.items():
        table = planned.sums(parts, outcomes, metric)
        of, value = planned.metric(metric), planned.score(metric).value
        scores.append(gated((*planned.name, metric), rule, of, value, table, levels))
    return Benchmark(
        planned,
        evaluation,
        order.shuffled(known, seed, *planned.name),
        cost,
        order.batch_size(len(known), cost.tokens, engine.backend.options.budget),
        scores,
        refused,
        {metric for metric, rule in rules.items() if rule.kind != "report"},
    )


def known_parts(parts: Iterable[Part], outcomes: Outcomes, metrics: Iterable[str]) -> list[int]:
    """The numbers of the parts whose outcomes a run has."""
    examples = set(outcomes.ids)
    pieces = {key for metric in metrics for key in outcomes.keys(metric)}
    return [
        number
        for number, part in enumerate(parts)
        if all(
            stretch.id in examples
            if not stretch.split
            else all((stretch.id, piece) in pieces for piece in stretch.pieces)
            for stretch in part.stretches
        )
    ]


def refused_scores(planned: Planned, tokenizer: str) -> dict[str, str]:
    """The scores of the baseline that this model does not have, and why."""
    refused = {}
    other = tokenizer != planned.run.record.model["tokenizer"]
    for metric, rule in planned.rules.items():
        if metric not in planned.run.outcomes.metrics:
            refused[metric] = "the baseline has no outcomes of it"
        elif rule.kind in TESTED and planned.metric(metric).select is not None:
            refused[metric] = NO_TEST
        elif other and planned.per_token(metric):
            refused[metric] = (
                "it counts tokens, and the model's tokenizer is not that of the baseline; use a "
                "score per word"
            )
    return refused
