"""How often the host waits for the device in a pass, and where in the code.

A wait ends the overlap of Python with the device's work. CUDA reports each. Elsewhere only those
operators can be counted that read a number of a tensor, which is a wait on any accelerator.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.accelerator import models, work
from benchmarks.accelerator.memory import watched_passes
from benchmarks.accelerator.setting import Rows, Setting
from harness.engine.engine import Engine

_READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")
_MESSAGE = "synchronizing CUDA operation"
_PLACES = 4  # shown of a kind of work


class Reads(TorchDispatchMode):
    """Counts operators whose result the host reads."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operator, and count it if it is one of these."""
        self.count += function._schema.name.removeprefix("aten::") in _READS
        return function(*args, **(kwargs or {}))


def waits(setting: Setting) -> Rows:
    """Waits per pass of each kind of work, after a first run that tests the model."""
    engine = Engine(models.checkpoint(setting.gpt2()))
    for done in work.table3(256 if setting.small else 16):
        work.run(engine, done)
        with watched_passes(engine) as sizes, _cuda_waits(setting) as places:
            work.run(engine, done)
        passes = len(sizes)
        with Reads() as reads:
            work.run(engine, done)
        yield {
            "work": done.name,
            "passes": passes,
            "reads of numbers a pass": reads.count / passes,
            "waits a pass": places.total() / passes if setting.on_cuda else "not seen: no CUDA",
            "where": "; ".join(f"{place} ({n})" for place, n in places.most_common(_PLACES)),
        }


@contextmanager
def _cuda_waits(setting: Setting) -> Iterator[Counter[str]]:
    """Count where the host waits for CUDA, as `file:line`."""
    places: Counter[str] = Counter()
    if not setting.on_cuda:
        yield places
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
            for warning in seen:
                if _MESSAGE in str(warning.message):
                    places[f"{Path(warning.filename).name}:{warning.lineno}"] += 1
