"""Texts that are answered in parts: only the windows that the tokens of some pieces lie in.

    pieces   |   0   |  1  |      2      |  3  |
    windows  |      0      |      1      |  2  |      piece 1 needs windows 0 and 1

Windows and tokens are those of the whole text. Every window is asked for once and kept.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from harness.core import Response, Rolled, RollingLoglikelihood, Scored

if TYPE_CHECKING:
    from harness.engine.queries.encode import Encoded

_NOTHING = Scored((), ())


class Text:
    """The log-probabilities of one text, window by window.

    Args:
        request: for the text.
        encoded: the request.

    Attributes:
        windows: each as a request of its own; the request itself if there is only one.
    """

    def __init__(self, request: RollingLoglikelihood, encoded: "Encoded") -> None:
        self.request = request
        self.windows = [encoded]
        if len(encoded.queries) > 1:
            self.windows = [
                replace(encoded, queries=(query,), pieces=(len(query.span.targets),))
                for query in encoded.queries
            ]
        self._encoded = encoded
        self._window_ends = list(accumulate(len(span.targets) for span in encoded.spans))
        self._piece_ends = list(accumulate(encoded.pieces))
        self._responses: dict[int, Rolled] = {}  # by window

    def missing(self, pieces: range) -> list[int]:
        """The windows that these pieces need and that have no response yet."""
        wanted = range(1)
        if len(self.windows) > 1:
            start, stop = self._tokens(pieces)
            last = bisect_left(self._window_ends, stop)
            wanted = range(bisect_right(self._window_ends, start), last + 1 if start < stop else 0)
        return [window for window in wanted if window not in self._responses]

    def take(self, window: int, response: Response) -> None:
        """Keep the response to a window."""
        assert isinstance(response, Rolled), f"expected Rolled, got {type(response).__name__}"
        self._responses[window] = response

    def response(self, pieces: Collection[int]) -> Rolled:
        """The response to these pieces, whose windows are known; the other pieces are empty."""
        if len(self.windows) == 1:
            chosen = set(pieces)
            found = self._responses[0].pieces
            return Rolled(tuple(p if k in chosen else _NOTHING for k, p in enumerate(found)))
        parts = [_NOTHING] * len(self._piece_ends)
        for k in pieces:
            parts[k] = self._piece(k)
        return Rolled(tuple(parts))

    def encoded(self, pieces: Iterable[int]) -> "Encoded":
        """The request with the scored tokens of these pieces as its only query."""
        if not self._encoded.queries:
            return self._encoded
        tokens = tuple(token for span in self._encoded.spans for token in span.targets)
        bounds = [self._tokens(range(k, k + 1)) for k in pieces]
        scored = tuple(token for start, stop in bounds for token in tokens[start:stop])
        query = self._encoded.spans[0]._replace(inputs=(), targets=scored)
        return replace(self._encoded, queries=(query,))

    def _tokens(self, pieces: range) -> tuple[int, int]:
        """The scored tokens of neighbouring pieces, from and to."""
        start = self._piece_ends[pieces.start - 1] if pieces.start else 0
        return start, self._piece_ends[pieces.stop - 1]

    def _piece(self, piece: int) -> Scored:
        """The tokens of one piece, from its windows."""
        start, stop = self._tokens(range(piece, piece + 1))
        logprobs: list[float] = []
        greedy: list[bool] = []
        window = bisect_right(self._window_ends, start)
        while start < stop:
            [scored] = self._responses[window].pieces
            end = self._window_ends[window]
            within = slice(start - end + scored.num_tokens, stop - end + scored.num_tokens)
            logprobs += scored.logprobs[within]
            greedy += scored.greedy[within]
            start, window = end, window + 1
        return Scored(tuple(logprobs), tuple(greedy))
