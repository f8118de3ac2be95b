"""What the self-test found, and its verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.engine.endpoint.dialects.dialect import Abilities
from harness.engine.endpoint.settings import MAX_SPREAD

Values = NDArray[np.float32]
State = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """The result of one probe."""

    probe: str
    state: State
    seen: str
    advice: str = ""  # what was expected, and what to do; empty if all is well


class Spread:
    """The largest difference between answers to the same question, and which two answers differ."""

    def __init__(self) -> None:
        self.largest = 0.0  # nats
        self.between = ""

    def add(self, one: Sequence[Values], other: Sequence[Values], between: str) -> float:
        """Compare the answers of two rounds, given question by question."""
        difference = max(
            (float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True) if a.size),
            default=0.0,
        )
        if difference > self.largest:
            self.largest, self.between = difference, between
        return difference

    @property
    def seen(self) -> str:
        """In words."""
        if not self.largest:
            return "the same question always has exactly the same answer"
        return (
            f"answers to the same question differ by up to {self.largest:.2g} nats ({self.between})"
        )


class Known(NamedTuple):
    """A prompt, and the log-probabilities of its last tokens."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]  # nats


@dataclass
class Report:
    """The findings of a self-test, in the order of the probes; it ends at the first that fails."""

    findings: list[Finding]
    spread: float = 0.0  # nats
    abilities: Abilities | None = None  # None: it failed
    known: tuple[Known, ...] = ()  # what identifies the model; the first prompt is the sentinel
    calls: int = 0
    seconds: float = 0.0

    @property
    def failure(self) -> Finding | None:
        """The finding that ended the self-test; None if it passed."""
        return next((finding for finding in self.findings if finding.state == "fail"), None)

    @property
    def verdict(self) -> str:
        """In words, for the signature."""
        if self.failure:
            return "failed"
        if self.spread > MAX_SPREAD:
            return f"spread {self.spread:.1g} allowed"
        return "passed"
