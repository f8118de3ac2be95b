"""Estimate what asking a server will cost: calls, tokens and time.

Speeds are those of the self-test. Generated texts are assumed to be as long as they may be, so
their cost is an upper bound.
"""

from collections.abc import Collection, Mapping

from harness.engine.backends.cost import SEARCH_PATHS, SEARCH_TOKENS, Estimate, asked_tokens
from harness.engine.backends.machine import resident_bytes
from harness.engine.endpoint.answers.cost import Cost
from harness.engine.endpoint.answers.spans import plans
from harness.engine.queries.query import GenerationQuery, Query, Span, WordQuery


def estimate(cost: Cost, counts: Mapping[Query, int], known: Collection[Query]) -> Estimate:
    """Estimate the cost of queries.

    `rows` of the estimate are calls, `largest` is the longest prompt, and the memory is that of
    this process: nothing is known of the server's.

    Args:
        cost: of calls to the server.
        counts: query -> how many requests it belongs to.
        known: queries that need no answer.
    """
    left = [query for query in counts if query not in known]
    asked = {query: asked_tokens(query) * count for query, count in counts.items()}
    planned = list(plans([query for query in left if isinstance(query, Span)], cost))
    words = [query for query in left if isinstance(query, WordQuery)]
    texts = [query for query in left if isinstance(query, GenerationQuery)]
    # A search reads its context once; the paths behind it are a few tokens each. Each token of a
    # text takes about as long as a short call.
    new = sum(query.max_new_tokens for query in texts)
    calls = sum(plan.calls for plan in planned) + len(words) * (1 + SEARCH_PATHS) + len(texts)
    computed = (
        sum(plan.tokens for plan in planned)
        + sum(len(query.inputs) + SEARCH_TOKENS for query in words)
        + sum(len(query.prompt) for query in texts)
    )
    return Estimate(
        queries=len(counts),
        asked=sum(asked.values()),
        stored=sum(asked[query] for query in known),
        computed=computed + new,
        rows=calls,
        largest=max((_longest(query) for query in left), default=0),
        seconds=cost.seconds_of(computed, calls + new),
        peak_bytes=resident_bytes(),
        at_most=bool(texts),
    )


def _longest(query: Query) -> int:
    """Tokens of the longest prompt that a query needs."""
    return len(query.span.inputs) + (isinstance(query, Span))
