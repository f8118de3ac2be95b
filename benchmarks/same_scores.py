"""Check that two folders of records hold equal scores: `python -m benchmarks.same_scores A B`.

For a change that should move no score: run the same commands before and after it into two folders.
The JSON files are read directly, so that the records may have different schemas. Exit code 1 if a
score differs by more than `--tolerance`, or is on one side only.
"""

import json
import math
import sys
from pathlib import Path

import click

Scores = dict[tuple[str, str, str], float]
"""Task, protocol, metric -> value."""


def scores(folder: Path) -> Scores:
    """The scores of all records below a folder."""
    found: Scores = {}
    for path in sorted(folder.rglob("*.json")):
        record = json.loads(path.read_text("utf-8"))
        if isinstance(record, dict) and "scores" in record and "task" in record:
            for score in record["scores"]:
                key = record["task"], record["protocol"], score["metric"]
                found[key] = float(score["value"])
    return found


@click.command()
@click.argument("before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("after", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--tolerance", default=0.0, show_default=True, help="relative difference allowed")
def main(before: Path, after: Path, tolerance: float) -> None:
    """Compare the scores of two folders of records."""
    one, two = scores(before), scores(after)
    differing = 0
    for key in sorted({*one, *two}):
        a, b = one.get(key), two.get(key)
        if a is not None and b is not None and math.isclose(a, b, rel_tol=tolerance):
            continue
        differing += 1
        print(" ".join(key), "missing" if a is None else a, "missing" if b is None else b)
    print(f"{len({*one, *two})} scores, {differing} differ")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
