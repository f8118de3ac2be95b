"""Kill gates at random moments and repeat them: `python -m benchmarks.gate_kill [--sample]`.

Runs `harness gate` undisturbed, then several times with an empty response cache, each time killed
with signal 9 at a random moment and started again. Shows for each kill how many answers were on
disk, whether all of them were used and none computed again, and whether verdicts, items used and
the reason for stopping equal those of the undisturbed gate.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks.kill_resume import killed, stored
from harness.engine.checkpoint.locate import DEMO, locate
from harness.engine.checkpoint.own.noise import add_noise
from harness.engine.checkpoint.settings import Settings

TASKS = ("lambada", "wikitext2")
NOT_PROVED = ("--score", "lambada:acc-word-stopfilter=paired")  # so that a gate runs for a while
DECIDED = ("task", "protocol", "metric", "status", "items", "of", "evidence")


def harness(*words: object) -> list[str]:
    """The command `harness WORDS`."""
    return [sys.executable, "-m", "harness", *map(str, words)]


def noisy_folder(model: str, share: float, to: Path) -> Path:
    """A copy of a checkpoint with noise in its weights."""
    folder = locate(model, Settings()).folder
    shutil.copytree(folder, to)
    noisy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    add_noise(noisy, share, model)
    noisy.save_pretrained(to)
    return to


def finish(gate: list[str], records: Path) -> tuple[Any, int, float]:
    """Run a gate to its end: what it decided, tokens computed, seconds."""
    begun = time.perf_counter()
    done = subprocess.run(gate, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - begun
    if not done.stdout:
        sys.exit(f"the gate ended with exit code {done.returncode}")
    found = json.loads(done.stdout)
    verdicts = [{key: verdict[key] for key in DECIDED} for verdict in found["verdicts"]]
    written = [json.loads(path.read_text("utf-8")) for path in records.rglob("*.json")]
    computed = sum(value["tokens"]["computed"] for value in written if "tokens" in value)
    return (done.returncode, verdicts), computed, seconds


def main() -> None:
    """Print one line per kill, and fail if a repeated gate decides otherwise or computes twice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--model", default=DEMO)
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--rule", default="proved:5%")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sample", action="store_true", help="the built-in rows")
    options = parser.parse_args()
    if not options.sample and "HARNESS_DATA" not in os.environ:
        parser.error("set HARNESS_DATA to the folder with the original files, or give --sample")
    rows = ["--sample"] if options.sample else []
    rng = random.Random(options.seed)
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        candidate = noisy_folder(options.model, options.noise, root / "candidate")
        run = ("run", *TASKS, "--model", options.model, "--limit", options.limit, *rows)
        baseline = root / "main.toml"
        for command in (
            harness(*run, "--no-cache", "--out", root / "runs"),
            harness(
                "baseline", root / "runs", "--out", baseline, "--rule", options.rule, *NOT_PROVED
            ),
        ):
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

        def gate(folder: Path) -> list[str]:
            places = ("--out", folder / "records", "--cache", folder / "cache")
            of = ("--model", candidate, "--baseline", baseline)
            return harness("gate", *of, *rows, *places, "--json")

        wanted, tokens, whole = finish(gate(root / "whole"), root / "whole" / "records")
        print(f"undisturbed: {whole:.1f} s, {tokens:,} tokens computed, exit {wanted[0]}\n")
        print("| kill | after | answers on disk | all of them taken | computed | same verdicts |")
        print("|--:|--:|--:|---|--:|---|", flush=True)
        for kill in range(1, options.kills + 1):
            folder = root / f"kill{kill}"
            after = rng.uniform(0.2, 0.98) * whole
            killed(gate(folder), after)
            left, hits = stored(folder)
            found, computed, _ = finish(gate(folder), folder / "records")
            taken = stored(folder)[1] - hits >= left
            bad += not (taken and found == wanted)
            print(f"| {kill} | {after:.1f} s | {left:,} | {taken} | {computed:,} of {tokens:,} "
                  f"| {found == wanted} |", flush=True)  # fmt: skip
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
