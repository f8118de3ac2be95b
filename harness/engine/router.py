"""Routes requests to distinct queries, and their answers back to responses."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from harness.core import (
    Generated,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Scored,
    Word,
)
from harness.engine.queries.encode import Encoded
from harness.engine.queries.query import Answer, Query, SpanScores
from harness.errors import NumericsError


class Router:
    """Maps each query to the requests it belongs to; a request leaves with its last answer."""

    def __init__(self, requests: Sequence[Request], encoded: Sequence[Encoded]) -> None:
        self._requests, self._encoded = requests, encoded
        self._owners: dict[Query, list[int]] = defaultdict(list)  # query -> indices of requests
        for i, e in enumerate(encoded):
            for query in e.queries:
                self._owners[query].append(i)
        self._missing = [len(e.queries) for e in encoded]
        self._answers: dict[Query, Answer] = {}

    @property
    def queries(self) -> list[Query]:
        """All distinct queries, in order."""
        return list(self._owners)

    def owner(self, query: Query) -> int:
        """The first request that a query belongs to."""
        return self._owners[query][0]

    def counts(self) -> dict[Query, int]:
        """Query -> how many requests it belongs to."""
        return {query: len(owners) for query, owners in self._owners.items()}

    def cost(self, answers: Mapping[Query, Answer]) -> int:
        """Tokens that separate requests would have fed for these answers."""
        return sum(answer.asked * len(self._owners[q]) for q, answer in answers.items())

    def without_queries(self) -> Iterator[tuple[int, Response]]:
        """Responses to requests that need no answer, such as empty texts."""
        for i, e in enumerate(self._encoded):
            if not e.queries:
                yield i, self._response(i)

    def take(self, answers: Mapping[Query, Answer]) -> Iterator[tuple[int, Response]]:
        """Responses to the requests that these answers complete.

        Raises:
            NumericsError: a log-probability is not finite.
        """
        self._answers.update(answers)
        for query in answers:
            for i in self._owners[query]:
                self._missing[i] -= 1
                if not self._missing[i]:
                    yield i, self._response(i)

    def _response(self, i: int) -> Response:
        encoded = self._encoded[i]
        values = [self._answers[query].value for query in encoded.queries]
        if values and isinstance(values[0], Word | Generated):
            return values[0]
        spans = [value for value in values if isinstance(value, SpanScores)]
        _check_finite(spans, i)
        logprobs = [float(x) for span in spans for x in span.logprobs]
        greedy = [bool(x) for span in spans for x in span.greedy]
        if not isinstance(self._requests[i], RollingLoglikelihood):
            return Scored(tuple(logprobs), tuple(greedy))
        pieces: list[Scored] = []
        done = 0
        for count in encoded.pieces:
            stop = done + count
            pieces.append(Scored(tuple(logprobs[done:stop]), tuple(greedy[done:stop])))
            done = stop
        return Rolled(tuple(pieces))


def _check_finite(spans: Sequence[SpanScores], request: int) -> None:
    for span in spans:
        bad = span.logprobs[~np.isfinite(span.logprobs)]
        if bad.size:
            raise NumericsError(f"a log-probability is {bad[0]}, expected a finite number", request)
