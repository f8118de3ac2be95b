"""`harness baseline`: save runs for `harness check`."""

from collections.abc import Sequence
from pathlib import Path

from harness.analysis import baseline
from harness.analysis.compare import newest_runs
from harness.commands.compare.compare import load_one_checkpoint
from harness.display import terminal


def write_baseline(paths: Sequence[Path], out: Path, rule: str | None, alpha: float) -> None:
    """Write a baseline; of several runs of one benchmark and protocol the newest counts."""
    newest = list(newest_runs(load_one_checkpoint(paths)).values())
    baseline.write(newest, out, baseline.parse_rule(rule) if rule else None, alpha)
    for run in newest:
        for warning in run.record.warnings:
            terminal.ERR.print(f"warning: {run.record.task} in this baseline: {warning}")
    for path in (out, baseline.runs_path(out)):
        terminal.OUT.print(f"wrote {path}")
