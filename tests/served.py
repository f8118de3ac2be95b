"""A model of this process that says that it is behind a server, for several test files."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core import Tokens
from harness.engine.backends.backend import BackendOptions
from harness.engine.backends.in_process import InProcess
from harness.engine.checkpoint.load import Checkpoint
from harness.engine.checkpoint.settings import Identity
from harness.engine.endpoint.settings import EndpointSettings

URL = "http://127.0.0.1:8123/v1"
NAME = f"{URL}#smol"

Calls = list[tuple[EndpointSettings, bool]]


_backends: dict[str, InProcess] = {}  # by checkpoint; each tests itself only once


def _in_process(checkpoint: Checkpoint) -> InProcess:
    """What answers for every server."""
    key = checkpoint.identity.digest
    if key not in _backends:
        _backends[key] = InProcess(checkpoint)
    return _backends[key]


class Served:
    """Answers in this process, with the identity of a model behind a server."""

    def __init__(self, checkpoint: Checkpoint, settings: EndpointSettings) -> None:
        self._inner = _in_process(checkpoint)
        context = min(settings.context or 1024, checkpoint.identity.context - 1)
        self.identity = served_identity(checkpoint, context)
        self.tokenizer = checkpoint.tokenizer
        self.answer, self.estimate = self._inner.answer, self._inner.estimate
        self.is_open = True

    @property
    def tokens(self) -> Tokens:
        """The cost of the answers of all servers."""
        return self._inner.tokens

    @property
    def options(self) -> BackendOptions:
        """Those of a server, as far as records have them."""
        facts = {"self_test": {"verdict": "passed", "spread": 0.0}}
        return self._inner.options._replace(numerics="endpoint:1|server:vllm-0.32.0", facts=facts)

    def close(self) -> None:
        """Note that the connection has ended."""
        self.is_open = False


def served_identity(checkpoint: Checkpoint, context: int = 255) -> Identity:
    """The identity of a checkpoint as that of a model behind vLLM."""
    unknown: Any = "unknown"
    return replace(
        checkpoint.identity,
        name=NAME,
        digest="5e" * 32,
        parameters=unknown,
        dtype="unknown",
        device="unknown",
        threads=unknown,
        context=context,
        endpoint={
            "url": URL.removesuffix("/v1"),
            "server": "vllm",
            "version": "0.32.0",
            "model": "smol",
            "fingerprint": "f1" * 32,
            "tokenizer": "tiny",
        },
    )


def serve(
    monkeypatch: pytest.MonkeyPatch, made: Callable[[EndpointSettings], Served]
) -> tuple[Calls, list[Served]]:
    """Connect to what `made` returns; the settings of all connections, and the connections."""
    calls: Calls = []
    opened: list[Served] = []

    def connect(settings: EndpointSettings, *, store_results: bool) -> Served:
        calls.append((settings, store_results))
        opened.append(made(settings))
        return opened[-1]

    name = "harness.engine.endpoint.connect"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(connect=connect))
    return calls, opened
