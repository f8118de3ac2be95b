"""The backend that asks a model server.

Log-probabilities first, then words, then texts: a vLLM answers plain `logprobs` wrongly while it
is asked for tokens by id.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.core import Tokens
from harness.engine.backends.backend import BackendOptions
from harness.engine.backends.cost import Estimate
from harness.engine.checkpoint.settings import Identity
from harness.engine.decoding.completion import Endings
from harness.engine.endpoint.answers.cost import Cost
from harness.engine.endpoint.answers.estimate import estimate
from harness.engine.endpoint.answers.rounds import with_progress
from harness.engine.endpoint.answers.spans import span_answers
from harness.engine.endpoint.answers.texts import text_answers
from harness.engine.endpoint.answers.words import word_answers
from harness.engine.endpoint.dialects.dialect import Abilities, Dialect
from harness.engine.endpoint.sentinel import Sentinel
from harness.engine.endpoint.served_model import ServedModel
from harness.engine.queries.query import Advance, Answer, GenerationQuery, Query, Span, WordQuery
from harness.engine.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from harness.engine.endpoint.transport import Transport

REVISION = 1  # raised with every change of how servers are asked that can change an answer
BUDGET = 16384  # tokens that are enough to keep a server busy


@dataclass(frozen=True, slots=True)
class Verified:
    """What the self-test found out about a server."""

    abilities: Abilities
    sentinel: Sentinel | None = None  # None: the server shows no log-probabilities
    facts: Mapping[str, Any] = field(default_factory=dict)  # for the record


class Endpoint:
    """Answers queries by asking a model server.

    Args:
        transport: sends calls; closed by `close`.
        dialect: of the server.
        tokenizer: of the model.
        identity: of the model. Its context is less than the longest prompt that the server accepts,
            because the last target of a span is part of a prompt.
        verified: what the self-test found.
        ends: ids of the tokens that end a generated text.
    """

    def __init__(
        self,
        transport: "Transport",
        dialect: Dialect,
        tokenizer: Tokenizer,
        identity: Identity,
        verified: Verified,
        ends: frozenset[int],
    ) -> None:
        longest = verified.abilities.longest
        assert identity.context < longest, f"a context of {identity.context}, longest {longest}"
        self.identity, self.tokenizer = identity, tokenizer
        server = dialect.server
        version = f"{server.kind}-{server.version}" if server.version else server.kind
        self.options = BackendOptions(
            numerics=f"endpoint:{REVISION}|server:{version}",
            sharing=None,
            budget=BUDGET,
            ends=ends,
            facts=verified.facts,
        )
        self.served = ServedModel(transport, dialect, verified.abilities, verified.sentinel)
        # SGLang reads its prefix cache up to the first token whose log-probability is asked.
        self._cost = Cost(verified.abilities, prompt_reads_cache=server.kind == "sglang")
        self._endings = Endings(tokenizer, ends, tokenizer.largest_id + 1)
        transport.on_return = self.served.check

    @property
    def tokens(self) -> Tokens:
        """The cost of all answers so far."""
        return self.served.tokens

    def answer(
        self, queries: Sequence[Query], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each stretch of calls, as `Backend.answer` describes."""
        spans = [query for query in queries if isinstance(query, Span)]
        yield from span_answers(self.served, self._cost, spans, known, advance)
        words = [query for query in queries if isinstance(query, WordQuery)]
        left = (query for query in words if query not in known)
        found = word_answers(self.served, self.tokenizer, left)
        yield from with_progress(found, words, known, advance)
        texts = [query for query in queries if isinstance(query, GenerationQuery)]
        unwritten = (query for query in texts if query not in known)
        found = text_answers(self.served, self._endings, unwritten)
        yield from with_progress(found, texts, known, advance)

    def estimate(self, counts: Mapping[Query, int], known: Collection[Query]) -> Estimate:
        """As `Backend.estimate`, with the speed that the self-test saw."""
        return estimate(self._cost, counts, known)

    def close(self) -> None:
        """Close the connections."""
        self.served.transport.close()
