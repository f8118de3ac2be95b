"""`harness compare`: two runs with tests and flipped examples, or one matrix per score."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from harness.analysis.compare import Comparison, Matrix, compare, matrices, require_one_checkpoint
from harness.analysis.runs import Run, load
from harness.display import comparisons, terminal
from harness.errors import UsageError


def run_compare(
    paths: Sequence[Path], *, anyway: bool, every: bool, flips: int, as_json: bool
) -> None:
    """Compare two sides, or each of more sides with each."""
    if len(paths) < 2:
        raise UsageError(f"compare takes two or more records or folders; {len(paths)} were given")
    if flips and (as_json or len(paths) > 2):
        raise UsageError(
            "--flips shows the examples of two runs as text; leave it out with more runs, and "
            "with --json, which includes all of them"
        )
    names = [str(path) for path in paths]
    runs = [load_one_checkpoint([path]) for path in paths]
    tables: list[Matrix] = []
    if len(paths) == 2:
        comparison = compare(*runs, every=every, anyway=anyway)
    else:
        tables, comparison = matrices(names, runs, every=every, anyway=anyway)
    if not comparison.scores:
        reasons = "; ".join(comparison.not_compared) or "no score"
        raise UsageError(f"nothing can be compared: {reasons}")
    if as_json:
        _print_json(names, tables, comparison)
    elif tables:
        comparisons.show_matrices(tables, comparison)
    else:
        comparisons.show_comparison(comparison, flips)


def _print_json(names: Sequence[str], tables: Sequence[Matrix], comparison: Comparison) -> None:
    pairs = [((0, 1), score) for score in comparison.scores]
    if tables:
        pairs = [pair for table in tables for pair in table.scores.items()]
    scores = [{"runs": [names[i], names[j]], **asdict(score)} for (i, j), score in pairs]
    terminal.print_json(
        {
            "scores": scores,
            "notes": comparison.notes,
            "not_compared": comparison.not_compared,
            "warnings": comparison.warnings,
        }
    )


def load_one_checkpoint(paths: Sequence[Path]) -> list[Run]:
    """The runs of one side of a comparison, which must be of one checkpoint."""
    runs = load(paths)
    require_one_checkpoint(runs, ", ".join(map(str, paths)))
    return runs
