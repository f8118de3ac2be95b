"""The canaries of one run: fed example by example, asked for warnings at the end.

They keep counters, sums and extremes, but no response.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from harness.canaries.answers import Answers
from harness.canaries.choices import Choices, choices
from harness.canaries.likelihoods import Constant, IgnoredInput, Loss
from harness.core import (
    Example,
    Generated,
    Loglikelihood,
    Rolled,
    Score,
    Scored,
    Tokens,
    Word,
)
from harness.errors import CanaryError
from harness.records.dump import Exchange

LOSSY = "lossy tokenizer"
MIN_CHECKED = 100  # positions
MAX_TIED = 0.01  # share of them


class Canaries:
    """Watches the responses of a run.

    Args:
        vocabulary: number of tokens that the model gives a probability.
    """

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._constant, self._ignored, self._loss = Constant(), IgnoredInput(), Loss()
        self._choices, self._answers = Choices(), Answers()

    def add(self, example: Example, exchanges: Sequence[Exchange]) -> None:
        """Take the responses of one complete example."""
        scored: dict[Loglikelihood, Scored] = {}
        texts: list[str] = []
        for exchange in exchanges:
            request, response = exchange.request, exchange.response
            if isinstance(response, Word | Generated):
                texts.append(response.text)
                continue
            self._likelihoods(exchange, response)
            if isinstance(request, Loglikelihood) and isinstance(response, Scored):
                scored[request] = response
            else:
                self._loss.add(response)
        found, others = choices(scored, example.references)
        for options in found:
            self._choices.add(options)
        for response in others:
            self._loss.add(response)
        self._answers.add(texts, example.references)

    def _likelihoods(self, exchange: Exchange, response: Scored | Rolled) -> None:
        pieces = response.pieces if isinstance(response, Rolled) else (response,)
        if not self._constant.refuted:
            logprobs = chain.from_iterable(piece.logprobs for piece in pieces)
            self._constant.add(exchange.request, logprobs)
        if not self._ignored.refuted:
            logprobs = chain.from_iterable(piece.logprobs for piece in pieces)
            targets = chain.from_iterable(span.targets for span in exchange.encoded.spans)
            self._ignored.add(targets, logprobs)

    def warnings(
        self,
        scores: Sequence[Score],
        tokens: Tokens,
        preflight: Mapping[str, int],
        requests: int,
    ) -> tuple[str, ...]:
        """One sentence for each canary that has seen something.

        Args:
            scores: of the run.
            tokens: the run's cost, with the ties among the tokens computed.
            preflight: counts of unusual requests.
            requests: number of requests.
        """
        found = [
            *self._of_likelihoods(scores),
            self._answers.warning(),
            "" if self._constant.seen else greedy_ties(tokens),
            lost_text(preflight, requests),
        ]
        return tuple(warning for warning in found if warning)

    def _of_likelihoods(self, scores: Sequence[Score]) -> Iterator[str]:
        if self._vocabulary <= 1:
            return
        if self._constant.seen:  # all others follow from it
            yield self._constant.warning()
            return
        yield self._ignored.warning()
        yield self._loss.warning(self._vocabulary)
        yield from self._choices.warnings(scores, self._vocabulary)


def refuse(warnings: Sequence[str], task: str) -> None:
    """Apply --strict: raise a CanaryError if there is any warning."""
    if warnings:
        raise CanaryError(f"{task}: {'; '.join(warnings)}; refused by --strict")


def greedy_ties(tokens: Tokens) -> str:
    """Whether too many of the tokens computed have no single most probable token; empty if not."""
    if tokens.checked < MIN_CHECKED or tokens.tied <= MAX_TIED * tokens.checked:
        return ""
    return (
        f"greedy ties: at {tokens.tied:,} of {tokens.checked:,} positions checked "
        f"({tokens.tied / tokens.checked:.1%}, of the tokens computed) several tokens share the "
        f"highest logit, so that the lowest id counts as most probable; expected at most "
        f"{MAX_TIED:.0%}; use --dtype float32"
    )


def lost_text(preflight: Mapping[str, int], requests: int) -> str:
    """What the tokenizer loses of the requests; empty if it loses nothing."""
    if not preflight.get("lossy"):
        return ""
    share = preflight["lost_characters"] / preflight["characters"]
    unknown = f"; {preflight['unknown']:,} with unknown tokens" if preflight["unknown"] else ""
    return (
        f"{LOSSY}: it loses text of {preflight['lossy']:,} of {requests:,} requests "
        f"({share:.2%} of all characters{unknown}), which the model never reads; expected a "
        "tokenizer that covers the benchmark's text"
    )
