"""Every task on the device against the CPU: largest differences in nats, other words and texts."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.accelerator import models, work
from benchmarks.accelerator.setting import TOLERANCE, Row, Rows, Setting
from harness.core import Generated, Response, Rolled, Scored, Word
from harness.engine.engine import Engine

_TIE = 1e-3  # nats between two tokens: either may be chosen
_NEW_TOKENS = 12


@dataclass
class Differences:
    """How two lists of responses differ.

    An item is a request; of running and of written text, a token.
    """

    nats: list[float] = field(default_factory=list)
    flips: int = 0  # scored texts that are greedy in one list only
    other: int = 0  # other words or texts, ties not counted
    ties: int = 0

    def row(self, judged: bool) -> Row:
        """The columns of the table."""
        nats = np.array(self.nats or [0.0])
        row: Row = {
            "items": len(self.nats),
            "mean nats": float(nats.mean()),
            "99 %": float(np.quantile(nats, 0.99)),
            "largest": float(nats.max()),
            "greedy flips": self.flips,
            "other words or texts": self.other,
            "of them ties": self.ties,
        }
        if judged:
            row["right"] = row["largest"] <= TOLERANCE and self.other == self.ties
        return row

    def add(self, one: Response, two: Response) -> None:
        """Compare two responses to one request."""
        if isinstance(one, Scored) and isinstance(two, Scored):
            self.nats.append(abs(one.logprob - two.logprob))
            self.flips += all(one.greedy) != all(two.greedy)
        elif isinstance(one, Rolled) and isinstance(two, Rolled):
            pieces = zip(one.pieces, two.pieces, strict=True)
            self._add_tokens([(a.logprobs, b.logprobs) for a, b in pieces])
        elif isinstance(one, Word) and isinstance(two, Word):
            self.other += one.text != two.text
        elif isinstance(one, Generated) and isinstance(two, Generated):
            self._add_texts(one, two)
        else:
            raise AssertionError(f"{type(one).__name__} and {type(two).__name__}")

    def _add_texts(self, one: Generated, two: Generated) -> None:
        shorter = min(len(one.tokens), len(two.tokens))
        pairs = zip(one.tokens, two.tokens, strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
        self._add_tokens([(one.logprobs[:same], two.logprobs[:same])])
        if one.tokens == two.tokens:
            return
        self.other += 1
        if same < shorter:  # else one of them has ended, and nothing is known of that token
            self.ties += abs(one.logprobs[same] - two.logprobs[same]) <= _TIE

    def _add_tokens(self, pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> None:
        for a, b in pairs:
            self.nats += np.abs(np.subtract(a, b)).tolist()


def compare(one: Sequence[Response], two: Sequence[Response]) -> Differences:
    """How responses to the same requests differ."""
    found = Differences()
    for a, b in zip(one, two, strict=True):
        found.add(a, b)
    return found


def parity(setting: Setting) -> Rows:
    """Every task in float32, then in bfloat16, against float32 on the CPU."""
    works = work.samples(2 if setting.small else 8, _NEW_TOKENS)
    expected: dict[str, list[list[Response]]] = {}
    for name, on_cpu in setting.on_cpu().items():
        engine = Engine(models.checkpoint(on_cpu))
        there = _there(setting, on_cpu, torch.float32)
        for done in works:
            expected.setdefault(name, []).append(work.run(engine, done))
            found = compare(expected[name][-1], work.run(there, done))
            yield {"model": name, "format": "float32", "task": done.name, **found.row(True)}
    on_cpu = setting.on_cpu()["GPT-2"]
    for kind, changed in _half_formats(setting).items():
        there = _there(setting, on_cpu, torch.bfloat16)
        with changed(there):
            for done, wanted in zip(works, expected["GPT-2"], strict=True):
                found = compare(wanted, work.run(there, done))
                yield {"model": "GPT-2", "format": kind, "task": done.name, **found.row(False)}


def _there(setting: Setting, model: Any, dtype: torch.dtype) -> Engine:
    """An engine with a copy of a model on the device."""
    return Engine(models.checkpoint(copy.deepcopy(model).to(setting.device, dtype)))


Change = Callable[[Engine], Any]


def _half_formats(setting: Setting) -> dict[str, Change]:
    """bfloat16 as it is, and on CUDA with sums and logits in float32."""
    formats: dict[str, Change] = {"bfloat16": _unchanged}
    if setting.on_cuda:
        formats["bfloat16, sums in float32"] = _full_sums
        formats["bfloat16, logits in float32"] = _full_logits
    return formats


@contextmanager
def _unchanged(engine: Engine) -> Iterator[None]:
    yield


@contextmanager
def _full_sums(engine: Engine) -> Iterator[None]:
    """Parts of a long sum are added in float32 instead of bfloat16."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before


@contextmanager
def _full_logits(engine: Engine) -> Iterator[None]:
    """The head's products of bfloat16 are written as float32."""
    forward: Any = engine.backend.forward  # type: ignore[attr-defined]
    weight = forward.model.get_output_embeddings().weight
    product: Any = torch.mm  # `out_dtype` is for CUDA alone
    forward.product = lambda states: product(states, weight.t(), out_dtype=torch.float32)
    yield
