"""A process that holds a part of every weight matrix of a checkpoint; see `tensor_parallel`.

It loads its part, and answers what it is told to through a pipe until the pipe is closed. Messages
are the same from all processes, apart from what only the first one needs to send.
"""

import logging
import os
import shutil
import signal
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.core import Tokens
from harness.engine.backends.in_process import InProcess
from harness.engine.checkpoint.load import load
from harness.engine.checkpoint.settings import Settings
from harness.engine.queries.query import Query
from harness.errors import CheckpointError, HarnessError, in_one_line

BACKENDS = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}  # of torch.distributed, by kind of device
_PATIENCE = timedelta(minutes=30)  # of a process that waits for the others, such as while they load


@dataclass(frozen=True, slots=True)
class Part:
    """Which part of a model a process holds."""

    rank: int  # from 0
    count: int  # of the processes
    device_type: str
    meeting: Path  # file through which they find each other

    @property
    def device(self) -> str:
        """The device of this process."""
        return "cpu" if self.device_type == "cpu" else f"{self.device_type}:{self.rank}"


class Message(NamedTuple):
    """What a process tells the command."""

    kind: str  # ready, progress, answers, estimate, done, log or failed
    value: Any = None  # of `failed`: the error, and the traceback if it is a defect
    tokens: Tokens = Tokens()  # the cost so far, which is the same in all processes


def run_part(part: Part, pipe: Any, name: str, settings: Settings, budget: int | None) -> None:
    """Load a part of a checkpoint, and answer until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends this process
    with suppress(OSError):  # closed by the caller
        os.dup2(2, 1)  # standard output is for results
    try:
        _join(part)
        _log_to(pipe if part.rank == 0 else None)
        backend = InProcess(load(name, replace(settings, device=part.device)), budget=budget)
        pipe.send(Message("ready", (backend.identity, backend.options)))
        while (call := pipe.recv()) is not None:
            _answer(backend, pipe, part, *call)
        torch.distributed.destroy_process_group()
    except (EOFError, BrokenPipeError):  # the command is gone, and has left its folder behind
        shutil.rmtree(part.meeting.parent, ignore_errors=True)
    except HarnessError as error:
        pipe.send(Message("failed", (error, "")))
    except Exception as error:
        where = f"process {part.rank + 1} of --tensor-parallel {part.count}"
        failed = CheckpointError(f"{where} failed: {in_one_line(error)}")
        pipe.send(Message("failed", (failed, traceback.format_exc())))


def _join(part: Part) -> None:
    """Meet the other processes; transformers reads the same facts from the environment."""
    facts = {"RANK": part.rank, "LOCAL_RANK": part.rank, "WORLD_SIZE": part.count}
    os.environ.update({key: str(value) for key, value in facts.items()})
    if part.device_type != "cpu":
        torch.accelerator.set_device_index(part.rank)
    torch.distributed.init_process_group(
        BACKENDS[part.device_type],
        init_method=part.meeting.as_uri(),
        rank=part.rank,
        world_size=part.count,
        timeout=_PATIENCE,
        device_id=torch.device(part.device) if part.device_type == "cuda" else None,
    )


def _answer(
    backend: InProcess, pipe: Any, part: Part, queries: Any, known: Collection[Query], kind: str
) -> None:
    """Answer queries, or estimate what they cost."""
    first = part.rank == 0
    if kind == "estimate":
        counts: Mapping[Query, int] = queries
        pipe.send(Message("estimate", backend.estimate(counts, known), backend.tokens))
        return

    def advance(done: int, total: int) -> None:
        pipe.send(Message("progress", (done, total), backend.tokens))

    asked: Sequence[Query] = queries
    for answers in backend.answer(asked, known, advance):
        pipe.send(Message("answers", answers if first else None, backend.tokens))
    pipe.send(Message("done", backend.options, backend.tokens))


class _Sending(logging.Handler):
    """Sends log records to the command, which shows them."""

    def __init__(self, pipe: Any) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        self._pipe.send(Message("log", (record.name, record.levelno, record.getMessage())))


def _log_to(pipe: Any) -> None:
    """Let only the first process log, through its pipe."""
    logging.getLogger("harness").addHandler(_Sending(pipe) if pipe else logging.NullHandler())
    logging.getLogger("harness").propagate = False
