"""What all probes share: the server that is asked, what was found so far, and how a probe fails."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, floor, log10
from typing import NoReturn

from harness.engine.endpoint.call import Ask
from harness.engine.endpoint.dialects.dialect import Dialect, Next
from harness.engine.endpoint.self_test.asking import Asking
from harness.engine.endpoint.self_test.findings import Finding, Spread, State
from harness.engine.endpoint.self_test.prompts import Prompts
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import ResponseError

SPREAD = "spread"
COARSE = 0.5  # nats; more is no rounding, in bfloat16 neither
WRONG_ANSWER = "the server, or a proxy before it, cannot be trusted: try another version of it"


class ProbeFailed(Exception):
    """A probe failed; the self-test ends."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.seen)
        self.finding = finding


@dataclass
class Probing:
    """A self-test that is under way."""

    asking: Asking
    dialect: Dialect
    tokenizer: Tokenizer
    prompts: Prompts
    max_spread: float  # nats
    spread: Spread = field(default_factory=Spread)
    findings: list[Finding] = field(default_factory=list)
    named: int = 0  # tokens that may be named in one call; 0: not offered
    top: int = 0  # most probable tokens that are returned; 0: not offered

    def found(self, probe: str, seen: str, state: State = "ok", advice: str = "") -> None:
        """Keep a finding."""
        self.findings.append(Finding(probe, state, seen, advice))

    @contextmanager
    def probe(self, name: str) -> Iterator[None]:
        """Let an answer that is wrong in itself fail this probe."""
        try:
            yield
        except ResponseError as error:
            self.fail(name, str(error), WRONG_ANSWER)

    def fail(self, probe: str, seen: str, advice: str) -> NoReturn:
        """End the self-test with a finding."""
        raise ProbeFailed(Finding(probe, "fail", seen, advice))

    def refuse_spread(self) -> None:
        """Fail if answers to the same question differ too much."""
        largest = self.spread.largest
        if largest <= self.max_spread:
            return
        advice = (
            "that is no rounding: answers depend on others or on the order; try another version"
        )
        if largest <= COARSE:
            advice = (
                f"if it is rounding, as in bfloat16, accept it by --max-spread "
                f"{_rounded_up(largest):g}; else try another version of the server"
            )
        self.fail(SPREAD, self.spread.seen, f"expected at most {self.max_spread:g}; {advice}")

    def check_spread(self) -> None:
        """Judge all answers to the same question so far."""
        self.refuse_spread()
        self.found(SPREAD, self.spread.seen)

    def following(self, prompt: Sequence[int], tokens: Sequence[int]) -> Ask[Next] | None:
        """How to ask what follows a prompt: tokens by name, or the most probable ones."""
        if self.named:
            return self.dialect.named(prompt, tokens)
        return self.dialect.top(prompt, self.top) if self.top else None

    def gap(self, prompt: Sequence[int], token: int) -> float | None:
        """Nats between a token and the best of the others; None if that cannot be asked."""
        if self.top > 1:
            shown = dict(self._answer(self.dialect.top(prompt, self.top)).logprobs)
            if (value := shown.pop(token, None)) is not None:
                return abs(value - max(shown.values()))
        if not self.named:
            return None
        best = self._answer(self.dialect.named(prompt, [token])).best
        if best == token:
            return None
        both = self._answer(self.dialect.named(prompt, [token, best])).logprobs
        return both[best] - both[token]

    def _answer(self, ask: Ask[Next] | None) -> Next:
        assert ask is not None, "seen to be offered"
        return self.asking.one(ask)


def _rounded_up(value: float) -> float:
    """One digit, and at least a tenth more than the value."""
    unit = 10.0 ** floor(log10(value * 1.1))
    return ceil(value * 1.1 / unit) * unit
