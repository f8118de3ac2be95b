"""`harness check`."""

from pathlib import Path

from harness.cli.options import JSON, command
from harness.commands.declare import option


@command()
def check(
    runs: tuple[Path, ...],
    baseline: Path = option(None, "the file written by `harness baseline`", required=True),
    junit: Path | None = option(None, "write a JUnit XML report, one test case per score"),
    jitter: Path | None = option(
        None, "noise measured by `harness jitter`; sets a minimum tolerance for every rule"
    ),
    require_proof: bool = option(
        False, "fail if a score under a rule `proved` is undecided: exit code 3"
    ),
    as_json: bool = JSON,
) -> int:
    """Check RUNS for regressions against a baseline.

    Exit code 0: no regression. 1: a regression. 2: something cannot be compared or read. 3: under
    --require-proof, something is undecided. In a GitHub job, also writes annotations and a summary.
    """
    from harness.commands.compare.check import run_check

    return run_check(
        runs, baseline, junit=junit, jitter=jitter, require_proof=require_proof, as_json=as_json
    )
