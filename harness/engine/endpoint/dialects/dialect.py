"""The interface of a dialect: what can be asked of a kind of server, and what comes back."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.engine.endpoint.call import Ask, Call
from harness.engine.queries.query import GenerationQuery


class Server(NamedTuple):
    """What a server says about itself."""

    kind: str  # "vllm", "sglang", "llama.cpp" or "openai"
    version: str  # empty if it does not say
    model: str  # its name there
    source: str  # where the server loaded it from; empty if it does not say
    longest: int | None  # tokens of a prompt and what is generated after it
    config: str  # a digest of the server's own, such as vLLM's `system_fingerprint`; may be empty


class Prompted(NamedTuple):
    """The log-probabilities of the last tokens of a prompt."""

    logprobs: NDArray[np.float32]  # in nats
    greedy: NDArray[np.bool_]  # whether each token was the most probable one
    best: NDArray[np.float32]  # of the most probable token at each of their positions
    ties: int  # positions at which another token was exactly as probable as the best
    cached: int | None  # tokens that the server read from its prefix cache; None if it does not say


class Next(NamedTuple):
    """The log-probabilities of some tokens after a prompt."""

    logprobs: Mapping[int, float]  # token id -> nats; of `top`, the most probable first
    best: int  # the most probable token of all; of equal ones the lowest id
    cached: int | None
    tie: bool = False  # whether another token is exactly as probable as the best


class Written(NamedTuple):
    """Generated tokens."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    cached: int | None


class Abilities(NamedTuple):
    """What a server was seen to do; found by the self-test."""

    longest: int  # tokens of the longest prompt that it accepts
    prompt_logprobs: bool
    named: int  # tokens whose log-probability after a prompt can be asked by id; 0: none
    top: int  # most probable tokens after a prompt that it returns; 0: none
    generates: bool
    block: int | None  # tokens of a block of its prefix cache; None: no cache seen
    seconds_per_call: float  # of a short call, with `concurrency` of them in flight
    seconds_per_token: float  # of a long prompt that is not cached
    unscored_share: float = 1.0
    """Time of a token that is only read, of that of one whose log-probability is returned and which
    goes through the model's head as well."""


Get = Callable[[Call], Any]
"""Asks a server about itself: the parsed JSON; None if it refuses the call."""


class Dialect(Protocol):
    """How one kind of server is asked. A method returns None if the server has no such thing.

    Token ids are sent, never text. Every `read` checks lengths, ids, nulls and values (finite, at
    most 0) and raises a ResponseError that says what was expected.
    """

    @property
    def server(self) -> Server: ...  # noqa: D102
    def prompted(self, tokens: Sequence[int], first: int) -> Ask[Prompted] | None:
        """Log-probabilities of `tokens[first:]`, each after all tokens before it; `first` > 0."""
        ...

    def named(self, prompt: Sequence[int], ids: Sequence[int]) -> Ask[Next] | None:
        """Log-probabilities of the tokens `ids` after a prompt, and the best of all tokens."""
        ...

    def top(self, prompt: Sequence[int], count: int) -> Ask[Next] | None:
        """The `count` most probable tokens after a prompt."""
        ...

    def written(self, query: GenerationQuery, ends: frozenset[int]) -> Ask[Written] | None:
        """What the model generates after a prompt, greedily or with the query's seed."""
        ...

    def tokenized(self, text: str) -> Ask[tuple[int, ...]] | None:
        """The server's own token ids of a text, without special tokens."""
        ...
