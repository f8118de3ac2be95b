"""Measure time and memory for growing numbers of examples: `python -m benchmarks.growth`.

LAMBADA on more and more of its passages, each run in its own process and without the response
cache. The time is that of the record, which starts when the checkpoint is loaded.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys

from benchmarks import common
from harness.engine.checkpoint.locate import DEMO

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


def measure(model: str, items: int) -> tuple[float, int]:
    """Seconds of the run, and the peak memory of its process in bytes."""
    name = DEMO if model == "demo" else common.random_gpt2()
    words = ["lambada", "--model", name, "--limit", str(items), "--no-cache", "--json"]
    command = [sys.executable, "-m", "harness", *words, "--data-dir", str(common.data_dir())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * UNIT
    return float(json.loads(done.stdout)["records"][0]["seconds"]), peak


def main() -> None:
    """Print one line per size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2", choices=["gpt2", "demo"])
    parser.add_argument("--items", default="250,1000,4000")
    options = parser.parse_args()
    print(
        "| passages | seconds | per passage, relative to the first | peak |\n|--:|--:|--:|--:|",
        flush=True,
    )
    first: float | None = None
    context = multiprocessing.get_context("spawn")
    for text in options.items.split(","):
        with context.Pool(1) as pool:  # the peak of children is counted by process
            seconds, peak = pool.apply(measure, (options.model, int(text)))
        each = seconds / int(text)
        first = first or each
        print(f"| {text} | {seconds:.1f} | {each / first:.2f} | {peak / 1e9:.2f} GB |", flush=True)


if __name__ == "__main__":
    main()
