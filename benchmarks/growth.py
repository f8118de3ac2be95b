"""Measure time and memory for growing numbers of examples: `python -m benchmarks.growth`.

LAMBADA on more and more of its passages, each run in its own process and without the response
cache. The time is that of the record, which starts when the checkpoint is loaded. With
`--beside PATH`: the peak of a run of every task, here and in another checkout, in turns.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import checkouts, common
from harness.engine.checkpoint.locate import DEMO

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
COMMAND = f"{checkouts.IMPORTS}; import runpy; runpy.run_module('harness', run_name='__main__')"
ROWS = {
    "lambada": 200, "cbt-cn": 3, "wikitext2": 200, "lm1b": 100,
    "coqa": 2, "nq": 30, "wmt14-en-fr": 10, "cnn-dm": 4,
}  # fmt: skip
"""A task of each kind, and how many rows of its file run."""


def measure(
    model: str, task: str, items: int, checkout: Path = checkouts.HERE
) -> tuple[float, int]:
    """Seconds of the run, and the peak memory of its process in bytes."""
    name = DEMO if model == "demo" else common.random_gpt2()
    words = [task, "--model", name, "--limit", str(items), "--no-cache", "--json"]
    command = [sys.executable, "-c", COMMAND, *words, "--data-dir", str(common.data_dir())]
    place = checkouts.environment(checkout)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=checkout, env=place
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * UNIT
    return float(json.loads(done.stdout)["records"][0]["seconds"]), peak


def alone(*arguments: object) -> tuple[float, int]:
    """`measure` in a process of its own: the peak of children is counted by process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, peak = pool.apply(measure, arguments)
        return seconds, peak


def grow(model: str, sizes: list[int]) -> None:
    """Print one row per size."""
    print(
        "| passages | seconds | per passage, relative to the first | peak |\n|--:|--:|--:|--:|",
        flush=True,
    )
    first: float | None = None
    for items in sizes:
        seconds, peak = alone(model, "lambada", items)
        each = seconds / items
        first = first or each
        print(f"| {items} | {seconds:.1f} | {each / first:.2f} | {peak / 1e9:.2f} GB |", flush=True)


def compare(other: Path, model: str, tasks: list[str], rounds: int) -> None:
    """Print one row per task: medians of the peaks."""
    print(f"{rounds} rounds\n\n| task (rows) | peak there | peak here | more |\n|---|--:|--:|--:|")
    for task in tasks:
        rows = ROWS[task]
        pairs = [
            [alone(model, task, rows, tree)[1] for tree in (other, checkouts.HERE)]
            for _ in range(rounds)
        ]
        there, here = (statistics.median(side) / 1e6 for side in zip(*pairs, strict=True))
        cells = [
            f"{task} ({rows})",
            f"{there:,.0f} MB",
            f"{here:,.0f} MB",
            f"{here - there:+,.0f} MB",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2", choices=["gpt2", "demo"])
    parser.add_argument("--items", default="250,1000,4000")
    parser.add_argument("--beside", type=Path, metavar="PATH", help="another checkout")
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.beside:
        tasks = options.only.split(",")
        compare(options.beside.resolve(), options.model, tasks, options.rounds)
    else:
        grow(options.model, [int(text) for text in options.items.split(",")])


if __name__ == "__main__":
    main()
