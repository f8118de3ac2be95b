"""Whether a further server has the same model: the short form of the self-test."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.engine.endpoint.call import Ask
from harness.engine.endpoint.dialects.dialect import Abilities, Dialect, Next
from harness.engine.endpoint.self_test.asking import Asking, Sender
from harness.engine.endpoint.self_test.findings import Known
from harness.errors import EndpointError, ResponseError


@dataclass(frozen=True, slots=True)
class Original:
    """What is known of the first server."""

    dialect: Dialect
    abilities: Abilities
    known: Sequence[Known]
    max_spread: float  # nats

    def check(self, sender: Sender, dialect: Dialect, url: str) -> float:
        """The nats by which a replica differs.

        Raises:
            EndpointError: it has another program, version or model, or accepts less.
        """
        for what in ("kind", "version", "model"):
            here, there = (getattr(d.server, what) for d in (self.dialect, dialect))
            if here != there:
                raise EndpointError(
                    f"replica {url}: its {what} is {there!r}, expected {here!r} as of the first "
                    "server; leave it out, or evaluate it on its own"
                )
        asking = Asking(sender)
        try:
            self._check_longest(asking, dialect, url)
            difference = self._difference(asking, dialect)
        except ResponseError as error:
            raise EndpointError(f"replica {url}: {error}; leave it out") from error
        if not difference <= self.max_spread:
            raise EndpointError(
                f"replica {url}: its log-probabilities differ by up to {difference:.2g} nats from "
                f"those of the first server, expected at most {self.max_spread:g}: it has another "
                "model, or computes otherwise; leave it out, or allow this much by --max-spread"
            )
        return difference

    def _check_longest(self, asking: Asking, dialect: Dialect, url: str) -> None:
        """Send the longest prompt that may occur: a token of the fixed prompts, repeated."""
        longest, token = self.abilities.longest, self.known[0].tokens[-1]
        tokens = (token,) * longest
        if self.abilities.prompt_logprobs:
            refusal = asking.refusal(dialect.prompted(tokens, longest - 1))
        else:
            refusal = asking.refusal(self._following(dialect, tokens, token))
        if refusal:
            raise EndpointError(
                f"replica {url}: it does not accept prompts of {longest:,} tokens ({refusal}), "
                "which the first server does; leave it out, or use a smaller --context"
            )

    def _difference(self, asking: Asking, dialect: Dialect) -> float:
        return max(
            abs(value - other)
            for one in self.known
            for value, other in zip(one.logprobs, self._again(asking, dialect, one), strict=True)
        )

    def _again(self, asking: Asking, dialect: Dialect, one: Known) -> Sequence[float]:
        """The same log-probabilities, from the other server."""
        first = len(one.tokens) - len(one.logprobs)
        if self.abilities.prompt_logprobs and (ask := dialect.prompted(one.tokens, first)):
            return [float(value) for value in asking.one(ask).logprobs]
        following = self._following(dialect, one.tokens[:-1], one.tokens[-1])
        assert following is not None, "seen to be offered"
        return [asking.one(following).logprobs.get(one.tokens[-1], float("-inf"))]

    def _following(self, dialect: Dialect, prompt: Sequence[int], token: int) -> Ask[Next] | None:
        if self.abilities.named:
            return dialect.named(prompt, [token])
        return dialect.top(prompt, self.abilities.top)
