"""The engine: requests in, responses out, each as soon as it is complete.

    requests --encode--> queries --response cache--> cached answers
                            `--> backend --> answers --> responses

Equal queries are answered once, and queries with a cached answer not at all. Every batch is cached
before its responses are returned. The engine knows nothing about tasks.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from harness.core import Encoding, Request, Response, Tokens
from harness.engine.backends.backend import Backend
from harness.engine.backends.cost import Estimate
from harness.engine.backends.in_process import InProcess
from harness.engine.cache.response_cache import ResponseCache
from harness.engine.cache.store import Store
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.queries.encode import Encoded, Encoder, Encodings
from harness.engine.queries.preflight import Preflight, preflight
from harness.engine.queries.query import Advance
from harness.engine.router import Router
from harness.errors import RequestError


class Engine:
    """Answers requests with one checkpoint.

    Args:
        model: a checkpoint, which is run in this process, or a backend that runs one elsewhere.
        budget: padded tokens per batch; None chooses by the device. Of a checkpoint only.
        share: whether requests may share prefixes. Of a checkpoint only.
        store: the response cache; None caches nothing. With one on disk, results of self-tests are
            kept in the user's cache.
        encodings: encoded requests, shared by engines whose tokenizer and context are equal.

    Attributes:
        backend: answers the queries.
        identity: of the checkpoint.
        tokenizer: of the checkpoint.
        tokens: the cost of all responses so far.

    Raises:
        CheckpointError: the model is not causal.
    """

    def __init__(
        self,
        model: Checkpoint | Backend,
        *,
        budget: int | None = None,
        share: bool = True,
        store: Store | None = None,
        encodings: Encodings | None = None,
    ) -> None:
        if isinstance(model, Checkpoint):
            on_disk = store is not None and store.path is not None
            model = InProcess(model, budget=budget, share=share, store_self_tests=on_disk)
        self.backend: Backend = model
        self.identity, self.tokenizer = self.backend.identity, self.backend.tokenizer
        self.tokens = Tokens()
        options = self.backend.options
        context = self.identity.context
        self._encoder = Encoder(self.tokenizer, context, encodings, options.vocabulary)
        self._cache = ResponseCache(store, self.identity, options.numerics, options.ends)

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the model gives a probability."""
        return self.backend.options.vocabulary or len(self.tokenizer)

    def describe(self) -> dict[str, Any]:
        """How requests are run, for the record; only `numerics` can change a score."""
        options = self.backend.options
        return {
            "budget": options.budget,
            "sharing": options.sharing is not None or options.copies_states,
            "numerics": options.numerics,
            "ends": sorted(options.ends),
            **options.facts,
        }

    def encode(self, requests: Sequence[Request], encoding: Encoding) -> list[Encoded]:
        """Encode requests as queries; raises as `Encoder.encode` does."""
        return self._encoder.encode(requests, encoding)

    @staticmethod
    def preflight(requests: Sequence[Request], encoded: Sequence[Encoded]) -> Preflight:
        """Count what is unusual about encoded requests."""
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
            ResponseError: a server refused or wrongly answered a request; likewise.
            CheckpointError: memory does not hold even one request, or the server is gone.
        """
        router = Router(requests, encoded)
        yield from router.without_queries()
        cached = self._cache.recall(router.queries)
        cost = router.cost(cached)
        self.tokens += Tokens(asked=cost, cached=cost)
        yield from router.take(cached)
        before = self.backend.tokens
        try:
            for answers in self.backend.answer(router.queries, cached, advance):
                self.tokens += Tokens(asked=router.cost(answers)) + self.backend.tokens - before
                before = self.backend.tokens
                self._cache.keep(answers)
                yield from router.take(answers)
        except RequestError as error:
            if error.query is not None:
                error.request = router.owner(error.query)
            raise
        self.tokens += self.backend.tokens - before

    def estimate(
        self, requests: Sequence[Request], encoded: Sequence[Encoded], *, cached: bool = True
    ) -> Estimate:
        """Estimate the cost of `answer`.

        Args:
            requests: the requests.
            encoded: the same, encoded.
            cached: whether cached answers cost nothing.

        Raises:
            UsageError: the backend cannot say.
        """
        router = Router(requests, encoded)
        known = self._cache.recall(router.queries, count=False) if cached else {}
        return self.backend.estimate(router.counts(), known)
