"""Time the gate on real checkpoints: `python -m benchmarks.gate_checkpoints [--limit 100]`.

The demo model is the baseline, and its own candidate: with other batches, and with noise of several
sizes in its weights. For each candidate the table has seconds and items until the verdict beside
those of the whole run. Fails unless the same weights are fine, and noise of 3 % is refused in less
than a third of the time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.engine.checkpoint.locate import DEMO


class Benchmark(NamedTuple):
    """What is run of a task, and the loss of each score that counts."""

    rows: float  # as a share of --limit
    rules: dict[str, str]  # by metric


BENCHMARKS = {
    "lambada": Benchmark(1, {"ppl": "proved:8%", "acc-word-stopfilter": "proved:5"}),
    "wikitext2": Benchmark(1, {"ppl": "proved:5%"}),
    "ptb": Benchmark(1, {"ppl": "proved:5%"}),
    "cbt-cn": Benchmark(1, {"acc": "report"}),  # the slice has three questions
    "coqa": Benchmark(0.15, {"f1": "proved:10"}),  # a row is a story of some 15 questions
}
REFUSED, IN = 0.03, 1 / 3  # noise that must be refused, in less than this share of the whole run


def harness(*words: object) -> tuple[int, str]:
    """Exit code and standard output of `harness WORDS`."""
    print(f"$ harness {' '.join(map(str, words))}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "harness", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout


def whole_run(tasks: Sequence[str], limit: int, common: Sequence[str], folder: Path) -> float:
    """Seconds of all benchmarks from beginning to end; their records are below the folder."""
    seconds = 0.0
    for share in {BENCHMARKS[task].rows for task in tasks}:
        names = [task for task in tasks if BENCHMARKS[task].rows == share]
        rows = ("--limit", max(1, round(share * limit)), "--no-cache")
        code, out = harness("run", *names, *common, *rows, "--out", folder, "--json")
        if code:
            sys.exit(code)
        seconds += sum(record["seconds"] for record in json.loads(out)["records"])
    return seconds


def show(candidates: list[dict[str, Any]], whole: float) -> None:
    """One line per candidate, then one per score of each."""
    print(f"whole run: {whole:.0f} s\n")
    print("| candidate | exit | seconds | of the whole run | items | of all items |")
    print("|---|--:|--:|--:|--:|--:|")
    for found in candidates:
        print(f"| {found['candidate']} | {found['exit']} | {found['seconds']:.0f} "
              f"| {found['seconds'] / whole:.0%} | {found['used']:,} of {found['of']:,} "
              f"| {found['used'] / found['of']:.0%} |")  # fmt: skip
    print("\n| candidate | task | score | verdict | items | evidence |")
    print("|---|---|---|---|--:|---|")
    for found in candidates:
        for verdict in found["verdicts"]:
            print(f"| {found['candidate']} | {verdict['task']} | {verdict['metric']} "
                  f"| {verdict['status']} | {verdict['items']} of {verdict['of']} "
                  f"| {verdict['evidence']} |")  # fmt: skip


def main() -> None:
    """Print both tables, and fail if the gate is wrong or slow."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--limit", type=int, default=100, help="rows of most benchmarks")
    parser.add_argument("--noise", default="1%,2%,3%,5%")
    parser.add_argument("--only", default=",".join(BENCHMARKS))
    parser.add_argument("--batch-tokens", type=int, default=1024, help="of the gates")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    tasks = options.only.split(",")
    common = ["--model", options.model, "--threads", str(options.threads)]
    common += [] if "HARNESS_DATA" in os.environ else ["--sample"]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        whole = whole_run(tasks, options.limit, common, root / "records")
        rules = [
            word
            for task in tasks
            for metric, rule in BENCHMARKS[task].rules.items()
            for word in ("--score", f"{task}:{metric}={rule}")
        ]
        baseline = root / "baseline.toml"
        code, _ = harness("baseline", root / "records", "--out", baseline, *rules)
        if code:
            sys.exit(code)
        test = ["--self-test", "--noise", options.noise, "--fail-fast", "--json"]
        test += ["--batch-tokens", str(options.batch_tokens)]
        code, out = harness("gate", *common, "--baseline", baseline, *test)
    if not out:
        sys.exit(code)
    candidates = json.loads(out)["candidates"]
    show(candidates, whole)
    same = [found for found in candidates if not found["noise"]]
    fine = all(v["status"] in ("fine", "reported") for found in same for v in found["verdicts"])
    refused = [found for found in candidates if found["noise"] == REFUSED]
    quick = all(found["exit"] == 1 and found["seconds"] < IN * whole for found in refused)
    print(f"\nsame weights fine: {fine}; noise of 3 % refused in a third of the time: {quick}")
    sys.exit(0 if fine and quick else 1)


if __name__ == "__main__":
    main()
