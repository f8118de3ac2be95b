"""`harness baseline`: save runs for `harness check` and `harness gate`."""

from collections.abc import Sequence
from pathlib import Path

from harness.analysis import baseline
from harness.analysis.compare import newest_runs
from harness.analysis.rules.rule import PAIRED, Policy, parse_rule, parse_score
from harness.commands.compare.compare import load_one_checkpoint
from harness.display import terminal
from harness.errors import UsageError


def policy(rule: str | None, scores: Sequence[str], tier: str, pooled: bool) -> Policy:
    """The rules that the options ask for."""
    parsed = [parse_score(text) for text in scores]
    names = [name for name, _ in parsed]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--score {':'.join(twice)} is given twice; give it once, with its rule")
    return Policy(parse_rule(rule) if rule else PAIRED, dict(parsed), tier, pooled)


def write_baseline(
    paths: Sequence[Path], out: Path, policy: Policy, *, alpha: float, beta: float
) -> None:
    """Write a baseline; of several runs of one benchmark and protocol the newest counts."""
    newest = list(newest_runs(load_one_checkpoint(paths)).values())
    baseline.write(newest, out, policy, alpha=alpha, beta=beta)
    for run in newest:
        for warning in run.record.warnings:
            terminal.ERR.print(f"warning: {run.record.task} in this baseline: {warning}")
    for path in (out, baseline.runs_path(out)):
        terminal.OUT.print(f"wrote {path}")
