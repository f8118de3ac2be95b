"""Requests of a run, answered round after round, until the outcomes of their examples are known."""

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from harness.canaries.canaries import Canaries
from harness.core import Request, RollingLoglikelihood
from harness.records import dump
from harness.records.outcomes import show
from harness.runner.job import Job, Observer, Prepared, follow_up, naming_examples
from harness.runner.parts import Stretch
from harness.runner.results import Answered, ByMeasure, Results, known
from harness.runner.texts import Text
from harness.task import encoding

if TYPE_CHECKING:
    from harness.engine.engine import Engine
    from harness.engine.queries.encode import Encoded


class _Ask(NamedTuple):
    """One request of a round, or one window of a text."""

    example: int
    number: int  # of the request in its example, or of the window in its text
    request: Request
    encoded: "Encoded"


@dataclass(slots=True)
class _Slice:
    """The parts that are being answered."""

    pieces: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))  # of texts
    history: dict[int, dict[int, dump.Exchange]] = field(default_factory=lambda: defaultdict(dict))
    answered: dict[int, Answered] = field(default_factory=dict)
    followed: dict[int, list[Request]] = field(default_factory=dict)  # by round, from the second
    flags_of_followed: Counter[str] = field(default_factory=Counter)


class Rounds:
    """Asks the requests of a job, and shows the responses to the canaries.

    Args:
        job: the job.
        prepared: its examples and first requests.
        engine: answers the requests.
        observer: callbacks.
        results: what is known so far; the caller adds to it.
    """

    def __init__(
        self, job: Job, prepared: Prepared, engine: "Engine", observer: Observer, results: Results
    ) -> None:
        self._job, self._prepared, self._results = job, prepared, results
        self._engine, self._observer = engine, observer
        self._canaries = Canaries(engine.vocabulary)
        self._texts: dict[int, Text] = {}  # by example; those that are not complete
        self._followed: dict[int, list[Request]] = defaultdict(list)  # by round, from the second
        self._flags_of_followed: Counter[str] = Counter()

    @cached_property
    def _encoded(self) -> "list[list[Encoded]]":
        """The first requests of every example, encoded together before anything is computed."""
        groups = self._prepared.groups
        owners = [e for e, group in enumerate(groups) for _ in group]
        encoded, _ = self._encode(self._prepared.requests, owners)
        places = iter(encoded)
        return [[next(places) for _ in group] for group in groups]

    def _encode(
        self, requests: Sequence[Request], owners: Sequence[int]
    ) -> "tuple[list[Encoded], dict[str, int]]":
        """The requests of one round, encoded, and what is unusual about them."""
        job = self._job
        with naming_examples(job, [self._prepared.examples[e] for e in owners]):
            encoded = self._engine.encode(requests, encoding(job.protocol.options))
            flags = self._engine.preflight(requests, encoded)
            self._observer.preflight(flags.counts())
            if job.strict:
                flags.refuse()
        return encoded, flags.counts()

    def asked(self) -> tuple[int, dict[str, int]]:
        """How many requests were asked, and what was unusual about them."""
        asked = sorted(self._results.answered)
        requests = [request for e in asked for request in self._prepared.groups[e]]
        encoded = [one for e in asked for one in self._encoded[e]]
        counts = Counter(self._engine.preflight(requests, encoded).counts())
        counts.update(self._flags_of_followed)
        for later in self._followed.values():
            counts["duplicates"] += len(later) - len(set(later))
        return len(requests) + sum(map(len, self._followed.values())), dict(counts)

    def answer(self, stretches: Iterable[Stretch]) -> dict[int, Answered]:
        """Answer all requests of these stretches, round after round.

        Each round has the requests that follow from the responses of the one before.
        """
        slice_ = _Slice()
        asks = self._asks(stretches, slice_)
        waiting = {ask.example for ask in asks}
        for e in slice_.pieces:
            if e not in waiting:  # all of its windows are known
                self._take_text(e, slice_)
        rounds = 1
        while asks:
            following = self._ask(asks, rounds, slice_)
            rounds += 1
            asks = self._follow_up(following, rounds, slice_)
        for number, requests in slice_.followed.items():
            self._followed[number] += requests
        self._flags_of_followed.update(slice_.flags_of_followed)
        return slice_.answered

    def _asks(self, stretches: Iterable[Stretch], slice_: _Slice) -> list[_Ask]:
        """The first requests of these stretches, those of windows once each."""
        asks: dict[tuple[int, int], _Ask] = {}
        for e, _, pieces, split in stretches:
            group, encoded = self._prepared.groups[e], self._encoded[e]
            numbers: Iterable[int] = range(len(group))
            if split:
                [request] = group
                assert isinstance(request, RollingLoglikelihood), "only texts are split"
                text = self._texts.setdefault(e, Text(request, encoded[0]))
                slice_.pieces[e] += pieces
                group, encoded = (request,) * len(text.windows), text.windows
                numbers = text.missing(pieces)
            asks |= {(e, k): _Ask(e, k, group[k], encoded[k]) for k in numbers}
        return list(asks.values())

    def _ask(
        self, asks: Sequence[_Ask], rounds: int, slice_: _Slice
    ) -> dict[int, tuple[Request, ...]]:
        """Answer the requests of one round; returns those of the next, by example."""
        left = Counter(ask.example for ask in asks)
        following: dict[int, tuple[Request, ...]] = {}
        requests, encoded = [ask.request for ask in asks], [ask.encoded for ask in asks]
        with naming_examples(self._job, [self._prepared.examples[ask.example] for ask in asks]):
            for i, response in self._engine.answer(requests, encoded, self._observer.advance):
                e, number, request, tokens = asks[i]
                if e in slice_.pieces:
                    self._texts[e].take(number, response)
                else:
                    slice_.history[e][number] = dump.Exchange(request, tokens, response)
                left[e] -= 1
                if left[e]:
                    continue
                if e in slice_.pieces:
                    self._take_text(e, slice_)
                elif more := self._take_example(e, rounds, slice_):
                    following[e] = more
        assert not any(left.values()), f"{sum(map(bool, left.values()))} examples lack responses"
        return dict(sorted(following.items()))

    def _follow_up(
        self, following: Mapping[int, Sequence[Request]], rounds: int, slice_: _Slice
    ) -> list[_Ask]:
        """The requests of the next round."""
        if not following:
            return []
        pairs = [(e, request) for e, requests in following.items() for request in requests]
        requests = [request for _, request in pairs]
        encoded, flags = self._encode(requests, [e for e, _ in pairs])
        slice_.followed[rounds] = requests
        slice_.flags_of_followed.update({**flags, "duplicates": 0})
        asked = {e: len(slice_.history[e]) for e in following}
        asks = []
        for (e, request), tokens in zip(pairs, encoded, strict=True):
            asks.append(_Ask(e, asked[e], request, tokens))
            asked[e] += 1
        return asks

    def _take_example(self, e: int, rounds: int, slice_: _Slice) -> tuple[Request, ...]:
        """Extract the outcomes of an example, unless further requests follow, which it returns."""
        example = self._prepared.examples[e]
        exchanges = [exchange for _, exchange in sorted(slice_.history[e].items())]
        responses = [exchange.response for exchange in exchanges]
        more = follow_up(self._job, self._prepared.prompt, example, responses, rounds)
        if not more:
            self._canaries.add(example, exchanges)
            outcomes = self._results.extract(example, responses)
            shown = show(example, [(x.request, x.response) for x in exchanges])
            slice_.answered[e] = Answered(outcomes, shown)
            self._dump(e, exchanges, outcomes)
            del slice_.history[e]
        return more

    def _take_text(self, e: int, slice_: _Slice) -> None:
        """Extract the outcomes of further pieces of a text."""
        example, text, new = self._prepared.examples[e], self._texts[e], slice_.pieces[e]
        outcomes = self._results.of_pieces(e, example, text.response(new), new)
        known = [k for k, outcome in enumerate(outcomes[0]) if outcome is not None]
        response = text.response(known)
        slice_.answered[e] = Answered(outcomes, show(example, [(text.request, response)]))
        if len(known) == len(outcomes[0]):
            exchange = dump.Exchange(text.request, self._encoded[e][0], response)
            self._canaries.add(example, [exchange])
            self._dump(e, [exchange], outcomes)
            del self._texts[e]

    def _dump(self, e: int, exchanges: Sequence[dump.Exchange], outcomes: ByMeasure) -> None:
        """Show a complete example to the observer."""
        if self._observer.item:
            sums = dump.sums(self._results.measures, known(outcomes))
            example = self._prepared.examples[e]
            self._observer.item(dump.item(self._job.task.name, example.id, exchanges, sums))

    def watched(self) -> Canaries:
        """The canaries, to which texts that are not complete have been shown as well."""
        canaries = copy.deepcopy(self._canaries)
        for e, text in self._texts.items():
            if e in self._results.answered:
                outcomes = self._results.answered[e].outcomes[0]
                pieces = [k for k, outcome in enumerate(outcomes) if outcome is not None]
                exchange = dump.Exchange(text.request, text.encoded(pieces), text.response(pieces))
                canaries.add(self._prepared.examples[e], [exchange])
        return canaries
