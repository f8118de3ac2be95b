"""`harness power`: the number of examples that a comparison needs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from harness.analysis import baseline
from harness.analysis.power import PowerSettings, power
from harness.analysis.runs import Run
from harness.commands.compare.compare import load_one_checkpoint
from harness.display import comparisons, terminal
from harness.errors import UsageError


def run_power(
    paths: Sequence[Path], settings: PowerSettings, *, every: bool, as_json: bool
) -> None:
    """Show the smallest drop that the runs can detect, and the examples needed for a given one."""
    if not 1 <= len(paths) <= 2:
        raise UsageError(f"power takes one run or two, or a baseline; {len(paths)} were given")
    sides = [_runs(path) for path in paths]
    estimates = power(sides[0], sides[1] if len(sides) == 2 else [], settings, every=every)
    if as_json:
        terminal.print_json({"power": [asdict(estimate) for estimate in estimates]})
    else:
        comparisons.show_power(estimates, settings)


def _runs(path: Path) -> Sequence[Run]:
    return baseline.read(path).runs if path.suffix == ".toml" else load_one_checkpoint([path])
