"""The engine: requests in, responses out, each as soon as it is complete.

    requests --encode--> questions --recall--> known answers
                             `--> solver, in this process or in workers --> answers --> responses

Equal questions are answered once, those that the store knows not at all, and every batch is
stored before it is handed on. Nothing here knows what a benchmark is.
"""

from collections.abc import Iterator, Sequence

from harness.core import Encoding, Request, Response, Tokens
from harness.engine.backends.cost import Estimate
from harness.engine.backends.in_process import InProcess
from harness.engine.cache.response_cache import ResponseCache
from harness.engine.cache.store import Store
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.settings import Identity
from harness.engine.queries.encode import Encoded, Encoder, Encodings, Preflight, preflight
from harness.engine.queries.query import Advance, Answer, Backend, Query
from harness.engine.router import Router
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import NumericsError, UsageError


class Engine:
    """Answers requests with one resident checkpoint.

    Args:
        checkpoint: the loaded model.
        budget: padded tokens a batch; None chooses by the device.
        share: whether requests may share prefixes.
        store: where answers are kept; None keeps none.
        encodings: of other checkpoints' requests, which serve this one if its tokenizer and context
            are the same.

    Attributes:
        identity: of the checkpoint.
        tokenizer: of the checkpoint.
        solver: what answers questions.
        tokens: what all answers so far have cost.

    Raises:
        CheckpointError: the model is not causal.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        budget: int | None = None,
        share: bool = True,
        store: Store | None = None,
        encodings: Encodings | None = None,
    ) -> None:
        solver = InProcess(checkpoint, budget=budget, share=share)
        self._begin(solver, checkpoint.identity, checkpoint.tokenizer, store, encodings)

    @classmethod
    def over(
        cls,
        solver: Backend,
        identity: Identity,
        tokenizer: Tokenizer,
        *,
        store: Store | None = None,
        encodings: Encodings | None = None,
    ) -> "Engine":
        """An engine whose checkpoint is elsewhere."""
        engine = cls.__new__(cls)
        engine._begin(solver, identity, tokenizer, store, encodings)
        return engine

    def _begin(
        self,
        solver: Backend,
        identity: Identity,
        tokenizer: Tokenizer,
        store: Store | None,
        encodings: Encodings | None,
    ) -> None:
        self.solver, self.identity, self.tokenizer = solver, identity, tokenizer
        self.tokens = Tokens()
        vocabulary = solver.habits.vocabulary
        self._encoder = Encoder(tokenizer, identity.context, encodings, vocabulary)
        self._memory = ResponseCache(store, identity, solver.habits.numerics, solver.habits.ends)

    def describe(self) -> dict[str, int | bool | str | list[int]]:
        """How requests are run, for the record; `numerics` alone may move a score's last digits."""
        habits = self.solver.habits
        return {
            "budget": habits.budget,
            "sharing": habits.sharing is not None,
            "numerics": habits.numerics,
            "ends": sorted(habits.ends),
        }

    def encode(self, requests: Sequence[Request], encoding: Encoding) -> list[Encoded]:
        """Tokens of every request; raises as `Encoder.encode` does."""
        return self._encoder.encode(requests, encoding)

    @staticmethod
    def preflight(requests: Sequence[Request], encoded: Sequence[Encoded]) -> Preflight:
        """What is unusual about encoded requests."""
        return preflight(requests, encoded)

    def answer(
        self,
        requests: Sequence[Request],
        encoded: Sequence[Encoded],
        advance: Advance = lambda done, total: None,
    ) -> Iterator[tuple[int, Response]]:
        """(index, response) of every request, in the order in which they become complete.

        Raises:
            NumericsError: a log-probability is not finite; its `request` is the index.
            CheckpointError: memory does not hold even one request.
        """
        desk = Router(requests, encoded)
        yield from desk.without_questions()
        known = self._memory.recall(desk.queries)
        cached = desk.cost(known)
        self.tokens += Tokens(asked=cached, cached=cached)
        yield from desk.take(known)
        before = self.solver.tokens
        batches = self.solver.answer(desk.queries, known, advance)
        while (answers := self._next(batches, desk)) is not None:
            self.tokens += Tokens(asked=desk.cost(answers)) + self.solver.tokens - before
            before = self.solver.tokens
            self._memory.keep(answers)
            yield from desk.take(answers)
        self.tokens += self.solver.tokens - before

    @staticmethod
    def _next(batches: Iterator[dict[Query, Answer]], desk: Router) -> dict[Query, Answer] | None:
        """The next answers; an error of a question becomes one of the request that asked it."""
        try:
            return next(batches, None)
        except NumericsError as error:
            if error.request is not None:
                error.request = desk.owner(desk.queries[error.request])
            raise

    def estimate(self, requests: Sequence[Request], encoded: Sequence[Encoded]) -> Estimate:
        """What `answer` will cost, in this process.

        Raises:
            UsageError: the checkpoint is in workers.
        """
        if not isinstance(self.solver, InProcess):
            raise UsageError("--plan and --budget are for one process; leave out --workers")
        desk = Router(requests, encoded)
        known = self._memory.recall(desk.queries, count=False)
        return self.solver.estimate({q: desk.count(q) for q in desk.queries}, known)
