"""Test the gate on a checkpoint with and without noise: `python -m benchmarks.gate_checkpoints`.

The checkpoint itself is the baseline. The candidates are the same weights under another token
budget, which has to pass, and the weights with Gaussian noise of a share of each matrix's standard
deviation, which has to fail.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from harness.engine.checkpoint.locate import locate
from harness.engine.checkpoint.settings import Settings


def run(*words: object) -> int:
    """`harness WORDS`, its output shown; its exit code."""
    print(f"\n$ harness {' '.join(map(str, words))}", flush=True)
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, words)], check=False
    ).returncode


def noisy(folder: Path, to: Path, share: float) -> Path:
    """A copy of a checkpoint whose matrices have noise of this share of their scale."""
    shutil.copytree(folder, to)
    generator = torch.Generator().manual_seed(0)
    for file in to.glob("*.safetensors"):
        weights = load_file(file)
        for name, weight in weights.items():
            if weight.ndim == 2:
                noise = torch.randn(weight.shape, generator=generator)
                weights[name] = weight + share * weight.float().std() * noise
        save_file(weights, file, metadata={"format": "pt"})
    return to


def main() -> None:
    """Fail if the gate is wrong on either."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.03)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder, _ = locate(options.model, Settings())
        changed = noisy(folder, root / "noisy", options.noise)
        table = ("table3", "--limit", options.limit, "--no-cache", "--out")
        run(*table, root / "base", "--model", options.model)
        run(*table, root / "budget", "--model", options.model, "--batch-tokens", 700)
        run(*table, root / "noise", "--model", changed)
        baseline = root / "baseline.toml"
        run("baseline", root / "base", "--out", baseline)
        same = run("check", root / "budget", "--baseline", baseline)
        worse = run("check", root / "noise", "--baseline", baseline)
    print(f"\nother budget: exit {same}, expected 0; with noise: exit {worse}, expected 1")
    sys.exit(0 if (same, worse) == (0, 1) else 1)


if __name__ == "__main__":
    main()
