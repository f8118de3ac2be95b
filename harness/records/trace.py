"""What a model read and said of an item, token by token: for a person at a terminal or a page.

Values alone; `rerun` makes them of a record, `harness.display.preview` shows
them. Before a run there are tokens and no answers.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, NamedTuple, Protocol

from harness.core import (
    Example,
    Generate,
    Generated,
    NextWord,
    Request,
    Response,
    Rolled,
    Scored,
    Word,
)
from harness.metrics.hf_evaluate import ModuleMetric
from harness.task import Measure


class TokenTrace(NamedTuple):
    """One token that the model read or wrote."""

    text: str  # by itself, a leading space kept
    scored: bool  # whether its probability counts
    logprob: float | None = None  # nats; None where it was not asked for
    rank: int | None = None  # among the vocabulary, 1 is the argmax; None where it is not known
    window: int = 0  # of a long text: in which window it was scored, from 0


class RequestTrace(NamedTuple):
    """One request with its response."""

    kind: str  # loglikelihood, rolling, generate or next_word
    tokens: tuple[TokenTrace, ...]  # as fed; written ones behind them
    output: str | None = None  # the text that was written, or the word that was found
    logprob: float | None = None  # nats, of what counts; None where nothing was scored
    facts: tuple[str, ...] = ()  # lengths, and what is unusual
    how: str = ""  # parameters of a search for a word
    wanted: str = ""  # what was asked to follow the last token, where no target is given
    note: str = ""  # how the output ended, or what was passed over before it


class OutcomeTrace(NamedTuple):
    """What an item came to under one measure, summed over its parts."""

    measure: str
    statistics: tuple[str, ...]  # names
    sums: tuple[float, ...]  # one a statistic
    parts: int
    value: float | None  # the measure's score if this item were all; None where there is no such
    unit: str


class ItemTrace(NamedTuple):
    """One item from its prompt to its outcomes."""

    id: str
    references: tuple[str, ...]
    outcomes: tuple[OutcomeTrace, ...]
    requests: tuple[RequestTrace, ...]


Strings = Callable[[Sequence[int]], list[str]]
"""Token ids -> the text of each by itself."""

Ranks = Sequence[Sequence[int | None]]
"""A sequence for each span of a request; for `Generate`, one for the written tokens."""


class EncodedRequest(Protocol):
    """What the engine's encoder makes of a request."""

    @property
    def spans(self) -> Sequence[Any]: ...  # noqa: D102
    @property
    def truncated(self) -> bool: ...  # noqa: D102
    @property
    def crossing(self) -> bool: ...  # noqa: D102


def trace(
    request: Request,
    encoded: EncodedRequest,
    strings: Strings,
    response: Response | None = None,
    ranks: Ranks = (),
) -> RequestTrace:
    """A request as tokens, with the response if there is one.

    Without ranks a token that greedy decoding would choose has rank 1, the others None.
    """
    found = RequestTrace(
        request.kind,
        tuple(_spans(encoded, strings, response, ranks)),
        facts=_facts(encoded),
        how=_how(request),
        wanted=_wanted(request),
    )
    match response:
        case Scored() | Rolled():
            return found._replace(logprob=response.logprob)
        case Word(text, skipped):
            note = f"passed over: {', '.join(map(repr, skipped))}" if skipped else ""
            return found._replace(output=text, note=note)
        case Generated():
            greedy = isinstance(request, Generate) and request.top_k == 1
            tokens = (*found.tokens, *_written(response, strings, ranks, greedy))
            ended = {"stop": "a stop string", "end": "the end token", "length": "the limit"}
            note = f"ended by {ended[response.ended]}"
            return found._replace(
                tokens=tokens, output=response.text, logprob=response.logprob, note=note
            )
    return found


