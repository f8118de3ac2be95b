"""Extractors that several tasks share: responses of one example -> outcomes.

Functions named `..._steps` give the steps of the extractor before them, for `Measure.steps`.
"""

import string
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.core import Example, Generated, Response, Rolled, Scored, Word
from harness.metrics import Outcome

Extract = Callable[[Example, Sequence[Response]], Sequence[Outcome]]
Steps = Callable[[Example, Sequence[Response]], Iterator[tuple[str, Any]]]
Norms = Callable[[Example], Sequence[float]]


def scored(response: Response) -> Scored:
    """The response to a `Loglikelihood`, with its type."""
    assert isinstance(response, Scored), f"expected Scored, got {type(response).__name__}"
    return response


def generated(response: Response) -> Generated:
    """The response to a `Generate`, with its type."""
    assert isinstance(response, Generated), f"expected Generated, got {type(response).__name__}"
    return response


def texts(example: Example, responses: Sequence[Response]) -> list[tuple[str, tuple[str, ...]]]:
    """(stripped new text, references) of each response: what a module of `evaluate` compares."""
    return [(generated(response).text.strip(), example.references) for response in responses]


# --- one continuation -------------------------------------------------------------------


def target_nats(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(surprisal of the first request's continuation in nats, 1)."""
    return [(-scored(responses[0]).logprob, 1.0)]


def last_token_nats(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(surprisal of the continuation's last token, 1)."""
    return [(-scored(responses[0]).logprobs[-1], 1.0)]


def token_nats(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(surprisal of the continuation, its number of tokens)."""
    response = scored(responses[0])
    return [(-response.logprob, float(response.num_tokens))]


def nats_steps(example: Example, responses: Sequence[Response]) -> Iterator[tuple[str, Any]]:
    """The log-probabilities behind `target_nats`, `last_token_nats` and `token_nats`."""
    yield "log-probability of each token", scored(responses[0]).logprobs
    yield "log-probability of the continuation", scored(responses[0]).logprob


def all_greedy(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(1 if every token of the continuation is the argmax, 1)."""
    return [(float(scored(responses[0]).is_greedy), 1.0)]


def last_greedy(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(1 if the last token of the continuation is the argmax, 1)."""
    return [(float(scored(responses[0]).greedy[-1]), 1.0)]


def greedy_steps(example: Example, responses: Sequence[Response]) -> Iterator[tuple[str, Any]]:
    """The tokens behind `all_greedy` and `last_greedy`."""
    yield "whether each token is the argmax", scored(responses[0]).greedy


# --- one word ---------------------------------------------------------------------------


def strip_punctuation(word: str) -> str:
    """`word` without punctuation and white space at either end: `' "Nadia,'` gives `Nadia`."""
    outer = "".join({c for c in word if unicodedata.category(c)[0] in "PZ"})
    return word.strip(outer + string.punctuation + string.whitespace)


def _compared(word: str, ignore_case: bool) -> str:
    stripped = strip_punctuation(word)
    return stripped.lower() if ignore_case else stripped


def same_word(*, ignore_case: bool) -> Extract:
    """(1 if the last response, a `Word`, equals the reference except for outer punctuation, 1)."""

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        word = responses[-1]
        assert isinstance(word, Word), f"expected Word, got {type(word).__name__}"
        text, reference = (_compared(w, ignore_case) for w in (word.text, example.references[0]))
        return [(float(text == reference != ""), 1.0)]

    return extract


def same_word_steps(*, ignore_case: bool) -> Steps:
    """The words that `same_word` compares."""

    def steps(example: Example, responses: Sequence[Response]) -> Iterator[tuple[str, Any]]:
        word = responses[-1]
        assert isinstance(word, Word), f"expected Word, got {type(word).__name__}"
        yield "words passed over", word.skipped
        yield "best word", word.text
        yield "best word as compared", _compared(word.text, ignore_case)
        yield "reference as compared", _compared(example.references[0], ignore_case)

    return steps


# --- several choices --------------------------------------------------------------------


def _choice_values(
    example: Example, responses: Sequence[Response], norms: Norms | None
) -> list[float]:
    scores = [scored(response) for response in responses]
    divisors = norms(example) if norms else [1.0] * len(scores)
    return [s.logprob / (d or s.num_tokens) for s, d in zip(scores, divisors, strict=True)]


def _best_choice(example: Example, values: Sequence[float]) -> str:
    choice: str = example.fields["choices"][values.index(max(values))]
    return choice


def best_choice(norms: Norms | None = None) -> Extract:
    """(1 if the most probable choice is the right one, 1).

    Expects one `Scored` per choice, in the order of `example.fields["choices"]`. The right choice
    is the first reference. `norms` gives a divisor for each log-probability; 0 stands for the
    number of tokens. The first of equal choices wins.
    """

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        best = _best_choice(example, _choice_values(example, responses, norms))
        return [(float(best == example.references[0]), 1.0)]

    return extract


def best_choice_steps(norms: Norms | None = None) -> Steps:
    """The values that `best_choice` compares."""

    def steps(example: Example, responses: Sequence[Response]) -> Iterator[tuple[str, Any]]:
        values = _choice_values(example, responses, norms)
        yield from _value_steps(example, responses, norms)
        yield "most probable choice", _best_choice(example, values)
        yield "right choice", example.references[0]

    return steps


def _value_steps(
    example: Example, responses: Sequence[Response], norms: Norms | None
) -> Iterator[tuple[str, Any]]:
    values = _choice_values(example, responses, norms)
    for choice, value in zip(example.fields["choices"], values, strict=True):
        yield f"log-probability of {choice!r}{', normalised' if norms else ''}", value


def right_choice_nats(example: Example, responses: Sequence[Response]) -> list[Outcome]:
    """(surprisal of the right choice in nats, 1); expects what `best_choice` expects."""
    right = example.fields["choices"].index(example.references[0])
    return target_nats(example, responses[right:])


def right_choice_nats_steps(
    example: Example, responses: Sequence[Response]
) -> Iterator[tuple[str, Any]]:
    """The choice behind `right_choice_nats`."""
    yield from _value_steps(example, responses, None)
    yield "right choice", example.references[0]


def choice_margin(norms: Norms | None = None) -> Extract:
    """(log-probability of the right choice minus that of the most probable wrong one, 1).

    Expects what `best_choice` expects, and a wrong choice. Positive if the right choice wins.
    """

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        values = _choice_values(example, responses, norms)
        right, wrong = _right_and_best_wrong(example, values)
        return [(values[right] - values[wrong], 1.0)]

    return extract


def choice_margin_steps(norms: Norms | None = None) -> Steps:
    """The values that `choice_margin` subtracts."""

    def steps(example: Example, responses: Sequence[Response]) -> Iterator[tuple[str, Any]]:
        yield from _value_steps(example, responses, norms)
        values, choices = _choice_values(example, responses, norms), example.fields["choices"]
        right, wrong = _right_and_best_wrong(example, values)
        yield "most probable wrong choice", choices[wrong]
        yield "right choice", choices[right]

    return steps


def _right_and_best_wrong(example: Example, values: Sequence[float]) -> tuple[int, int]:
    """Places of the right choice and of the most probable one with another text."""
    choices, answer = example.fields["choices"], example.references[0]
    wrong = [place for place, choice in enumerate(choices) if choice != answer]
    return choices.index(answer), max(wrong, key=values.__getitem__)


# --- a long text ------------------------------------------------------------------------


def piece_nats(unit: str) -> Extract:
    """(nats, units) of every piece of a text, with units from `example.fields[unit]`.

    `unit="tokens"` counts the scored tokens instead.
    """

    def extract(example: Example, responses: Sequence[Response]) -> list[Outcome]:
        rolled = responses[0]
        assert isinstance(rolled, Rolled), f"expected Rolled, got {type(rolled).__name__}"
        if unit == "tokens":
            return [(-piece.logprob, float(piece.num_tokens)) for piece in rolled.pieces]
        counts = example.fields[unit]
        return [(-p.logprob, float(n)) for p, n in zip(rolled.pieces, counts, strict=True)]

    return extract
