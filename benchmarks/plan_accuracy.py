"""Compare `--plan` with the run: `python -m benchmarks.plan_accuracy`.

Each benchmark runs in its own process: first the plan, then the run, on the same rows and without
the response cache. Shows predicted and measured time and peak memory.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from typing import NamedTuple

from benchmarks import common
from harness.data import load as data
from harness.engine.engine import Engine
from harness.plugins.registry import load_task
from harness.runner import Job, prepare
from harness.task import encoding

TASKS = {"lambada": 400, "wikitext2": 300, "ptb": 300, "enwik8": 100, "cbt-cn": 3, "lm1b": 300}
"""Benchmark -> rows, about half a minute each."""
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


class Outcome(NamedTuple):
    """Seconds and bytes, foretold and measured."""

    task: str
    seconds: tuple[float, float]
    peak: tuple[int, int]


def measure(name: str, rows: int, model: str) -> Outcome:
    """Plan and run one benchmark."""
    task = load_task(name)
    protocol = task.protocol()
    where = data.Where(folder=common.data_dir())
    job = Job(task, protocol, data.load(task.source(protocol.options), where), rows)
    engine = Engine(common.checkpoint(model))
    requests = prepare(job).requests
    encoded = engine.encode(requests, encoding(protocol.options))
    plan = engine.estimate(requests, encoded)
    begun = time.perf_counter()
    for _ in engine.answer(requests, encoded):
        pass
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
    return Outcome(name, (plan.seconds, seconds), (plan.peak_bytes, peak))


def main() -> None:
    """Print one line per benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", choices=["gpt2", "demo"])
    parser.add_argument("--only", default=",".join(TASKS))
    options = parser.parse_args()
    print(f"{common.title(options.model)}\n")
    print("| benchmark | rows | seconds planned | taken | off by | peak planned | taken | off by |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    context = multiprocessing.get_context("spawn")
    for name in options.only.split(","):
        with context.Pool(1) as pool:
            found = pool.apply(measure, (name, TASKS[name], options.model))
        (planned, taken), (foretold, peak) = found.seconds, found.peak
        off = f"{planned / taken - 1:+.0%}"
        print(f"| {name} | {TASKS[name]} | {planned:.1f} | {taken:.1f} | {off} "
              f"| {foretold / 1e9:.2f} GB | {peak / 1e9:.2f} GB | {foretold / peak - 1:+.0%} |",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
