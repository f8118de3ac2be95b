"""The sentinel: a text with known log-probabilities, asked again and again during a run.

A server may be started again with another model, or lose its way under load. The answers of a
stretch of calls are used only if the sentinel, asked after them, still has the values of the
self-test.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.engine.endpoint.call import Ask
from harness.engine.endpoint.dialects.dialect import Abilities, Dialect, Next, Prompted
from harness.errors import EndpointError


@dataclass(frozen=True, slots=True)
class Sentinel:
    """A text, and what the self-test read of it."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]  # of its last tokens, in nats; at least of the last one
    max_spread: float  # nats between two readings

    def ask(self, dialect: Dialect, abilities: Abilities, *, named: bool) -> Ask[None] | None:
        """Read the text again; None if the server shows no log-probability of it.

        Args:
            dialect: of the server.
            abilities: of the server.
            named: whether tokens may be asked by id. A vLLM answers plain `logprobs` wrongly in a
                step that it shares with such a call.

        `read` raises an EndpointError if a value has moved.
        """
        prompt, last = self.tokens[:-1], self.tokens[-1]
        if abilities.prompt_logprobs:
            first = len(self.tokens) - len(self.logprobs)
            if prompted := dialect.prompted(self.tokens, first):
                return Ask(prompted.call, lambda reply: self._check_prompt(prompted.read(reply)))
        if named and abilities.named and (by_id := dialect.named(prompt, [last])):
            return Ask(by_id.call, lambda reply: self._check_next(by_id.read(reply)))
        if abilities.top and (top := dialect.top(prompt, abilities.top)):
            return Ask(top.call, lambda reply: self._check_next(top.read(reply)))
        return None

    def _check_prompt(self, value: Prompted) -> None:
        self._check([float(x) for x in value.logprobs])

    def _check_next(self, value: Next) -> None:
        shown = value.logprobs.get(self.tokens[-1])
        if shown is None:  # it is less probable than all that are shown
            shown = min(self.logprobs[-1], *value.logprobs.values())
        self._check([shown])

    def _check(self, values: Sequence[float]) -> None:
        known = self.logprobs[len(self.logprobs) - len(values) :]
        spread = max(abs(a - b) for a, b in zip(values, known, strict=True))
        if not spread <= self.max_spread:
            raise EndpointError(
                "the server changed during the run: a log-probability of the self-test moved by "
                f"{spread:.2g} nats, expected at most {self.max_spread:g}; nothing since the last "
                "check is kept; run again, or allow this much by --max-spread"
            )
