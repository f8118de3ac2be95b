"""Scores as event files of TensorBoard, each at its training step.

`torch.utils.tensorboard` writes through the same classes of the package `tensorboard`.
"""

import math
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from harness.errors import UsageError
from harness.files.output import cannot_write

SUFFIX = ".harness"  # of our event files


class Point(NamedTuple):
    """One score at one training step."""

    tag: str
    step: int
    value: float
    time: float  # s since the epoch


def check_tensorboard() -> None:
    """Refuse to start without the package."""
    if find_spec("tensorboard") is None:
        raise UsageError(
            "--tensorboard needs the package tensorboard; pip install "
            "'zero-shot-harness[tensorboard]'"
        )


def add(folder: Path, points: Iterable[Point]) -> int:
    """Write the points that our event files in a folder lack; return how many there were.

    Raises:
        RecordError: the folder cannot be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    try:
        written = set(_written(folder))
        new = [p for p in points if (p.tag, p.step, _float32(p.value)) not in written]
        if not new:
            return 0
        with closing(EventFileWriter(os.fspath(folder), filename_suffix=SUFFIX)) as writer:
            for point in new:
                summary = Summary(value=[Summary.Value(tag=point.tag, simple_value=point.value)])
                writer.add_event(Event(wall_time=point.time, step=point.step, summary=summary))
    except OSError as error:
        raise cannot_write(folder, error) from error
    return len(new)


def _written(folder: Path) -> Iterator[tuple[str, int, float]]:
    """(tag, step, value) of every point in our event files, up to where one is cut short."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    for path in sorted(folder.glob(f"events.out.tfevents.*{SUFFIX}")):
        for event in LegacyEventFileLoader(os.fspath(path)).Load():
            for value in event.summary.value:
                yield value.tag, event.step, value.simple_value


def _float32(value: float) -> float:
    """A number as an event file holds it."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)
