"""Questions to one server: one after another, or all in flight at once."""

from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any, Protocol, TypeVar

from harness.engine.endpoint.call import Ask, Call
from harness.errors import EndpointError

T = TypeVar("T")
K = TypeVar("K")

_REFUSALS = {400, 404, 405, 410, 413, 422, 501}  # what servers answer where they have no such thing


class Sender(Protocol):
    """What sends calls to one server: a transport."""

    def call(self, call: Call) -> Any:
        """The parsed JSON of the reply."""
        ...

    def send(self, calls: Iterable[tuple[K, Call]]) -> Iterator[tuple[K, Any]]:
        """The replies, in the order in which they come."""
        ...


class Asking:
    """Asks one server.

    Attributes:
        calls: how many have been answered.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.calls = 0

    def one(self, ask: Ask[T]) -> T:
        """The answer to one question."""
        reply = self._sender.call(ask.call)
        self.calls += 1
        return ask.read(reply)

    def each(self, asks: Iterable[Ask[T]]) -> list[T]:
        """The answers to questions that are asked one after another."""
        return [self.one(ask) for ask in asks]

    def together(self, asks: Sequence[Ask[T]]) -> list[T]:
        """The answers to questions that are in flight at once, in the order of the questions."""
        calls = [(place, ask.call) for place, ask in enumerate(asks)]
        answers = {place: asks[place].read(reply) for place, reply in self._sender.send(calls)}
        self.calls += len(answers)
        return [answers[place] for place in range(len(asks))]

    def offered(self, ask: Ask[T] | None) -> T | str:
        """The answer, or why there is none: the server has no such thing or refuses the call."""
        if ask is None:
            return "not known of this server"
        try:
            return self.one(ask)
        except EndpointError as error:
            if error.status in _REFUSALS:
                return str(error)
            raise

    def refusal(self, ask: Ask[T] | None) -> str:
        """Why there is no answer; empty if there is one."""
        answer = self.offered(ask)
        return answer if isinstance(answer, str) else ""

    def timed(self, ask: Ask[T]) -> tuple[T, float]:
        """The answer, and the seconds that it took."""
        start = perf_counter()
        return self.one(ask), perf_counter() - start