def _spans(
    encoded: EncodedRequest, strings: Strings, response: Response | None, ranks: Ranks
) -> Iterator[TokenTrace]:
    """Tokens of all spans; what a window repeats of the text before it is left out."""
    scores = _scores(response)
    seen: list[int] = []
    for window, span in enumerate(encoded.spans):
        context = _news(seen, context_of(span))
        yield from (TokenTrace(text, False, window=window) for text in strings(context))
        known = iter(ranks[window]) if window < len(ranks) else repeat(None)
        for text, (logprob, greedy), rank in zip(
            strings(span.targets), scores, known, strict=False
        ):
            place = rank or (1 if greedy else None)
            yield TokenTrace(text, True, logprob, place, window)
        seen += [*context, *span.targets]


def _scores(response: Response | None) -> Iterator[tuple[float | None, bool]]:
    """(log-probability, whether it is the argmax) of each scored token, without end if unknown."""
    match response:
        case Scored():
            return zip(response.logprobs, response.greedy, strict=True)
        case Rolled():
            pieces = (zip(p.logprobs, p.greedy, strict=True) for p in response.pieces)
            return chain.from_iterable(pieces)
    return repeat((None, False))


def context_of(span: Any) -> Sequence[int]:
    """What is fed before the first scored token of a span."""
    found: Sequence[int] = span.inputs[: len(span.inputs) - max(len(span.targets) - 1, 0)]
    return found


def _news(seen: Sequence[int], context: Sequence[int]) -> Sequence[int]:
    """A window's context without its longest beginning that the text so far ends with."""
    for size in range(len(context), 0, -1):
        if seen[-size:] == list(context[:size]):
            return context[size:]
    return context


def _written(
    response: Generated, strings: Strings, ranks: Ranks, greedy: bool
) -> Iterator[TokenTrace]:
    known = iter(ranks[0]) if ranks else repeat(1 if greedy else None)
    tokens = zip(strings(response.tokens), response.logprobs, strict=True)
    for i, ((text, logprob), rank) in enumerate(zip(tokens, known, strict=False)):
        yield TokenTrace(text, i < response.num_tokens, logprob, rank)


def _facts(encoded: EncodedRequest) -> tuple[str, ...]:
    fed = sum(len(span.inputs) for span in encoded.spans)
    scored = sum(len(span.targets) for span in encoded.spans)
    facts = [f"{fed} tokens fed", f"{scored} scored"]
    if len(encoded.spans) > 1:
        facts.append(f"{len(encoded.spans)} windows")
    facts += ["cut to fit the context"] * encoded.truncated
    facts += ["a token crosses the boundary: encoded apart"] * encoded.crossing
    return tuple(facts)


def _wanted(request: Request) -> str:
    """What is wanted after the last token, where no target is given."""
    match request:
        case Generate():
            how = "greedy" if request.top_k == 1 else f"top-{request.top_k} sampling"
            stop = f", until {' or '.join(map(repr, request.stop))}" if request.stop else ""
            return f"<up to {request.max_new_tokens} new tokens, {how}{stop}>"
        case NextWord():
            return "<best words follow>"
    return ""


def _how(request: Request) -> str:
    if not isinstance(request, NextWord):
        return ""
    among = "" if request.among is None else f", among {len(request.among)} words"
    return f"{len(request.skip)} stop words, filter {request.rule}{among}"


def outcome_of(
    measure: Measure, example: Example, responses: Sequence[Response]
) -> OutcomeTrace | None:
    """What an example comes to under a measure, summed; None where it says nothing of it.

    Outcomes that are texts have no sums.
    """
    parts = measure.extract(example, responses)
    if not parts:
        return None
    if isinstance(measure.metric, ModuleMetric):
        return OutcomeTrace(measure.name, (), (), len(parts), None, measure.metric.unit)
    sums = tuple(float(sum(column)) for column in zip(*parts, strict=True))
    try:
        value: float | None = float(measure.metric.compute(sums))
    except (ArithmeticError, ValueError):  # no words to divide by, say: no failure of the item
        value = None
    return OutcomeTrace(
        measure.name, measure.statistics, sums, len(parts), value, measure.metric.unit
    )
