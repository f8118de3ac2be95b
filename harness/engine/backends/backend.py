"""The interface of a backend: queries in, answers out.

`InProcess` runs a checkpoint in this process, `RayWorkers` runs copies of it on Ray actors, and
`harness.engine.endpoint` asks a model server.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from harness.core import Tokens
from harness.engine.checkpoint.settings import Identity
from harness.engine.queries.query import Advance, Answer, Query, Sharing
from harness.engine.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from harness.engine.backends.cost import Estimate


class BackendOptions(NamedTuple):
    """How a backend computes answers."""

    numerics: str  # everything that affects the last digits of answers, besides the checkpoint
    sharing: Sharing | None  # how prefixes are shared; None if they are not
    budget: int  # padded tokens per batch
    ends: frozenset[int]  # ids of the tokens that end a generated text
    vocabulary: int | None = None  # number of tokens that the model has; None if unknown
    facts: Mapping[str, Any] = {}  # more about how answers are computed, for the record
    copies_states: bool = False  # whether spans of a common prefix share copies of a state


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
            ResponseError: a server refused or wrongly answered a query; likewise.
            CheckpointError: memory does not hold even one query.
        """
        ...

    def estimate(self, counts: Mapping[Query, int], known: Collection[Query]) -> "Estimate":
        """Estimate the cost of `answer`.

        Args:
            counts: query -> how many requests it belongs to.
            known: queries that need no answer.

        Raises:
            UsageError: this backend cannot say.
        """
        ...
