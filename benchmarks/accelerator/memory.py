"""Run out of memory on purpose: batches are halved, scores stay; one row too many is one line.

CUDA is given a limit. Other devices have none, so that passes of too many tokens are refused there
with the same error, and the table says that it was simulated.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.accelerator import models, work
from benchmarks.accelerator.parity import compare
from benchmarks.accelerator.setting import TOLERANCE, Row, Rows, Setting
from harness.core import Response
from harness.engine.engine import Engine
from harness.errors import CheckpointError

_SHARES = {"a half": 1 / 2, "a third": 1 / 3}  # of the memory that the largest batch takes
_BUDGET = 16384  # padded tokens per batch, on a CPU too


def out_of_memory(setting: Setting) -> Rows:
    """Each kind of work with a half and a third of the memory that it takes, and with none."""
    model = setting.gpt2()
    for done in work.table3(256 if setting.small else 16):
        expected, needed = _measured(setting, model, done)
        for name, share in _SHARES.items():
            yield _row(setting, model, done, (name, int(needed * share)), expected)
    yield _row(setting, model, done, ("none", 1), None)


def _row(
    setting: Setting,
    model: Any,
    done: work.Work,
    limit: tuple[str, int],
    expected: Sequence[Response] | None,
) -> Row:
    """One run within a limit; without expected responses it must be refused in one line."""
    engine = Engine(models.checkpoint(model), budget=_BUDGET)
    name, amount = limit
    amounts = f"{amount / 1e6:,.0f} MB" if setting.on_cuda else f"{amount:,} tokens, simulated"
    row: Row = {"work": done.name, "memory": f"{name}: {amounts}"}
    says = ""
    with _limited(setting, engine, amount), _noted() as warnings:
        try:
            responses = work.run(engine, done)
        except CheckpointError as error:
            says = str(error)
    row["halved"] = sum(line.startswith("out of memory") for line in warnings)
    row["says"] = says or "; ".join(w for w in warnings if not w.startswith("out of memory"))
    if expected is None:
        return {**row, "right": says.startswith("out of memory on a single") and "\n" not in says}
    if says:
        return {**row, "right": False}
    found = compare(expected, responses)
    largest = max(found.nats, default=0.0)
    right = largest <= TOLERANCE and found.other == found.ties and row["halved"] > 0
    return {**row, "largest nats": largest, "right": right}


def _measured(setting: Setting, model: Any, done: work.Work) -> tuple[list[Response], int]:
    """The responses without a limit, and how much the run needs: bytes, or tokens of a pass."""
    engine = Engine(models.checkpoint(model), budget=_BUDGET)
    if not setting.on_cuda:
        with watched_passes(engine) as sizes:
            responses = work.run(engine, done)
        return responses, max(sizes)
    setting.free()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    responses = work.run(engine, done)
    return responses, torch.cuda.max_memory_allocated() - before


@contextmanager
def _limited(setting: Setting, engine: Engine, amount: int) -> Iterator[None]:
    """Let a run use no more memory than this, besides what is in use."""
    if not setting.on_cuda:

        def refuse(tokens: int) -> None:
            if tokens > amount:
                raise torch.OutOfMemoryError(f"out of memory: {tokens} tokens (simulated)")

        with watched_passes(engine, refuse):
            yield
        return
    setting.free()
    total = torch.cuda.get_device_properties(torch.device(setting.device)).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + amount) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        setting.free()


@contextmanager
def watched_passes(
    engine: Engine, see: Callable[[int], None] = lambda tokens: None
) -> Iterator[list[int]]:
    """Collect the tokens of every pass, after showing them to `see`."""
    forward: Any = engine.backend.forward  # type: ignore[attr-defined]
    real = forward.trunk
    sizes: list[int] = []

    def watched(ids: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        see(ids.numel())
        sizes.append(ids.numel())
        states: torch.Tensor = real(ids, *args, **more)
        return states

    forward.trunk = watched
    try:
        yield sizes
    finally:
        del forward.trunk


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Collect the warnings of the engine."""
    found: list[str] = []
    handler, log = logging.Handler(logging.WARNING), logging.getLogger("harness")
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
