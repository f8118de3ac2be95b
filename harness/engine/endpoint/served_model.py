"""Asks a server in stretches of calls, whose values are used only if its sentinel agrees.

    questions --> calls --transport--> values --sentinel--> one list of values per stretch

All stretches of a phase are one stream of calls, so that the server is never idle between them. The
sentinel is asked when the last value of a stretch has come, beside the calls of the next one: what
changes a server later is seen after the next stretch.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from harness.core import Tokens
from harness.engine.endpoint.call import Ask, Call
from harness.engine.endpoint.dialects.dialect import Abilities, Dialect
from harness.engine.endpoint.http.patience import Unanswered
from harness.engine.endpoint.sentinel import Sentinel
from harness.engine.queries.query import Query
from harness.errors import EndpointError, ResponseError

if TYPE_CHECKING:
    from harness.engine.endpoint.transport import Transport

S = TypeVar("S")
T = TypeVar("T")

# A run that is killed loses the stretches in flight, and a sentinel costs about one call.
STRETCH_CALLS, STRETCH_SECONDS = 64, 5.0

# Statuses of HTTP that refuse what was sent, or that it causes while other calls are answered.
_ABOUT_ONE_CALL = frozenset({400, 413, 422, 500, 504})


class Question(NamedTuple, Generic[T]):
    """A call that is part of what a query needs."""

    query: Query  # the one that an error names
    ask: Ask[T]
    opens: bool = False  # it fills the server's prefix cache for others, and is sent before them


class Stretch(NamedTuple, Generic[S, T]):
    """Questions whose values are used together, and what they are asked for."""

    subject: S
    questions: Sequence[Question[T]]


@dataclass(slots=True)
class ServedModel:
    """One model behind one or more servers, and how to ask it.

    `tokens` is the cost of what was asked so far.
    """

    transport: "Transport"
    dialect: Dialect
    abilities: Abilities
    sentinel: Sentinel | None  # None: the server shows no log-probabilities
    tokens: Tokens = field(default_factory=Tokens)

    def values(
        self, stretches: Iterable[Stretch[S, T]], *, named: bool
    ) -> Iterator[tuple[S, list[T]]]:
        """What each stretch asked: its subject, and its values in the order of its questions.

        Args:
            stretches: pulled as they are sent.
            named: whether tokens are asked by id, so that the sentinel may be as well.

        Raises:
            ResponseError: the server refused a question or answered it wrongly.
            EndpointError: the server is gone, or changed.
        """
        flight = _Flight[S, T](len(self.transport.urls))
        with closing(cast(Any, self.transport.send(flight.calls(stretches)))) as stream:
            while True:
                try:
                    key, reply = next(stream)
                except StopIteration:
                    return
                except EndpointError as error:
                    if (query := flight.refused(error)) is None:
                        raise
                    raise ResponseError(str(error), query=query) from error
                if (done := flight.take(key, reply)) is not None:
                    self._check_all(named)
                    yield done

    def enough(self, calls: int, seconds: float) -> bool:
        """Whether a stretch of so many calls is long enough; `seconds` are of one server's time."""
        servers = len(self.transport.urls)
        return calls >= STRETCH_CALLS * servers or seconds >= STRETCH_SECONDS * servers

    def check(self, replica: int) -> None:
        """Ask a server to which nothing else is sent for the sentinel.

        Raises:
            EndpointError: the server changed.
        """
        if ask := self._sentinel_ask(named=True):
            ask.read(self.transport.call(ask.call, replica=replica))

    def _check_all(self, named: bool) -> None:
        """Ask each server for the sentinel.

        Of several, those that are down are asked when they are back.
        """
        if (ask := self._sentinel_ask(named)) is None:
            return
        several = len(self.transport.urls) > 1
        for replica in self.transport.up if several else [0]:
            try:
                # Sent at once, not behind the calls that wait: when it returns, new ones are added.
                reply = self.transport.call(ask.call, replica=replica, patient=False)
            except Unanswered:
                if several:
                    continue
                reply = self.transport.call(ask.call)
            ask.read(reply)

    def _sentinel_ask(self, named: bool) -> Ask[None] | None:
        if self.sentinel is None:
            return None
        return self.sentinel.ask(self.dialect, self.abilities, named=named)


Key = tuple[int, int]
"""(number of a stretch, index of a question in it)."""


@dataclass(slots=True)
class _Open(Generic[S, T]):
    """A stretch of which not all replies have come."""

    stretch: Stretch[S, T]
    values: list[T | None]
    missing: int


class _Flight(Generic[S, T]):
    """The stretches in flight."""

    def __init__(self, servers: int) -> None:
        self._servers = servers
        self._open: dict[int, _Open[S, T]] = {}

    def calls(self, stretches: Iterable[Stretch[S, T]]) -> Iterator[tuple[Key, Call]]:
        """All calls in the order of sending.

        Questions that fill the prefix cache are sent a stretch ahead of those that read it.
        """
        ready: list[tuple[Key, Call]] = []
        for number, stretch in enumerate(stretches):
            questions = stretch.questions
            assert questions, "a stretch without questions has no end"
            calls = [((number, i), question.ask.call) for i, question in enumerate(questions)]
            early = [pair for pair in calls if questions[pair[0][1]].opens]
            late = [pair for pair in calls if not questions[pair[0][1]].opens]
            if not late:
                early, late = late, early
            self._open[number] = _Open(stretch, [None] * len(questions), len(questions))
            yield from early
            yield from ready
            ready = _in_turn(late) if self._servers > 1 else late
        yield from ready

    def take(self, key: Key, reply: Any) -> tuple[S, list[T]] | None:
        """Read a reply; the stretch that is complete with it, if one is."""
        number, index = key
        opened = self._open[number]
        question = opened.stretch.questions[index]
        try:
            opened.values[index] = question.ask.read(reply)
        except ResponseError as error:
            error.query = question.query
            raise
        opened.missing -= 1
        if opened.missing:
            return None
        del self._open[number]
        return opened.stretch.subject, cast(list[T], opened.values)

    def refused(self, error: EndpointError) -> Query | None:
        """The query that the server refused; None if the error is not about one."""
        key: Key | None = error.key
        about_one = error.status in _ABOUT_ONE_CALL and not isinstance(error, Unanswered)
        if key is None or not about_one:
            return None
        number, index = key
        return self._open[number].stretch.questions[index].query


def _in_turn(calls: Sequence[tuple[Key, Call]]) -> list[tuple[Key, Call]]:
    """One call of each group after the other, so that several servers have something to do."""
    groups: dict[Hashable, list[tuple[Key, Call]]] = {}
    for key, call in calls:
        groups.setdefault(call.group, []).append((key, call))
    return [pair for turn in zip_longest(*groups.values()) for pair in turn if pair is not None]
