"""Compare two workers of one thread with one: `python -m benchmarks.workers [--limit 1000]`.

LAMBADA through Ray, each run in its own process, without the response cache. The time is that of
the record, which starts when the workers hold the checkpoint. Needs the extra `cluster`.
"""

import argparse
import json
import statistics
import subprocess
import sys

from benchmarks import common
from harness.engine.checkpoint.locate import DEMO


def measure(model: str, limit: int, workers: int) -> tuple[float, dict[str, float]]:
    """Seconds of a run, and its scores."""
    name = DEMO if model == "demo" else common.random_gpt2()
    words = f"lambada --limit {limit} --workers {workers} --threads 1 --no-cache --json".split()
    command = [sys.executable, "-m", "harness", *words, "--model", name]
    command += ["--data-dir", str(common.data_dir())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    [record] = json.loads(done.stdout)["records"]
    return float(record["seconds"]), {s["metric"]: float(s["value"]) for s in record["scores"]}


def main() -> None:
    """Print both times, their ratio, and by how much the scores differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gpt2", choices=["gpt2", "demo"])
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    print(f"{common.title(options.model)}, {options.limit} passages, {options.rounds} round(s)\n")
    times: dict[int, list[float]] = {1: [], 2: []}
    apart = 0.0
    for _ in range(options.rounds):
        runs = {n: measure(options.model, options.limit, n) for n in times}
        for count, (spent, _) in runs.items():
            times[count].append(spent)
        one, two = runs[1][1], runs[2][1]
        apart = max([apart, *(abs(two[k] - v) / max(abs(v), 1) for k, v in one.items())])
    ratio = statistics.median(b / a for a, b in zip(times[1], times[2], strict=True))
    one_s, two_s = (statistics.median(spent) for spent in times.values())
    print("| one worker s | two workers s | ratio | wanted at most | scores apart |")
    print("|--:|--:|--:|--:|--:|")
    print(f"| {one_s:.1f} | {two_s:.1f} | {ratio:.2f} | 0.62 | {apart:.1e} |")


if __name__ == "__main__":
    main()
