"""The whole suite: `python -m benchmarks` runs every script, and keeps what they print.

The result is docs/performance.md: a section a script, with date, machine and versions. Quiet
machines only: every script compares both sides in turn, but two scripts at once disturb each other.
"""

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

SUITE = {
    "lm_eval_speed": "Scoring, beside lm-eval",
    "generate_speed": "Generation, beside lm-eval",
    "growth": "Growth",
    "plan_accuracy": "Plans and runs",
    "stats_speed": "Statistics",
}
"""Script -> what it shows."""


def machine() -> str:
    """Processor, cores and versions, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "numpy"))
    return f"{name}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


def section(script: str, title: str) -> str:
    """A script's title, its command and what it printed."""
    print(f"running benchmarks.{script}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"benchmarks.{script}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    failed = f"\n\nexit code {done.returncode}" if done.returncode else ""
    return f"## {title}\n\n`python -m benchmarks.{script}`\n\n{done.stdout.strip()}{failed}\n"


def main() -> None:
    """Run the scripts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(SUITE))
    parser.add_argument("--out", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args()
    parts = [section(script, SUITE[script]) for script in options.only.split(",")]
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    head = f"# Performance\n\nMeasured {date} on {machine()}.\n"
    options.out.write_text("\n".join([head, *parts]), "utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
