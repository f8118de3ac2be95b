"""The parts in the order of their importance, and how each runs within its time.

A part runs in a process of its own, so that one that hangs, crashes or breaks the device costs its
own time and no more. It hands over row by row, and what it has found so far counts.
"""

import json
import multiprocessing
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.accelerator import checkout, memory, parity, speed, trees, waits
from benchmarks.accelerator.page import Result
from benchmarks.accelerator.setting import Rows, Setting
from harness.errors import short_reason


class Part(NamedTuple):
    """One part."""

    name: str
    title: str
    seconds: int  # that it may take
    run: Callable[[Setting], Rows]


PARTS = (
    Part("parity", "every task against float32 on the CPU", 130, parity.parity),
    Part("memory", "running out of memory", 60, memory.out_of_memory),
    Part("waits", "how often the host waits for the device", 40, waits.waits),
    Part("gpt2", "the work of Table 3 with GPT-2 of 124M", 100, speed.table3_124m),
    Part("trees", "dense tree masks and FlexAttention", 70, trees.trees),
    Part("gpt2-xl", "the work of Table 3 with GPT-2 of 1.5B", 60, speed.table3_1500m),
    Part("compile", "running text with and without --compile", 50, speed.compiled),
    Part("budgets", "batches of other sizes", 20, speed.budgets),
)
SECONDS = sum(part.seconds for part in PARTS)
START = "spawn"  # of processes: CUDA does not survive a fork
_POLL = 0.1  # seconds


def run_part(part: Part, setting: Setting, seconds: float, file: Path) -> Result:
    """Run a part in a process of its own for at most `seconds`.

    `file` is where the process writes its rows, one JSON value a line.
    """
    result = Result(part.name, part.title, "out of time")
    begun = time.monotonic()
    process = multiprocessing.get_context(START).Process(
        target=_child, args=(part.name, setting, file), daemon=True
    )
    process.start()
    while process.is_alive() and time.monotonic() - begun < seconds:
        process.join(_POLL)
    stopped = process.is_alive()
    if stopped:
        process.kill()
    process.join()
    result.seconds = time.monotonic() - begun
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        entry = json.loads(line)
        if "state" in entry:
            result.state = entry["state"]
        else:
            result.rows.append(entry)
    if not stopped and result.state == "out of time":
        result.state = f"failed: its process ended with code {process.exitcode}"
    return result


def _child(name: str, setting: Setting, file: Path) -> None:
    """Write the rows of a part, and how it ended."""
    checkout.prepare()
    index = torch.device(setting.device).index
    if index is not None:
        torch.accelerator.set_device_index(index)
    part = next(part for part in PARTS if part.name == name)
    with file.open("w", encoding="utf-8") as out:

        def say(entry: dict[str, Any]) -> None:
            out.write(json.dumps(entry) + "\n")
            out.flush()

        try:
            for row in part.run(setting):
                say(row)
        except Exception as error:  # the other parts go on
            traceback.print_exc()
            say({"state": f"failed: {type(error).__name__}: {short_reason(error)}"})
            return
        say({"state": "done"})
