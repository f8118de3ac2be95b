"""Compare every causal model type of transformers with plain loops, and print a table.

    python -m benchmarks.families [--only gpt2,llama] [--json FILE] [--work DIR]

For each model type, a tiny checkpoint with random weights is built, loaded and evaluated as the
commands do it: passages, whole words, choices after contexts longer than any attention window,
running text, greedy text, `--plan`. Columns give the largest difference in nats per example. The
script fails if a row crashes, or exceeds the tolerance although transformers agrees with itself
there.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of tiny models only wait for each other

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from benchmarks.families.builders import families
from benchmarks.families.compare import Row, compare
from benchmarks.families.questions import KINDS

COLUMNS = ("type", *KINDS, "plan", "shares", "s", "notice")


def line(row: Row) -> str:
    """A row of the table, in Markdown."""
    words = [*row.notes, *row.failures, *row.notices]
    shares = {None: "–", True: "yes", False: "no"}[row.shares]
    cells = [str(row.cells[kind]) for kind in KINDS]
    plan = row.plan.partition(":")[0]
    values = [row.family.name, *cells, plan, shares, f"{row.seconds:.1f}", "; ".join(words)]
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def summary(rows: Iterable[Row]) -> str:
    """The counts under the table."""
    rows = list(rows)
    counts = {
        "types": len({row.family.type for row in rows}),
        "rows": len(rows),
        "within 2e-4 nats": sum(row.right for row in rows),
        "refused": sum(row.has("refused") for row in rows),
        "explained": sum(bool(row.notes) for row in rows),
        "died": sum(row.has("died") for row in rows),
        "share prefixes": sum(bool(row.shares) for row in rows),
        "with a notice": sum(bool(row.notices) for row in rows),
        "unacceptable": sum(not row.acceptable for row in rows),
        "seconds": round(sum(row.seconds for row in rows)),
    }
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def main() -> None:
    """Print the table; fail if a row is neither right, nor refused, nor explained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="names of rows, with commas")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--work", type=Path, help="keep the checkpoints in this folder")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    known = families()
    names = options.only.split(",") if options.only else list(known)
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"unknown families: {', '.join(unknown)}; known: {', '.join(known)}")
    rows: list[Row] = []
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["HARNESS_CACHE"] = temporary  # where measured rates go
        for name in names:
            if options.work:
                row = compare(known[name], options.work / name)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    row = compare(known[name], Path(folder))
            rows.append(row)
            print(line(row), flush=True)
    print(f"\n{summary(rows)}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1, default=str))
    sys.exit(0 if all(row.acceptable for row in rows) else 1)


if __name__ == "__main__":
    main()
