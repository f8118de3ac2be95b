"""Queries that need several calls, one after the other: asked in rounds.

    unfinished queries, then new ones --> stretch of calls --> values --> answers, or unfinished

All rounds are one stream of calls, so that the server is not idle between them.
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from harness.engine.endpoint.served_model import Question, ServedModel, Stretch
from harness.engine.queries.query import Advance, Answer, Query
from harness.errors import ResponseError

T = TypeVar("T")


class Item(Protocol[T]):
    """A query on its way to an answer."""

    @property
    def query(self) -> Query: ...  # noqa: D102
    @property
    def seconds(self) -> float:
        """About the time that a server needs for the next question."""
        ...

    def question(self) -> Question[T]:
        """What has to be asked next."""
        ...

    def take(self, value: T) -> Answer | None:
        """The answer, if this value of the last question completes it.

        Raises:
            ResponseError: the server cannot answer the query.
        """
        ...


class Rounds(Generic[T]):
    """Asks about items until each has its answer."""

    def __init__(self, served: ServedModel, items: Iterable[Item[T]]) -> None:
        self._served = served
        self._new = iter(items)
        self._unfinished: deque[Item[T]] = deque()
        self._answered = 0
        self._refused: list[ResponseError] = []

    def answers(self) -> Iterator[dict[Query, Answer]]:
        """The answers of each stretch.

        After an item that the server cannot answer, those begun are finished, and no more begin.

        Raises:
            ResponseError: the server cannot answer some items; their number is in the message.
        """
        while True:
            for items, values in self._served.values(self._stretches(), named=False):
                if found := self._take(items, values):
                    self._answered += len(found)
                    yield found
            if not self._unfinished:
                break
        if self._refused:
            raise self._refusal()

    def _stretches(self) -> Iterator[Stretch[list[Item[T]], T]]:
        while items := self._next_items():
            yield Stretch(items, [item.question() for item in items])

    def _next_items(self) -> list[Item[T]]:
        """Items of one stretch, unfinished ones first."""
        items: list[Item[T]] = []
        seconds = 0.0
        while not self._served.enough(len(items), seconds):
            new = () if self._refused else self._new
            item = self._unfinished.popleft() if self._unfinished else next(iter(new), None)
            if item is None:
                break
            items.append(item)
            seconds += item.seconds
        return items

    def _take(self, items: Sequence[Item[T]], values: Sequence[T]) -> dict[Query, Answer]:
        found: dict[Query, Answer] = {}
        for item, value in zip(items, values, strict=True):
            try:
                answer = item.take(value)
            except ResponseError as error:
                error.query = item.query
                self._refused.append(error)
                continue
            if answer is None:
                self._unfinished.append(item)
            else:
                found[item.query] = answer
        return found

    def _refusal(self) -> ResponseError:
        first, *others = self._refused
        if not others:
            return first
        count = len(self._refused)
        message = f"{first} (so for {count} of the first {count + self._answered} items)"
        return ResponseError(message, query=first.query)


def with_progress(
    batches: Iterable[dict[Query, Answer]],
    queries: Sequence[Query],
    known: Collection[Query],
    advance: Advance,
) -> Iterator[dict[Query, Answer]]:
    """The same batches of answers, with reports of progress in tokens of prompts."""
    total = sum(len(query.span.inputs) for query in queries)
    done = sum(len(query.span.inputs) for query in queries if query in known)
    for answers in batches:
        done += sum(len(query.span.inputs) for query in answers)
        advance(done, total)
        yield answers
