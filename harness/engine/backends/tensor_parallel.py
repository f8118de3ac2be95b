"""The backend whose processes hold a part of every weight matrix each, and compute together.

This process has no weights. It starts the others, which run `part_of_model`, gives all of them the
same queries, and takes the answers of the first. All compute the same batches, because these are
planned from the queries alone; how far each has got is compared after every batch. If one of them
fails or dies, the others would wait for it, so all are ended.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import connection, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.core import Tokens
from harness.engine.backends.part_of_model import BACKENDS, Message, Part, run_part
from harness.engine.checkpoint.config import read_config
from harness.engine.checkpoint.load import load_tokenizer
from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.own.function import names_function
from harness.engine.checkpoint.placement.device import pick_device
from harness.engine.checkpoint.placement.parts import check_parts
from harness.engine.checkpoint.settings import Settings
from harness.engine.queries.query import Advance, Answer, Query
from harness.engine.tokenizer.tokenizer import Tokenizer
from harness.errors import CheckpointError

if TYPE_CHECKING:
    from harness.engine.backends.cost import Estimate

_SECONDS_TO_END = 5.0  # of a process that has been asked to
# Of the started processes: sets of strings have one order in all of them, libraries write no
# warnings of their own to standard error, and gloo needs no network that knows this machine.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "TORCH_CPP_LOG_LEVEL": "ERROR"}
_LOOPBACK = {"linux": "lo", "darwin": "lo0"}


class TensorParallel:
    """Answers queries with processes that hold a part of a checkpoint each.

    Args:
        name: of the checkpoint.
        settings: how it is loaded; `settings.tensor_parallel` is the number of processes.
        budget: padded tokens per batch.

    Attributes:
        processes: those that hold the parts.

    Raises:
        CheckpointError: the checkpoint cannot be loaded or divided, or there are too few devices.
    """

    def __init__(self, name: str, settings: Settings, *, budget: int | None) -> None:
        self.tokens = Tokens()
        self._count, self._is_answering = settings.tensor_parallel, True
        device_type = _device_type(self._count)
        self.tokenizer = _tokenizer(name, settings)
        threads = settings.threads or max(1, torch.get_num_threads() // self._count)
        self._folder = tempfile.TemporaryDirectory(prefix="harness-parts-")
        meeting = Path(self._folder.name) / "meeting"
        self.processes: list[Any] = []
        self._pipes: list[Any] = []
        try:
            with _environment():
                for rank in range(self._count):
                    part = Part(rank, self._count, device_type, meeting)
                    self._start(part, name, replace(settings, threads=threads), budget)
            loaded = [message.value for message in self._receive()]
        except BaseException:  # also an interruption
            self.close()
            raise
        identity, self.options = loaded[0]
        devices = dict.fromkeys(identity.device for identity, _ in loaded)
        self.identity = replace(identity, device=", ".join(devices))
        self._is_answering = False

    def _start(self, part: Part, *how: Any) -> None:
        """Start the process that holds a part."""
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=run_part, args=(part, theirs, *how), daemon=True)
        process.start()
        theirs.close()  # so that a process that dies closes the pipe
        self.processes.append(process)
        self._pipes.append(ours)

    def close(self) -> None:
        """End the processes; may be called again."""
        pipes, self._pipes = self._pipes, []
        for pipe in () if self._is_answering else pipes:
            with suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join(0 if self._is_answering else _SECONDS_TO_END)
            process.kill()
            process.join()
        for pipe in pipes:
            pipe.close()
        self._folder.cleanup()

    def answer(
        self, queries: Sequence[Query], known: Collection[Query], advance: Advance
    ) -> Iterator[dict[Query, Answer]]:
        """The answers of each batch, as `Backend.answer` describes.

        Raises:
            HarnessError: a process raised it.
            CheckpointError: a process died; the others are ended.
        """
        self._send(tuple(queries), frozenset(known), "answer")
        try:
            while True:
                message = self._receive()[0]
                self.tokens = message.tokens
                if message.kind == "done":
                    self.options, self._is_answering = message.value, False
                    return
                if message.kind == "progress":
                    advance(*message.value)
                else:
                    yield message.value
        finally:
            if self._is_answering:  # whoever asked has stopped, or a process has
                self.close()

    def estimate(self, counts: Mapping[Query, int], known: Collection[Query]) -> "Estimate":
        """As `InProcess.estimate`; memory is that of the first process."""
        self._send(dict(counts), frozenset(known), "estimate")
        try:
            [estimate, *_] = [message.value for message in self._receive()]
            self._is_answering = False
        finally:
            if self._is_answering:
                self.close()
        return estimate  # type: ignore[no-any-return]

    def _send(self, *call: Any) -> None:
        if not self._pipes:
            raise CheckpointError("the processes of --tensor-parallel have been ended")
        self._is_answering = True
        for rank, pipe in enumerate(self._pipes):
            try:
                pipe.send(call)
            except OSError as error:
                self.close()
                raise self._died(rank) from error

    def _receive(self) -> list[Message]:
        """The next message of every process.

        Raises:
            HarnessError: a process raised it.
            CheckpointError: a process died, or they do not compute the same.
        """
        received: dict[int, Message] = {}
        while len(received) < self._count:
            waiting = {pipe: r for r, pipe in enumerate(self._pipes) if r not in received}
            for pipe in connection.wait([*waiting]):
                rank = waiting[pipe]
                message = self._read(rank)
                if message.kind == "failed":
                    self._refuse_if_dead(rank)
                    error, defect = message.value
                    sys.stderr.write(defect)
                    raise error
                if message.kind == "log":
                    name, level, text = message.value
                    logging.getLogger(name).log(level, "%s", text)
                else:
                    received[rank] = message
        if len({(message.kind, message.tokens) for message in received.values()}) > 1:
            raise CheckpointError(
                f"the {self._count} processes of --tensor-parallel no longer compute the same; "
                "report it, and leave out --tensor-parallel"
            )
        return [received[rank] for rank in range(self._count)]

    def _refuse_if_dead(self, failed: int) -> None:
        """Raise a CheckpointError if a process failed because another one died."""
        others = {p.sentinel: r for r, p in enumerate(self.processes) if r != failed}
        for sentinel in connection.wait([*others], _SECONDS_TO_END):
            rank = others[sentinel]
            self.processes[rank].join()
            if self.processes[rank].exitcode:
                raise self._died(rank)

    def _read(self, rank: int) -> Message:
        try:
            return self._pipes[rank].recv()  # type: ignore[no-any-return]
        except (EOFError, OSError) as error:
            raise self._died(rank) from error

    def _died(self, rank: int) -> CheckpointError:
        process = self.processes[rank]
        process.join(_SECONDS_TO_END)
        code = process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        return CheckpointError(
            f"process {rank + 1} of --tensor-parallel {self._count} ended {how}; run the command "
            "again: it goes on from what the response cache has"
        )


def _device_type(count: int) -> str:
    """The kind of device that the parts are on; raises a CheckpointError if there are too few."""
    kind = pick_device(None).type
    if kind not in BACKENDS:
        raise CheckpointError(
            f"--tensor-parallel is not for {kind}; expected {', '.join(BACKENDS)}"
        )
    if kind != "cpu" and (found := torch.accelerator.device_count()) < count:
        raise CheckpointError(
            f"--tensor-parallel {count} needs {count} devices; this machine has {found}"
        )
    return kind


def _tokenizer(name: str, settings: Settings) -> Tokenizer:
    """The tokenizer of a model; refuses a model that processes cannot divide."""
    if names_function(name):
        raise CheckpointError(
            f"model {name!r} is a function, which cannot be divided; leave out --tensor-parallel"
        )
    folder = locate(name, settings).folder
    config = read_config(folder, name, trust_remote_code=settings.trust_remote_code)
    check_parts(config, settings, name)
    return load_tokenizer(folder, name, settings)


@contextmanager
def _environment() -> Iterator[None]:
    """The environment in which processes are started."""
    changed = {**_ENVIRONMENT}
    if sys.platform in _LOOPBACK:
        changed["GLOO_SOCKET_IFNAME"] = _LOOPBACK[sys.platform]
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
