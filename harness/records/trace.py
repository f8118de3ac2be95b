"""What the model read and answered for one example, token by token.

Plain values: `commands.inspect.rerun` makes them from a record; `display.preview` and the report
page show them. Before a run (`harness show`) there are tokens but no responses.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, NamedTuple

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

if TYPE_CHECKING:
    from harness.engine.queries.encode import Encoded
    from harness.engine.queries.query import Span

ENDINGS = {"stop": "a stop string", "end": "the end token", "length": "the token limit"}


class TokenTrace(NamedTuple):
    """One token that the model read or generated."""

    text: str  # decoded alone, with its leading space
    scored: bool  # whether its probability counts
    logprob: float | None = None  # nats; None if it was not requested
    rank: int | None = None  # in the vocabulary, 1 is the argmax; None if unknown
    window: int = 0  # of a long text: the window that scored it, from 0


class RequestTrace(NamedTuple):
    """One request with its response."""

    kind: str  # loglikelihood, rolling, generate or next_word
    tokens: tuple[TokenTrace, ...]  # those fed, then those generated
    output: str | None = None  # the generated text, or the best word
    logprob: float | None = None  # nats, of the scored tokens; None if there are none
    facts: tuple[str, ...] = ()  # lengths, and what is unusual
    parameters: str = ""  # of the search for a word
    continuation: str = ""  # describes what follows the last token if that is not given
    note: str = ""  # why the output ended, or which words were skipped


class OutcomeTrace(NamedTuple):
    """An example's outcome under one measure, summed over its parts."""

    measure: str
    statistics: tuple[str, ...]  # names
    sums: tuple[float, ...]  # one per statistic
    parts: int
    value: float | None  # the score of this example alone; None if it is undefined
    unit: str


class ItemTrace(NamedTuple):
    """One example from its prompt to its outcomes."""

    id: str
    references: tuple[str, ...]
    outcomes: tuple[OutcomeTrace, ...]
    requests: tuple[RequestTrace, ...]


Strings = Callable[[Sequence[int]], list[str]]
"""Token ids -> the text of each token alone."""

Ranks = Sequence[Sequence[int | None]]
"""One sequence per span of a request; for `Generate`, one for the generated tokens."""


def trace(
    request: Request,
    encoded: "Encoded",
    strings: Strings,
    response: Response | None = None,
    ranks: Ranks = (),
) -> RequestTrace:
    """A request as tokens, with its response if there is one.

    Without ranks, a token that greedy decoding would choose has rank 1, the others None.
    """
    made = RequestTrace(
        request.kind,
        tuple(_fed(encoded, strings, response, ranks)),
        facts=_facts(encoded),
    )
    match request:
        case Generate():
            made = made._replace(continuation=_decoding(request))
        case NextWord():
            made = made._replace(parameters=_search(request), continuation="<best words follow>")
    match response:
        case Scored() | Rolled():
            return made._replace(logprob=response.logprob)
        case Word(text, skipped):
            note = f"skipped: {', '.join(map(repr, skipped))}" if skipped else ""
            return made._replace(output=text, note=note)
        case Generated():
            greedy = isinstance(request, Generate) and request.top_k == 1
            return made._replace(
                tokens=(*made.tokens, *_generated(response, strings, ranks, greedy)),
                output=response.text,
                logprob=response.logprob,
                note=f"ended by {ENDINGS[response.ended]}",
            )
    return made


def _fed(
    encoded: "Encoded", strings: Strings, response: Response | None, ranks: Ranks
) -> Iterator[TokenTrace]:
    """Tokens of all spans, without what a window repeats of the text before it."""
    scores = _scores(response)
    seen: list[int] = []
    for window, span in enumerate(encoded.spans):
        context = _without_repeat(context_of(span), seen)
        for text in strings(context):
            yield TokenTrace(text, False, window=window)
        window_ranks = iter(ranks[window]) if window < len(ranks) else repeat(None)
        targets = zip(strings(span.targets), scores, window_ranks, strict=False)
        for text, (logprob, greedy), rank in targets:
            yield TokenTrace(text, True, logprob, rank or (1 if greedy else None), window)
        seen += [*context, *span.targets]


def _scores(response: Response | None) -> Iterator[tuple[float | None, bool]]:
    """(log-probability, is argmax) of each scored token; endless Nones if there are no scores."""
    match response:
        case Scored():
            return zip(response.logprobs, response.greedy, strict=True)
        case Rolled():
            pieces = (zip(p.logprobs, p.greedy, strict=True) for p in response.pieces)
            return chain.from_iterable(pieces)
    return repeat((None, False))


def context_of(span: "Span") -> Sequence[int]:
    """The token ids that are fed before the first scored token of a span."""
    return span.inputs[: len(span.inputs) - max(len(span.targets) - 1, 0)]


def _without_repeat(context: Sequence[int], seen: Sequence[int]) -> Sequence[int]:
    """A window's context without the longest prefix that is a suffix of `seen`."""
    for size in range(len(context), 0, -1):
        if seen[-size:] == list(context[:size]):
            return context[size:]
    return context


def _generated(
    response: Generated, strings: Strings, ranks: Ranks, greedy: bool
) -> Iterator[TokenTrace]:
    token_ranks = iter(ranks[0]) if ranks else repeat(1 if greedy else None)
    tokens = zip(strings(response.tokens), response.logprobs, strict=True)
    for i, ((text, logprob), rank) in enumerate(zip(tokens, token_ranks, strict=False)):
        yield TokenTrace(text, i < response.num_tokens, logprob, rank)


def _facts(encoded: "Encoded") -> tuple[str, ...]:
    fed = sum(len(span.inputs) for span in encoded.spans)
    scored = sum(len(span.targets) for span in encoded.spans)
    facts = [f"{fed} tokens fed", f"{scored} scored"]
    if len(encoded.spans) > 1:
        facts.append(f"{len(encoded.spans)} windows")
    if encoded.truncated:
        facts.append("cut to fit the context")
    if encoded.crossing:
        facts.append("a token crosses the boundary: context and continuation encoded separately")
    return tuple(facts)


def _decoding(request: Generate) -> str:
    decoding = "greedy" if request.top_k == 1 else f"top-{request.top_k} sampling"
    stop = f", until {' or '.join(map(repr, request.stop))}" if request.stop else ""
    return f"<up to {request.max_new_tokens} new tokens, {decoding}{stop}>"


def _search(request: NextWord) -> str:
    among = "" if request.among is None else f", among {len(request.among)} words"
    return f"{len(request.skip)} stop words, filter {request.rule}{among}"


def outcome_of(
    measure: Measure, example: Example, responses: Sequence[Response]
) -> OutcomeTrace | None:
    """An example's outcome under a measure; None if the measure does not concern the example.

    Outcomes that are texts have no sums.
    """
    parts = measure.extract(example, responses)
    if not parts:
        return None
    unit = measure.metric.unit
    if isinstance(measure.metric, ModuleMetric):
        return OutcomeTrace(measure.name, (), (), len(parts), None, unit)
    sums = tuple(float(sum(column)) for column in zip(*parts, strict=True))
    try:
        value: float | None = float(measure.metric.compute(sums))
    except (ArithmeticError, ValueError):  # for example no words to divide by
        value = None
    return OutcomeTrace(measure.name, measure.statistics, sums, len(parts), value, unit)
