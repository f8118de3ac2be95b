"""Run the benchmark suite and write docs/performance.md: `python -m benchmarks`.

The page has one section per part, with its command and date. `--only` runs some parts again and
keeps the other sections. Use a quiet machine: the sides of a part take turns, but two parts at
once disturb each other.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple


class Part(NamedTuple):
    """One section of the page."""

    title: str
    command: str  # after `python -m benchmarks.`


SUITE = {
    "scoring": Part(
        "Scoring, GPT-2", "speed --model gpt2 --only lambada,choices,wikitext --rounds 3"
    ),
    "writing": Part("Writing, GPT-2", "speed --model gpt2 --only coqa,nq,wmt,cnn --rounds 3"),
    "demo-scoring": Part(
        "Scoring, demo model", "speed --model demo --only lambada,choices,wikitext --rounds 3"
    ),
    "demo-writing": Part(
        "Writing, demo model", "speed --model demo --only coqa,nq,wmt,cnn --rounds 3"
    ),
    "bfloat16": Part("bfloat16 beside float32, GPT-2", "bfloat16 --model gpt2 --rounds 3"),
    "windows": Part("Shared prefixes past attention windows", "windows"),
    "states": Part("Copied states", "states"),
    "server": Part("vLLM beside us, demo model", "speed --server --model demo"),
    "shares": Part("Where the time goes", "shares"),
    "growth": Part("Growth", "growth"),
    "plan": Part("Plans and runs", "plan_accuracy"),
    "workers": Part("Workers", "workers"),
    "start": Part("Cold start", "cold_start"),
    "stats": Part("Statistics", "stats_speed"),
}

ON_REQUEST = {"server"}  # its first run installs vLLM, of 3 GB


def machine() -> str:
    """Processor, cores and versions, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    wide = ", AVX-512" if any(" avx512f" in line for line in lines) else ""
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "numpy"))
    return f"{name}{wide}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


def section(part: Part) -> str:
    """A part's title, its command and what it printed."""
    print(f"running benchmarks.{part.command}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", f"benchmarks.{part.command.split()[0]}"]
    words = part.command.split()[1:]
    done = subprocess.run([*command, *words], stdout=subprocess.PIPE, text=True, check=False)
    failed = f"\n\nexit code {done.returncode}" if done.returncode else ""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    head = f"## {part.title}\n\n`python -m benchmarks.{part.command}`, {date}, {machine()}\n"
    return f"{head}\n{done.stdout.strip()}{failed}\n"


def sections(page: str) -> dict[str, str]:
    """Title -> section of a page."""
    found = re.split(r"^(?=## )", page, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part for part in found}


def main() -> None:
    """Run parts and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = [name for name in SUITE if name not in ON_REQUEST]
    parser.add_argument("--only", default=",".join(everything), help=", ".join(SUITE))
    parser.add_argument("--out", type=Path, default=Path("docs/performance.md"))
    options = parser.parse_args()
    for name in options.only.split(","):
        old = sections(options.out.read_text("utf-8")) if options.out.is_file() else {}
        new = {**old, SUITE[name].title: section(SUITE[name])}
        kept = [new[part.title].strip() for part in SUITE.values() if part.title in new]
        options.out.write_text("\n\n".join(["# Performance", *kept]) + "\n", "utf-8")
        print(f"wrote {options.out}", flush=True)


if __name__ == "__main__":
    main()
