"""The interface of a backend: queries in, answers out.

`InProcess` runs a checkpoint in this process, `RayWorkers` runs copies of it on Ray actors.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, Protocol

from harness.core import Tokens
from harness.engine.checkpoint.settings import Identity
from harness.engine.queries.query import Advance, Answer, Query, Sharing
from harness.engine.tokenizer.tokenizer import Tokenizer


class BackendOptions(NamedTuple):
    """How a backend computes answers."""

    numerics: str  # everything that affects the last digits of answers, besides the checkpoint
    sharing: Sharing | None  # how prefixes are shared; None if they are not
    budget: int  # padded tokens per batch
    ends: frozenset[int]  # ids of the tokens that end a generated text
    vocabulary: int | None = None  # number of tokens that the model has; None if unknown


class Backend(Protocol):
    """Answers queries with one checkpoint; `tokens` is the cost of all answers so far.

    `options.sharing` may become None during a run, when the model turns out to compute shared
    prefixes wrongly.
    """

    @property
    def tokens(self) -> Tokens: ...  # noqa: D102
    @property
    def identity(self) -> Identity: ...  # noqa: D102
    @property
    def tokenizer(self) -> Tokenizer: ...  # noqa: D102
    @property
    def options(self) -> BackendOptions: ...  # noqa: D102
    def answer(
        self, queries: Sequence[Query], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """Answer queries, batch by batch.

        Args:
            queries: distinct queries. Batches are planned from all of them, so that a resumed run
                computes the batches of an uninterrupted one.
            known: queries that need no answer.
            advance: called after each batch with the tokens done so far and in all.

        Raises:
            NumericsError: a log-probability is not finite; `query` is the query.
            CheckpointError: memory does not hold even one query.
        """
        ...
