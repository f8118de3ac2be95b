"""Kill runs at random moments and resume them: `python -m benchmarks.kill_resume`.

Runs `harness table3` undisturbed, then several times with an empty response cache, each time
killed with signal 9 at a random moment and started again. Shows for each kill how many answers
were on disk, whether all of them were used and none computed again, and whether all scores equal
those of the undisturbed run, bit by bit.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.engine.cache.store import Store

Scores = dict[tuple[str, str], tuple[Any, ...]]


def command(options: argparse.Namespace, folder: Path) -> list[str]:
    """`harness table3` with a store and an output folder of its own."""
    run = [sys.executable, "-m", "harness", "table3", "--model", options.model, "--json"]
    run += ["--limit", str(options.limit), "--cache", str(folder / "cache")]
    return [*run, "--out", str(folder / "records"), *(["--sample"] if options.sample else [])]


def finish(run: list[str]) -> tuple[Scores, dict[str, int], float]:
    """Scores, summed tokens and seconds of an undisturbed run."""
    begun = time.perf_counter()
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begun
    records = json.loads(done.stdout)["records"]
    scores = {
        (record["task"], score["metric"]): (score["value"], score["low"], score["high"])
        for record in records
        for score in record["scores"]
    }
    kinds = ("asked", "computed", "cached")
    return scores, {k: sum(r["tokens"][k] for r in records) for k in kinds}, seconds


def killed(run: list[str], after: float) -> None:
    """Start a run and kill it after `after` seconds."""
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()


def stored(folder: Path) -> tuple[int, int]:
    """How many answers a store has, and how often one was taken."""
    store = Store(folder / "cache")
    holdings = store.entries()
    store.close()
    return sum(h.answers for h in holdings), sum(h.hits for h in holdings)


def main() -> None:
    """Print one line per kill, and fail if a resumed run gives other scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", action="store_true", help="the built-in rows")
    options = parser.parse_args()
    if not options.sample and "HARNESS_DATA" not in os.environ:
        parser.error("set HARNESS_DATA to the folder with the original files, or give --sample")
    rng = random.Random(options.seed)
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        wanted, tokens, whole = finish(command(options, root / "whole"))
        _, again, rerun = finish(command(options, root / "whole"))
        print(f"undisturbed: {whole:.1f} s, {tokens['computed']:,} tokens computed; again: "
              f"{rerun:.1f} s, {again['computed']:,} computed, {again['cached']:,} of "
              f"{again['asked']:,} asked from disk\n")  # fmt: skip
        print("| kill | after | answers on disk | all of them taken | computed | scores equal |")
        print("|--:|--:|--:|---|--:|---|", flush=True)
        for kill in range(1, options.kills + 1):
            folder = root / f"kill{kill}"
            after = rng.uniform(0.05, 0.98) * whole
            killed(command(options, folder), after)
            left, hits = stored(folder)
            scores, cost, _ = finish(command(options, folder))
            taken = stored(folder)[1] - hits >= left
            equal = scores == wanted
            bad += not (taken and equal)
            print(f"| {kill} | {after:.1f} s | {left:,} | {taken} | {cost['computed']:,} of "
                  f"{tokens['computed']:,} | {equal} |", flush=True)  # fmt: skip
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
