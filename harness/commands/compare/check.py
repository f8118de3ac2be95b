"""`harness check`: verdicts for people, for other programs and for GitHub."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from harness.analysis import baseline as baselines
from harness.analysis import noise_floor
from harness.analysis.check import check, exit_code
from harness.analysis.runs import load
from harness.display import comparisons, terminal
from harness.display.console import in_github_actions
from harness.errors import UsageError
from harness.files.output import check_file, write_bytes
from harness.report import ci


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
    if require_proof and not any(rule.margin for rule in expected.rules.values()):
        raise UsageError(
            f"--require-proof: {str(baseline)!r} has no rule 'proved', so that nothing can be "
            "proved; give its scores margins, or leave the option out"
        )
    runs = load(paths)
    models = {run.record.model["digest"]: run.record.model["name"] for run in runs}
    if len(models) > 1:
        terminal.note(f"the runs are of {len(models)} checkpoints: {', '.join(models.values())}")
    verdicts = check(runs, expected, noise_floor.read(jitter) if jitter else {})
    code = exit_code(verdicts, expected.tiers, require_proof=require_proof)
    build = ci.Build(expected.tiers, require_proof)
    if junit:
        write_bytes(junit, ci.junit(verdicts, build))
    # Files first: the reader of the standard output may be gone.
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(Path(summary), ci.summary(verdicts, build))
    if as_json:
        terminal.print_json({"exit": code, "verdicts": [asdict(v) for v in verdicts]})
    else:
        comparisons.show_verdicts(verdicts)
    if in_github_actions():
        # Not through the console, which removes workflow commands from everything it prints.
        stream = (terminal.ERR if as_json else terminal.OUT).file
        stream.writelines(f"{line}\n" for line in ci.annotations(verdicts, build))
        stream.flush()
    return code


def _append(path: Path, text: str) -> None:
    """Add to the job's summary; a failure does not change the verdicts."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        terminal.note(f"cannot write the job summary {str(path)!r}: {error.strerror}")
