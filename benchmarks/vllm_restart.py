"""Kill vLLM with signal 9 in the middle of runs, start it again, and compare the scores.

    python -m benchmarks.vllm_restart [--env DIR] [--task lambada] [--limit 60] [--kills 2]

Needs HARNESS_DATA. Each run has an empty response cache. Shows the seconds of each run, and how far
its scores are from those of the undisturbed run.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from typing import Any

from benchmarks import common, vllm_server


def start(url: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a run."""
    command = [sys.executable, "-m", "harness", options.task, "--limit", str(options.limit)]
    command += ["--model", url, "--data-dir", str(common.data_dir()), "--no-cache", "--json"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, float], str]:
    """Scores of a run, and its notes."""
    out, notes = process.communicate()
    if process.returncode:
        sys.exit(f"the run failed with exit code {process.returncode}: {notes}")
    [record] = json.loads(out)["records"]
    return {score["metric"]: float(score["value"]) for score in record["scores"]}, notes


def main() -> None:
    """Print one row per kill, and fail if a score moved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    vllm_server.add_options(parser)
    parser.add_argument("--task", default="lambada")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    setup = vllm_server.demo_setup(options)
    server = vllm_server.Server(setup)
    worst = 0.0
    try:
        begun = time.monotonic()
        wanted, _ = finish(start(setup.url, options))
        whole = time.monotonic() - begun
        print(f"undisturbed: {whole:.1f} s, {wanted}\n")
        print("| kill after | seconds of the run | scores apart | note |\n|--:|--:|--:|---|")
        for _ in range(options.kills):
            after = rng.uniform(0.4, 0.9) * whole
            begun = time.monotonic()
            run = start(setup.url, options)
            time.sleep(after)
            running: Any = run.poll() is None
            server.kill()
            server = vllm_server.Server(setup)
            scores, notes = finish(run)
            apart = max(abs(scores[name] - value) for name, value in wanted.items())
            worst = max(worst, apart)
            seconds = time.monotonic() - begun
            note = next((line for line in notes.splitlines() if "trying again" in line), "")
            print(f"| {after:.1f} s{'' if running else ', after its end'} | {seconds:.1f} "
                  f"| {apart:.1e} | {note} |", flush=True)  # fmt: skip
    finally:
        server.stop()
    sys.exit(1 if worst > 1e-4 else 0)


if __name__ == "__main__":
    main()
