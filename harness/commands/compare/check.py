"""`harness check`: verdicts for people, for other programs and for GitHub."""

from collections.abc import Sequence
from pathlib import Path

from harness.analysis import baseline as baselines
from harness.analysis import noise_floor
from harness.analysis.check import check
from harness.analysis.runs import load
from harness.commands.compare.reports import report, require_margins
from harness.display import comparisons, terminal
from harness.files.output import check_file
from harness.report.ci import Build


def run_check(
    paths: Sequence[Path],
    baseline: Path,
    *,
    junit: Path | None,
    jitter: Path | None,
    require_proof: bool,
    as_json: bool,
) -> int:
    """Check runs against a baseline and return the exit code."""
    if junit:
        check_file(junit, "--junit")
    expected = baselines.read(baseline)
    if require_proof:
        require_margins(expected, baseline)
    runs = load(paths)
    models = {run.record.model["digest"]: run.record.model["name"] for run in runs}
    if len(models) > 1:
        terminal.note(f"the runs are of {len(models)} checkpoints: {', '.join(models.values())}")
    verdicts = check(runs, expected, noise_floor.read(jitter) if jitter else {})
    return report(
        verdicts,
        Build(expected.tiers, require_proof),
        lambda: comparisons.show_verdicts(verdicts),
        junit=junit,
        as_json={} if as_json else None,
    )
