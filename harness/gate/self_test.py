"""The self-test of a gate: the baseline's checkpoint as candidate, unchanged and a little worse.

The same weights with other batches give the last digits that a change of machine or version would:
the gate has to accept them. Noise in the weights makes a checkpoint that is worse by a known
amount: whether the gate refuses it, and what that costs, tells which changes it catches.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from harness.analysis.baseline import Key
from harness.analysis.check import Verdict
from harness.analysis.paper.published import POINTS
from harness.errors import UsageError, clipped_repr
from harness.gate.loop import Gate, Stopped
from harness.gate.scores import GatedScore
from harness.stats.losses import losses
from harness.stats.power import detectable

BATCHES = (512, 8192)  # padded tokens
NOISE = "1%,3%"  # the default
POWER = 0.9
_SHARE = re.compile(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*%\s*")


class Candidate(NamedTuple):
    """A way to load and run the baseline's checkpoint."""

    noise: float = 0.0  # in the weights: a share of each matrix's spread
    batch_tokens: int | None = None  # None: by device

    def __str__(self) -> str:
        if self.noise:
            return f"{100 * self.noise:g} % noise"
        return f"same weights, {self.batch_tokens:,} tokens a batch"


class Catch(NamedTuple):
    """The smallest loss of a score that all items would show with a probability of 90 %."""

    loss: float | None  # None where no item differs, so that there is no spread to go by
    unit: str  # points, or % of the score


@dataclass(frozen=True, slots=True)
class Result:
    """What the gate made of one candidate."""

    candidate: Candidate
    exit: int  # the exit code of the gate
    stopped: Stopped
    verdicts: Sequence[Verdict]
    catches: Mapping[Key, Catch]


def parse_noise(text: str) -> tuple[float, ...]:
    """The shares in `1%,3%`, each once.

    Raises:
        UsageError: one is no percentage above 0 and below 100.
    """
    matches = [(word, _SHARE.fullmatch(word)) for word in text.split(",")]
    for word, match in matches:
        if match is None or not 0 < float(match[1]) < 100:
            raise UsageError(
                f"--noise {clipped_repr(text, 60)}: {clipped_repr(word, 40)} is not a size of "
                "noise; expected percentages of each matrix's spread, such as 1%,3%"
            )
    return tuple(dict.fromkeys(float(match[1]) / 100 for _, match in matches if match))


def candidates(noise: Iterable[float], batch_tokens: int | None, used: object) -> list[Candidate]:
    """The candidates of a self-test: the same weights first.

    Args:
        noise: its sizes.
        batch_tokens: of every candidate; None: several for the same weights.
        used: the batches of the baseline, in tokens.
    """
    sizes = [size for size in BATCHES if size != used] if batch_tokens is None else [batch_tokens]
    same = [Candidate(0.0, size) for size in sizes]
    return [*same, *(Candidate(share, batch_tokens) for share in noise)]


def result(candidate: Candidate, gate: Gate, verdicts: Sequence[Verdict], code: int) -> Result:
    """What a gate that has stopped says about a candidate."""
    assert gate.stopped is not None, "the gate has stopped"
    scores = [score for benchmark in gate.benchmarks for score in benchmark.scores]
    tested = [score for score in scores if score.test is not None]
    alpha = gate.baseline.alpha / max(1, len(tested))  # as Holm's first step
    catches = {score.key: catch(score, alpha) for score in tested if candidate.noise}
    return Result(candidate, code, gate.stopped, verdicts, catches)


def catch(score: GatedScore, alpha: float) -> Catch:
    """What a test of all items at level `alpha` would show of a score, by the losses so far."""
    in_points = score.metric.unit in POINTS
    unit = "points" if in_points else "% of the score"
    if score.used < 2 or score.last is None or (not in_points and not score.value):
        return Catch(None, unit)
    spread = float(losses(score.metric, *score.tables()).values.std(ddof=1))
    if not 0 < spread < math.inf:
        return Catch(None, unit)
    scale = 1.0 if in_points else 100 / abs(score.value)
    return Catch(scale * detectable(spread, score.items, alpha=alpha, power=POWER), unit)


def accepts_itself(results: Iterable[Result]) -> int:
    """0 if the gate accepts the same weights, else the exit code with which it refuses them."""
    return next((found.exit for found in results if not found.candidate.noise and found.exit), 0)
