"""What all servers are asked alike when they generate, and what the generated tokens must be."""

import hashlib
from collections.abc import Sequence

from harness.engine.endpoint.dialects.check import refuse
from harness.engine.endpoint.dialects.dialect import Written
from harness.engine.queries.query import GenerationQuery


def seed(query: GenerationQuery) -> int:
    """A seed of 31 bits that depends on the query alone, so that order cannot change a sample."""
    text = f"{','.join(map(str, query.seed))}|{','.join(map(str, query.prompt))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def stop_strings(query: GenerationQuery, most: int | None = None) -> list[str]:
    """Stop strings to send, at most `most` of them.

    The server then writes past the others: the caller has to look for every stop string.
    """
    return [text for text in query.stop if text][:most]


def generated(
    query: GenerationQuery,
    ends: frozenset[int],
    tokens: Sequence[int],
    logprobs: Sequence[float],
    *,
    stopped: bool,
    cached: int | None,
) -> Written:
    """The generated tokens, if they are as many as they should be.

    Args:
        query: what was asked.
        ends: ids of the tokens that end a text; such a token is the last one. Empty if unknown.
        tokens: what came.
        logprobs: one per token.
        stopped: whether the server met a stop string, or a token of its own if `ends` is empty.
        cached: tokens of the prompt that came from the server's prefix cache.
    """
    most = query.max_new_tokens
    if len(logprobs) != len(tokens):
        refuse("log-probabilities", f"one for each of {len(tokens)} tokens", len(logprobs))
    if not 0 < len(tokens) <= most:
        refuse("generated tokens", f"from 1 to {most} of them", len(tokens))
    early = next((token for token in tokens[:-1] if token in ends), None)
    if early is not None:
        refuse("generated tokens", f"none after token {early}, which ends a text", len(tokens))
    if len(tokens) < most and tokens[-1] not in ends and not stopped:
        ending = f"{most} of them, or a stop string or an end of text at token {tokens[-1]}"
        refuse("generated tokens", ending, len(tokens))
    return Written(tuple(tokens), tuple(logprobs), cached)
