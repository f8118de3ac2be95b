"""Requests of every kind, and what an engine answers to them."""

from collections.abc import Sequence

from harness.core import (
    Encoding,
    Generate,
    Loglikelihood,
    NextWord,
    Request,
    Response,
    RollingLoglikelihood,
)
from harness.engine.engine import Engine

REQUESTS: list[Request] = [
    *(Loglikelihood(f"The {noun} sat on", f" the {place}") for noun in ("cat", "dog", "ant", "man")
      for place in ("sand", "mat", "hat")),
    *(RollingLoglikelihood((f"{word} and the sand.\n" * 30,)) for word in ("The", "An", "Sand")),
    *(NextWord(f"Then the {word}", frozenset({"the", "a"})) for word in ("sand", "ants", "man")),
    *(Generate((f"Q: {word}?\nA:",), 6, stop=("\n",)) for word in ("who", "what", "where")),
    Generate(("Sand",), 5, top_k=3, seed=(1,)),
    RollingLoglikelihood(("",)),
]  # fmt: skip


def skip_self_tests(engine: Engine) -> None:
    """Let a planner share prefixes untested: the self-tests have tests of their own."""
    engine.backend.planner._verify = lambda length, width: True  # type: ignore[attr-defined]
    engine.backend.planner._check_causal = lambda length: None  # type: ignore[attr-defined]


def answers(engine: Engine, requests: Sequence[Request] = REQUESTS) -> list[Response]:
    encoded = engine.encode(requests, Encoding())
    found = dict(engine.answer(requests, encoded))
    return [found[i] for i in range(len(requests))]
