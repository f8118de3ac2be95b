"""What has been answered before: questions and answers to and from a store's bytes.

An answer is kept under everything that produced it: the digests of weights and tokenizer, the
numerics, and the question's tokens and parameters; for a written text also the tokens that end
one. Names and paths play no part. What is read back is checked against its question.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from harness.core import Generated, Word
from harness.engine.cache.codec import plausible, unpack_scores, unpack_word, unpack_written
from harness.engine.cache.store import CheckpointKey, Store, StoredAnswer
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.onednn import products
from harness.engine.checkpoint.settings import Identity
from harness.engine.queries.query import Answer, Query, Span, SpanScores, WordQuery

ENGINE = 3  # raised with any change of the engine that can change an answer


def numerics(checkpoint: Checkpoint) -> str:
    """What else moves the last digits of a model's answers, in one line."""
    model = checkpoint.model
    parts = {
        "engine": ENGINE,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "products": products(model),
        **({"compiled": True} if checkpoint.compiled else {}),
        "attention": getattr(model.config, "_attn_implementation", "unknown"),
        **{name: version(name) for name in ("torch", "transformers")},
    }
    return "|".join(f"{name}:{value}" for name, value in parts.items())


class ResponseCache:
    """The answers of one checkpoint in a store; without a store, it knows and keeps nothing.

    Args:
        store: where answers are.
        identity: of the checkpoint.
        numerics: what moves the last digits of its answers.
        ends: ids of the tokens that end a written text.
    """

    def __init__(
        self, store: Store | None, identity: Identity, numerics: str, ends: Collection[int]
    ) -> None:
        self._store, self._name = store, identity.name
        self._producer = CheckpointKey(identity.digest, identity.tokenizer, numerics)
        self._ends = frozenset(ends)

    def recall(self, asked: Iterable[Query], *, count: bool = True) -> dict[Query, Answer]:
        """The answers that are known and fit; `count` says whether that is a use of them."""
        if self._store is None:
            return {}
        questions = {key(question, self._ends): question for question in asked}
        known: dict[Query, Answer] = {}

        def read(k: bytes, stored: StoredAnswer) -> None:
            known[questions[k]] = _answer(questions[k], stored)

        self._store.get(self._producer, questions, count=count, check=read)
        return known

    def keep(self, answers: Mapping[Query, Answer]) -> None:
        """Store answers in one transaction; those that are not log-probabilities are left out."""
        if self._store is not None:
            packed = {
                key(question, self._ends): StoredAnswer(answer.asked, pack(answer.value))
                for question, answer in answers.items()
                if _storable(answer.value)
            }
            self._store.put(self._producer, self._name, packed)


def key(question: Query, ends: frozenset[int]) -> bytes:
    """16 bytes that stand for a question.

    Args:
        question: what is asked.
        ends: ids of the tokens that end a written text; scores do not depend on them.
    """
    if isinstance(question, Span):
        return _digest(question.inputs, "span", _ids(question.targets).hex())
    if isinstance(question, WordQuery):
        among = None if question.among is None else _words(question.among)
        return _digest(question.inputs, "word", _words(question.skip), among, question.rule)
    return _digest(question[0], "text", *question[1:], sorted(ends))


def _digest(tokens: tuple[int, ...], *parameters: Any) -> bytes:
    head = json.dumps(parameters, ensure_ascii=True).encode()
    return hashlib.blake2b(head + b"\0" + _ids(tokens), digest_size=16).digest()


def _ids(tokens: tuple[int, ...]) -> bytes:
    return np.array(tokens, "<i4").tobytes()


@lru_cache(maxsize=4096)
def _words(words: frozenset[str]) -> str:
    """A digest of a set of words."""
    return hashlib.sha256(json.dumps(sorted(words)).encode()).hexdigest()


def _storable(value: SpanScores | Word | Generated) -> bool:
    return isinstance(value, Word) or plausible(np.asarray(value.logprobs, np.float32))


def pack(value: SpanScores | Word | Generated) -> bytes:
    """An answer as bytes, as `harness.engine.cache.codec` describes them."""
    if isinstance(value, SpanScores):
        flags = np.packbits(value.greedy)
        return value.logprobs.astype("<f4").tobytes() + flags.tobytes()
    if isinstance(value, Word):
        return json.dumps([value.text, value.skipped]).encode()
    head = json.dumps([value.text, value.num_tokens, value.ended]).encode()
    return b"\n".join([head, _ids(value.tokens) + np.array(value.logprobs, "<f4").tobytes()])


def unpack(question: Query, value: bytes) -> SpanScores | Word | Generated:
    """The answer to a question from its bytes.

    Raises:
        ValueError: the bytes cannot be the answer to this question.
    """
    if isinstance(question, Span):
        return SpanScores(*unpack_scores(value, len(question.targets)))
    if isinstance(question, WordQuery):
        return unpack_word(value)
    written = unpack_written(value)
    length, most = len(written.tokens), question.max_new_tokens
    if length > most or (written.ended == "length" and length < most):
        raise ValueError(f"a text of {length} tokens, ended by {written.ended}, of {most} at most")
    return written


def _answer(question: Query, stored: StoredAnswer) -> Answer:
    """The stored answer to a question; a ValueError says that it does not fit."""
    value = unpack(question, stored.value)
    least = len(question[0])
    if isinstance(value, Generated):
        least += len(value.tokens) - 1
    if stored.asked < least or (stored.asked > least and not isinstance(value, Word)):
        raise ValueError(f"{stored.asked} tokens fed, expected {least}")
    return Answer(value, stored.asked)
