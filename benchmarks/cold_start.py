"""Time from the shell to the first result: `python -m benchmarks.cold_start`. Medians of five.

The first scored batch is one built-in passage on the demo model, which has been converted before;
no response cache is used.
"""

import statistics
import subprocess
import sys
import tempfile

from benchmarks.common import seconds
from harness.engine.checkpoint.locate import DEMO

ROUNDS = 5
WANTED = {"--help": 0.3, "tasks": 0.5, "a first scored batch": 8.0}


def main() -> None:
    """Print one line per command."""
    with tempfile.TemporaryDirectory() as out:
        first = f"lambada --model {DEMO} --sample --limit 1 --no-cache --out {out}"
        commands = {"--help": "--help", "tasks": "tasks", "a first scored batch": first}
        print("| harness | seconds | wanted under |\n|---|--:|--:|", flush=True)
        for name, words in commands.items():
            command = [sys.executable, "-m", "harness", *words.split()]

            def run(command: list[str] = command) -> None:
                subprocess.run(command, check=True, capture_output=True)

            run()
            spent = statistics.median(seconds(run) for _ in range(ROUNDS))
            print(f"| {name} | {spent:.2f} | {WANTED[name]} |", flush=True)


if __name__ == "__main__":
    main()
