"""Answers to generation queries: tokens that a server writes, ended by the rules of this program.

The server is told where to end, to save time. Where a text ends is then decided here, token by
token, as if the model had been in this process: some servers take few stop strings, cut before or
after them, or look for them in other places. A text that should have gone on is continued.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from harness.core import Tokens
from harness.engine.decoding.completion import Endings
from harness.engine.endpoint.answers.rounds import Rounds
from harness.engine.endpoint.call import Ask
from harness.engine.endpoint.dialects.dialect import Written
from harness.engine.endpoint.served_model import Question, ServedModel
from harness.engine.queries.prefix_tree import common_prefix
from harness.engine.queries.query import Answer, GenerationQuery, Query
from harness.errors import EndpointError, ResponseError

GROUP_SIZE = 32  # prompts
PIECE = 16  # tokens at a time from a server that does not look for the stop strings


def text_answers(
    served: ServedModel, endings: Endings, queries: Iterable[GenerationQuery]
) -> Iterator[dict[Query, Answer]]:
    """The answers of each stretch of calls; the cost goes to `served`.

    Args:
        served: asks the server.
        endings: decides where a text ends.
        queries: distinct queries.

    Raises:
        ResponseError: the server refused a call or answered it wrongly.
        EndpointError: it does not generate, is gone, or has changed.
    """
    writer = _Writer(served, endings)
    items = (_Text(writer, query, place) for query, place in _in_groups(queries))
    yield from Rounds(served, items).answers()


class _Place(NamedTuple):
    """Where a prompt stands among others that begin alike."""

    group: int
    first: bool  # it fills the server's prefix cache for the rest of its group


def _in_groups(queries: Iterable[GenerationQuery]) -> Iterator[tuple[GenerationQuery, _Place]]:
    """The queries, those with a common beginning one after the other.

    A group shares at least half of its prompts, such as the turns of a conversation. A few examples
    in front of all prompts do not make one group of everything, which only one replica would get.
    """
    group = size = 0
    before: tuple[int, ...] = ()
    for query in sorted(queries, key=lambda query: query.prompt):
        shares = 2 * common_prefix(before, query.prompt) >= len(query.prompt)
        first = not shares or size == GROUP_SIZE
        group, size = (group + 1, 1) if first else (group, size + 1)
        before = query.prompt
        yield query, _Place(group, first)


@dataclass(slots=True)
class _Writer:
    """What all texts are written with."""

    served: ServedModel
    endings: Endings
    overruns: bool = False  # the server was seen to write on after a stop string


class _Text:
    """The text of one query so far."""

    def __init__(self, writer: _Writer, query: GenerationQuery, place: _Place) -> None:
        self.query = query
        self._writer, self._place = writer, place
        self._tokens: tuple[int, ...] = ()
        self._logprobs: tuple[float, ...] = ()
        self._asked = query  # in the question in flight

    @property
    def seconds(self) -> float:
        """See `Item.seconds`; a step of decoding takes about as long as a short call."""
        abilities, asked = self._writer.served.abilities, self._next()
        steps = asked.max_new_tokens * abilities.seconds_per_call
        return steps + len(asked.prompt) * abilities.seconds_per_token

    def question(self) -> Question[Written]:
        """What comes after the prompt, or after what has been written."""
        served, ends = self._writer.served, self._writer.endings.ends
        self._asked = self._next()
        ask = served.dialect.written(self._asked, ends) if served.abilities.generates else None
        if ask is None:
            raise _unable(sample=served.abilities.generates and self.query.top_k > 1)
        opens = self._place.first and not self._tokens
        call = replace(ask.call, group=self._place.group)
        return Question(self.query, Ask(call, ask.read), opens)

    def _next(self) -> GenerationQuery:
        """What is to be written next.

        A greedy text is the same if it is written in pieces. A sample is not.
        """
        asked = self._asked
        left = self.query.max_new_tokens - len(self._tokens)
        if self._writer.overruns and self.query.stop and self.query.top_k == 1:
            left = min(left, PIECE)
        return asked._replace(prompt=(*self.query.prompt, *self._tokens), max_new_tokens=left)

    def take(self, value: Written) -> Answer | None:
        """Add what came; see `Item.take`."""
        asked, new = self._asked, len(value.tokens)
        computed = len(asked.prompt) - (value.cached or 0) + max(new - 1, 0)
        self._writer.served.tokens += Tokens(computed=computed, scored=new)
        self._tokens += value.tokens
        # As in the response cache, so that an answer from there is the same.
        self._logprobs += tuple(np.array(value.logprobs, np.float32).tolist())
        text = self._writer.endings.cut(self.query, self._tokens, self._logprobs)
        if text is not None:
            self._writer.overruns |= len(text.tokens) < len(self._tokens)
            return Answer(text, len(self.query.prompt) + len(text.tokens) - 1)
        if not new and not asked.stop:
            raise ResponseError("the server wrote no token, expected at least one")
        if new < asked.max_new_tokens:  # it stopped too early: it is told of no stop string
            self._asked = asked._replace(stop=())
        return None


def _unable(*, sample: bool) -> EndpointError:
    if sample:
        return EndpointError(
            "the server draws no sample that can be repeated; expected one that takes a seed, such "
            "as vLLM, llama.cpp, or SGLang started with --enable-deterministic-inference"
        )
    return EndpointError(
        "the server does not show the tokens that it generates, expected a completion endpoint "
        "that does, such as that of vLLM, SGLang or llama.cpp"
    )
