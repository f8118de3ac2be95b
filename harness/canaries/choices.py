"""Canaries of choices, examples with several continuations or contexts to choose from.

Options are recognised by what is asked: one context with several continuations, or one
continuation after several contexts.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.canaries.chance import ROUNDING, random_accuracy, uniform_loss
from harness.canaries.likelihoods import Loss
from harness.core import Loglikelihood, Score, Scored

MIN_CHOICES = 10
MAX_TIED = 0.05  # share of the choices whose best options are equal
MIN_TIED = 5  # such choices, so that a few of a small run are no sign

Options = Sequence[Scored]
"""The responses to the options of one choice."""


def choices(
    responses: Mapping[Loglikelihood, Scored], references: Collection[str] = ()
) -> tuple[list[Options], list[Scored]]:
    """The choices among the responses of one example, and the responses that belong to none.

    Continuations that are all references are no choice, because all of them are right.
    """
    found: list[Options] = []
    alone: list[Loglikelihood] = []
    right = {reference.strip() for reference in references}
    for group in _grouped({request: request.context for request in responses}):
        if len(group) > 1 and any(request.continuation.strip() not in right for request in group):
            found.append([responses[request] for request in group])
        else:
            alone += group
    texts: list[Scored] = []
    for group in _grouped({request: request.continuation for request in alone}):
        options = [responses[request] for request in group]
        if len(group) > 1:
            found.append(options)
        else:
            texts += options
    return found, texts


def _grouped(keys: Mapping[Loglikelihood, str]) -> Iterator[list[Loglikelihood]]:
    groups: dict[str, list[Loglikelihood]] = {}
    for request, key in keys.items():
        groups.setdefault(key, []).append(request)
    yield from groups.values()


@dataclass(slots=True)
class Choices:
    """Are options tied, or is the choice no better than a random one?"""

    count: int = 0
    tied: int = 0  # choices whose best options are equal
    all_tied: int = 0  # choices with all options equal
    chance: float = 0.0  # sum of the accuracies of random choices, in percent
    loss: Loss = field(default_factory=Loss)  # of all options

    def add(self, options: Options) -> None:
        """Take one choice."""
        *_, second, best = values = sorted(option.logprob for option in options)
        self.count += 1
        self.tied += best - second <= ROUNDING
        self.all_tied += best - values[0] <= ROUNDING
        self.chance += random_accuracy(len(options))
        for option in options:
            self.loss.add(option)

    def warnings(self, scores: Sequence[Score], vocabulary: int) -> Iterator[str]:
        """What was seen."""
        if self.count < MIN_CHOICES:
            return
        if self.all_tied == self.count:
            yield (
                f"tied choices: the options of every choice, {self.count:,} in all, have equal "
                "log-probabilities; expected the model to prefer one; compare the weights with "
                "their origin, and run harness doctor"
            )
        elif self.tied >= MIN_TIED and self.tied > MAX_TIED * self.count:
            yield (
                f"tied choices: the best options of {self.tied:,} of {self.count:,} choices "
                f"({self.tied / self.count:.1%}) have equal log-probabilities, so that their order "
                f"decides; expected at most {MAX_TIED:.0%}; use --dtype float32"
            )
        if at_chance := self._at_chance(scores, vocabulary):
            yield at_chance

    def _at_chance(self, scores: Sequence[Score], vocabulary: int) -> str:
        """Whether no accuracy differs from chance, with a loss above uniform; empty if not.

        While the model does not tell right from wrong, wrong options are texts like any other, so
        that their loss counts.
        """
        chance = self.chance / self.count
        accuracies = [
            score
            for score in scores
            if score.baseline is None and score.unit == "%" and score.low is not None
        ]
        if not accuracies or not self.loss.is_no_better_than_uniform(vocabulary):
            return ""
        if any(not s.low <= chance <= s.high for s in accuracies):  # type: ignore[operator]
            return ""
        first = accuracies[0]
        return (
            f"accuracy at chance: {first.metric} is {first.value:.2f} % (95 % interval "
            f"{first.low:.2f} to {first.high:.2f}), a random choice gives {chance:.2f} %, and the "
            f"options have {self.loss.per_token:.2f} nats per token; expected less than the "
            f"{uniform_loss(vocabulary):.2f} of uniform probabilities over {vocabulary:,} tokens; "
            "the weights are random or damaged, or the tokenizer belongs to another model: run "
            "harness doctor"
        )
