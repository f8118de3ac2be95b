"""Responses of one example -> outcomes: the statistics that a metric sums.

Written once here, used by many tasks. Each function says which responses it expects.
"""

import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness import moved
from harness.core import Example, Generated, Response, Rolled, Scored, Word
from harness.metrics import Outcome

Extract = Callable[[Example, Sequence[Response]], Sequence[Outcome]]


def scored(response: Response) -> Scored:
    """The response, known to be the answer to a `Loglikelihood`."""
    assert isinstance(response, Scored), f"expected Scored, got {type(response).__name__}"
    return response


def generated(response: Response) -> Generated:
    """The response, known to be the answer to a `Generate`."""
    assert isinstance(response, Generated), f"expected Generated, got {type(response).__name__}"
    return response


def texts(example: Example, responses: Sequence[Response]) -> list[tuple[str, tuple[str, ...]]]:
    """(new text without outer white space, references): what a module of `evaluate` compares."""
    return [(generated(response).text.strip(), example.references) for response in responses]


def target_nats(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(surprisal of the whole continuation of the first request in nats, 1)."""
    del example
    return [(-scored(responses[0]).logprob, 1.0)]


def last_token_nats(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(surprisal of the continuation's last token, 1)."""
    del example
    return [(-scored(responses[0]).logprobs[-1], 1.0)]


def token_nats(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(surprisal of the whole continuation, its number of tokens)."""
    del example
    answer = scored(responses[0])
    return [(-answer.logprob, float(answer.num_tokens))]


def all_greedy(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(1 if every token of the continuation was the argmax, 1)."""
    del example
    return [(float(scored(responses[0]).is_greedy), 1.0)]


def last_greedy(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(1 if the continuation's last token was the argmax, 1)."""
    del example
    return [(float(scored(responses[0]).greedy[-1]), 1.0)]


def strip_punctuation(word: str) -> str:
    """`word` without punctuation and white space at either end: `' "Nadia,'` gives `Nadia`."""
    outer = "".join({c for c in word if unicodedata.category(c)[0] in "PZ"})
    return word.strip(outer + string.punctuation + string.whitespace)


def same_word(*, ignore_case: bool) -> Extract:
    """(1 if the last response, a `Word`, is the example's reference; surrounding punctuation
    is ignored on both sides, 1).
    """  # noqa: D205

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        word = responses[-1]
        assert isinstance(word, Word), f"expected Word, got {type(word).__name__}"
        pair = [strip_punctuation(word.text), strip_punctuation(example.references[0])]
        if ignore_case:
            pair = [text.lower() for text in pair]
        return [(float(pair[0] == pair[1] != ""), 1.0)]

    return extract


def best_choice(norms: Callable[[Example], Sequence[float]] | None = None) -> Extract:
    """(1 if the most probable choice is the right one, 1).

    Expects a `Scored` a choice, in the order of `example.fields["choices"]`; the right one is
    the first reference. `norms` divides each log-probability (tokens are divided where it
    gives 0). Equal scores go to the first choice.
    """

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        answers = [scored(response) for response in responses]
        divisors = norms(example) if norms else [1.0] * len(answers)
        values = [a.logprob / (d or a.num_tokens) for a, d in zip(answers, divisors, strict=True)]
        best = values.index(max(values))
        return [(float(example.fields["choices"][best] == example.references[0]), 1.0)]

    return extract


def piece_nats(unit: str) -> Extract:
    """(nats, units) of every piece of a text; units come from `example.fields[unit]`.

    `unit="tokens"` counts the tokens that were scored instead.
    """

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        rolled = responses[0]
        assert isinstance(rolled, Rolled), f"expected Rolled, got {type(rolled).__name__}"
        if unit == "tokens":
            return [(-piece.logprob, float(piece.num_tokens)) for piece in rolled.pieces]
        counts = example.fields[unit]
        return [(-p.logprob, float(n)) for p, n in zip(rolled.pieces, counts, strict=True)]

    return extract


if not TYPE_CHECKING:  # old names
    __getattr__ = moved.attributes(__name__)
