"""What has been answered before: questions and answers to and from a store's bytes.

An answer is kept under everything that produced it: the digests of weights and tokenizer, the
numerics, and the question's tokens and parameters. Names and paths play no part. Arrays are
stored plainly, little-endian; nothing is pickled.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from harness.core import Generated, Word
from harness.engine.checkpoint import Checkpoint, Identity
from harness.engine.encode import Span
from harness.engine.packed import products
from harness.engine.questions import Answer, Question, Search
from harness.engine.score import SpanScores
from harness.engine.store import Producer, Store, Stored

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


class Memory:
    """The answers of one checkpoint in a store; without a store, it knows and keeps nothing."""

    def __init__(self, store: Store | None, identity: Identity, numerics: str) -> None:
        self._store, self._name = store, identity.name
        self._producer = Producer(identity.digest, identity.tokenizer, numerics)

    def recall(self, asked: Iterable[Question], *, count: bool = True) -> dict[Question, Answer]:
        """The answers that are known; `count` says whether that is a use of them."""
        if self._store is None:
            return {}
        keys = {key(question): question for question in asked}
        found = self._store.get(self._producer, keys, count=count)
        return {keys[k]: Answer(unpack(keys[k], s.value), s.asked) for k, s in found.items()}

    def keep(self, answers: Mapping[Question, Answer]) -> None:
        """Store answers in one transaction; those that are no finite numbers are left out."""
        if self._store is not None:
            packed = {
                key(question): Stored(answer.asked, pack(answer.value))
                for question, answer in answers.items()
                if _finite(answer.value)
            }
            self._store.put(self._producer, self._name, packed)


def key(question: Question) -> bytes:
    """16 bytes that stand for a question."""
    if isinstance(question, Span):
        return _digest(question.inputs, "span", _ids(question.targets).hex())
    if isinstance(question, Search):
        among = None if question.among is None else _words(question.among)
        return _digest(question.inputs, "word", _words(question.skip), among, question.rule)
    return _digest(question[0], "text", *question[1:])


def _digest(tokens: tuple[int, ...], *parameters: Any) -> bytes:
    head = json.dumps(parameters, ensure_ascii=True).encode()
    return hashlib.blake2b(head + b"\0" + _ids(tokens), digest_size=16).digest()


def _ids(tokens: tuple[int, ...]) -> bytes:
    return np.array(tokens, "<i4").tobytes()


@lru_cache(maxsize=4096)
def _words(words: frozenset[str]) -> str:
    """A digest of a set of words."""
    return hashlib.sha256(json.dumps(sorted(words)).encode()).hexdigest()


def _finite(value: SpanScores | Word | Generated) -> bool:
    return isinstance(value, Word) or bool(np.isfinite(value.logprobs).all())


def pack(value: SpanScores | Word | Generated) -> bytes:
    """An answer as bytes."""
    if isinstance(value, SpanScores):
        flags = np.packbits(value.greedy)
        return value.logprobs.astype("<f4").tobytes() + flags.tobytes()
    if isinstance(value, Word):
        return json.dumps([value.text, value.skipped]).encode()
    head = json.dumps([value.text, value.num_tokens, value.ended]).encode()
    return b"\n".join([head, _ids(value.tokens) + np.array(value.logprobs, "<f4").tobytes()])


def unpack(question: Question, value: bytes) -> SpanScores | Word | Generated:
    """The answer to a question from its bytes."""
    if isinstance(question, Span):
        count = len(question.targets)
        flags = np.unpackbits(np.frombuffer(value, np.uint8, offset=4 * count), count=count)
        logprobs = np.frombuffer(value, "<f4", count).astype(np.float32)
        return SpanScores(logprobs, flags.astype(np.bool_))
    if isinstance(question, Search):
        text, skipped = json.loads(value)
        return Word(text, tuple(skipped))
    head, _, arrays = value.partition(b"\n")
    text, num_tokens, ended = json.loads(head)
    tokens = np.frombuffer(arrays, "<i4", len(arrays) // 8)
    logprobs = np.frombuffer(arrays, "<f4", offset=len(arrays) // 2)
    return Generated(text, tuple(tokens.tolist()), tuple(logprobs.tolist()), num_tokens, ended)
