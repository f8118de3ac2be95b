"""Who asked what: requests -> distinct questions, and answers -> responses."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.core import (
    Generated,
    Loglikelihood,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Scored,
    Word,
)
from harness.engine.queries.encode import Encoded
from harness.engine.queries.query import Answer, Query, SpanScores, queries
from harness.errors import NumericsError


class Router:
    """Hands answers out to requests, each of which leaves when it has all."""

    def __init__(self, requests: Sequence[Request], encoded: Sequence[Encoded]) -> None:
        self._requests, self._encoded = requests, encoded
        self._asked = [queries(r, e) for r, e in zip(requests, encoded, strict=True)]
        self._owners: dict[Query, list[int]] = defaultdict(list)
        for i, mine in enumerate(self._asked):
            for question in mine:
                self._owners[question].append(i)
        self._missing = [len(mine) for mine in self._asked]
        self._held: dict[Query, Answer] = {}

    @property
    def queries(self) -> list[Query]:
        """All distinct questions, in order."""
        return list(self._owners)

    def owner(self, question: Query) -> int:
        """The first request that asked a question."""
        return self._owners[question][0]

    def count(self, question: Query) -> int:
        """How many requests asked a question."""
        return len(self._owners[question])

    def cost(self, answers: Mapping[Query, Answer]) -> int:
        """Tokens that separate requests would have fed for these answers."""
        return sum(answer.asked * len(self._owners[q]) for q, answer in answers.items())

    def without_questions(self) -> Iterator[tuple[int, Response]]:
        """Responses to requests that have nothing to ask, such as empty texts."""
        for i, mine in enumerate(self._asked):
            if not mine:
                yield i, self._response(i)

    def take(self, answers: Mapping[Query, Answer]) -> Iterator[tuple[int, Response]]:
        """Responses to the requests that are complete with these answers.

        Raises:
            NumericsError: a log-probability is not finite.
        """
        self._held.update(answers)
        for question in answers:
            for i in self._owners[question]:
                self._missing[i] -= 1
                if not self._missing[i]:
                    yield i, self._response(i)

    def _response(self, i: int) -> Response:
        values = [self._held[question].value for question in self._asked[i]]
        if values and isinstance(values[0], Word | Generated):
            return values[0]
        parts = [value for value in values if isinstance(value, SpanScores)]
        _check_finite(parts, i)
        return _response(self._requests[i], self._encoded[i], parts)


def _check_finite(parts: Sequence[SpanScores], request: int) -> None:
    for part in parts:
        bad = part.logprobs[~np.isfinite(part.logprobs)]
        if bad.size:
            raise NumericsError(f"a log-probability is {bad[0]}, expected a finite number", request)


def _response(request: Request, encoded: Encoded, parts: Sequence[SpanScores]) -> Response:
    """Scores of a request's spans, in order -> its response."""
    logprobs = [float(x) for part in parts for x in part.logprobs]
    greedy = [bool(x) for part in parts for x in part.greedy]
    if isinstance(request, RollingLoglikelihood):
        pieces: list[Scored] = []
        done = 0
        for count in encoded.pieces:
            stop = done + count
            pieces.append(Scored(tuple(logprobs[done:stop]), tuple(greedy[done:stop])))
            done = stop
        return Rolled(tuple(pieces))
    assert isinstance(request, Loglikelihood), f"no score for {type(request).__name__}"
    return Scored(tuple(logprobs), tuple(greedy))
