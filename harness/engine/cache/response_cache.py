"""The response cache of one checkpoint: answers to queries, kept in a store on disk.

An answer is stored under everything that produced it: the digests of weights and tokenizer, the
numerics, and the query's tokens and parameters; for generated text also the tokens that end it.
Names and paths play no part. What is read back is checked against its query.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from harness.core import Generated
from harness.engine.cache.codec import pack, token_bytes, unpack
from harness.engine.cache.store import CheckpointKey, Store, StoredAnswer
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.onednn import products
from harness.engine.checkpoint.settings import Identity
from harness.engine.queries.query import Answer, Query, Span, WordQuery

ENGINE = 5  # raised with every change of the engine that can change an answer


def numerics(checkpoint: Checkpoint) -> str:
    """Everything besides the weights that can change the last digits of answers, in one line."""
    model = checkpoint.model
    parts = {
        "engine": ENGINE,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": checkpoint.device.type,
        "products": products(model),
        **({"compiled": True} if checkpoint.compiled else {}),
        **({"tensor_parallel": parts} if (parts := checkpoint.tensor_parallel) > 1 else {}),
        **({"lent": True} if checkpoint.lent else {}),  # its own activation, weights not packed
        "attention": getattr(model.config, "_attn_implementation", "unknown"),
        **{name: version(name) for name in ("torch", "transformers")},
    }
    return "|".join(f"{name}:{value}" for name, value in parts.items())


class ResponseCache:
    """Stored answers of one checkpoint; without a store it is empty and keeps nothing.

    Args:
        store: holds the answers of all checkpoints.
        identity: of the checkpoint.
        numerics: of its answers.
        ends: ids of the tokens that end a generated text.
    """

    def __init__(
        self, store: Store | None, identity: Identity, numerics: str, ends: Collection[int]
    ) -> None:
        self._store, self._name = store, identity.name
        self._checkpoint = CheckpointKey(identity.digest, identity.tokenizer, numerics)
        self._ends = frozenset(ends)

    def recall(self, queries: Iterable[Query], *, count: bool = True) -> dict[Query, Answer]:
        """The stored answers that fit their queries.

        Args:
            queries: the queries.
            count: whether the store counts this as a use of the answers.
        """
        if self._store is None:
            return {}
        by_key = {key(query, self._ends): query for query in queries}
        known: dict[Query, Answer] = {}

        def check(k: bytes, stored: StoredAnswer) -> None:
            known[by_key[k]] = _checked(by_key[k], stored)

        self._store.get(self._checkpoint, by_key, count=count, check=check)
        return known

    def keep(self, answers: Mapping[Query, Answer]) -> None:
        """Store answers in one transaction, except those that are not log-probabilities."""
        if self._store is not None:
            packed = {
                key(query, self._ends): StoredAnswer(answer.asked, value)
                for query, answer in answers.items()
                if (value := pack(answer.value)) is not None
            }
            self._store.put(self._checkpoint, self._name, packed)


def key(query: Query, ends: frozenset[int]) -> bytes:
    """The 16-byte key of a query.

    Args:
        query: the query.
        ends: ids of the tokens that end a generated text; scores do not depend on them.
    """
    if isinstance(query, Span):
        return _digest(query.inputs, "span", token_bytes(query.targets).hex())
    if isinstance(query, WordQuery):
        among = None if query.among is None else _words_digest(query.among)
        return _digest(query.inputs, "word", _words_digest(query.skip), among, query.rule)
    return _digest(query.prompt, "text", *query[1:], sorted(ends))


def _digest(tokens: tuple[int, ...], *parameters: Any) -> bytes:
    head = json.dumps(parameters, ensure_ascii=True).encode()
    return hashlib.blake2b(head + b"\0" + token_bytes(tokens), digest_size=16).digest()


@lru_cache(maxsize=4096)
def _words_digest(words: frozenset[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(words)).encode()).hexdigest()


def _checked(query: Query, stored: StoredAnswer) -> Answer:
    """The stored answer to a query.

    Raises:
        ValueError: it does not fit the query.
    """
    value = unpack(query, stored.value)
    fed = len(query.span.inputs)
    if isinstance(value, Generated):
        fed += len(value.tokens) - 1
    exact = not isinstance(query, WordQuery)  # a search also feeds paths, which are not stored
    if stored.tokens < fed or (exact and stored.tokens > fed):
        raise ValueError(f"{stored.tokens} tokens fed, expected {fed}")
    return Answer(value, stored.tokens)
