"""Our time on the same work in two checkouts, in turns: `python -m benchmarks.speed --beside PATH`.

Each checkout runs in a process of its own that loads the checkpoint once and answers through that
checkout's own `benchmarks.speed`, so that older ones take part as they are.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import common

HERE = Path(__file__).parents[1]
# Packages such as `harness.tasks` lie beside `harness`, and an installation knows where; without
# this it would add its own to another checkout's.
IMPORTS = "import os, harness; harness.__path__.append(os.getcwd())"
_WORKER = (
    f"{IMPORTS}\n"
    + """
import sys
import torch
from benchmarks import common, speed
from harness.engine.engine import Engine

torch.set_num_threads(speed.THREADS)
checkpoint = common.checkpoint(sys.argv[1])
engine, works = Engine(checkpoint), {}
for line in sys.stdin:
    name = line.strip()
    if name not in works:
        works[name] = speed.work(name, checkpoint, engine)
        speed.run(engine, works[name])  # the first run is slower
    spent = common.seconds(lambda: speed.run(engine, works[name]))
    print("seconds", spent, len(works[name].asked), flush=True)
"""
)


class Timed(NamedTuple):
    """One run."""

    seconds: float
    requests: int


class Checkout:
    """A checkout whose `benchmarks.speed` answers in a process of its own."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, model],
            cwd=folder,  # where Python looks for modules first
            env=environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, work: str) -> Timed:
        """Time one run of a work; before the first, one that counts for nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{work}\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("seconds "):
                _, spent, requests = line.split()
                return Timed(float(spent), int(requests))
        raise RuntimeError(f"{self.folder} ended during {work}, exit code {self._process.wait()}")

    def stop(self) -> None:
        """End its process."""
        self._process.communicate()


def environment(folder: Path) -> dict[str, str]:
    """Environment variables under which Python imports a checkout's modules."""
    return {**os.environ, "PYTHONPATH": str(folder)}


@contextmanager
def running(folder: Path, model: str) -> Iterator[Checkout]:
    """A checkout whose process ends with the block."""
    checkout = Checkout(folder, model)
    try:
        yield checkout
    finally:
        checkout.stop()


def compare(other: Path, model: str, works: Sequence[str], rounds: int) -> None:
    """Print one row per work: medians, and the median, smallest and largest paired ratio."""
    print(f"{rounds} rounds\n")
    print("| work (requests) | there s | here s | there / here |\n|---|--:|--:|--:|", flush=True)
    with ExitStack() as stack:
        there, here = (stack.enter_context(running(tree, model)) for tree in (other, HERE))
        for work in works:
            pairs = [(there.run(work), here.run(work)) for _ in range(rounds)]
            if any(one.requests != two.requests for one, two in pairs):
                sys.exit(f"{other} asks other requests of {work}; expected the same")
            ratios = [one.seconds / two.seconds for one, two in pairs]
            sides = zip(*pairs, strict=True)
            cells = [
                f"{work} ({pairs[0][0].requests})",
                *(f"{statistics.median(run.seconds for run in side):.2f}" for side in sides),
                common.ratio_cell(ratios, 2),
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
