"""Verdicts as reports: for people, for other programs, and for GitHub."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.analysis.baseline import Baseline
from harness.analysis.check import Verdict, exit_code
from harness.display import terminal
from harness.display.console import in_github_actions
from harness.errors import UsageError
from harness.files.output import write_bytes
from harness.report import ci
from harness.report.ci import Build


def report(
    verdicts: Sequence[Verdict],
    build: Build,
    show: Callable[[], None],
    *,
    junit: Path | None = None,
    as_json: Mapping[str, Any] | None = None,
) -> int:
    """Write and print verdicts; return the exit code of the command.

    Args:
        verdicts: of all rules.
        build: what they decide.
        show: prints the verdicts for people.
        junit: the file of the JUnit report.
        as_json: print one JSON object instead, with these values besides.
    """
    code = exit_code(verdicts, build.tiers, require_proof=build.require_proof)
    if junit:
        write_bytes(junit, ci.junit(verdicts, build))
    # Files first: the reader of the standard output may be gone.
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(Path(summary), ci.summary(verdicts, build))
    if as_json is None:
        show()
    else:
        found = [asdict(verdict) for verdict in verdicts]
        terminal.print_json({"exit": code, **as_json, "verdicts": found})
    if in_github_actions():
        # Not through the console, which removes workflow commands from everything it prints.
        stream = (terminal.OUT if as_json is None else terminal.ERR).file
        stream.writelines(f"{line}\n" for line in ci.annotations(verdicts, build))
        stream.flush()
    return code


def require_margins(baseline: Baseline, path: Path) -> None:
    """Refuse --require-proof where nothing can be proved."""
    if not any(rule.margin for rule in baseline.rules.values()):
        raise UsageError(
            f"--require-proof: {str(path)!r} has no rule 'proved', so that nothing can be proved; "
            "give its scores margins, or leave the option out"
        )


def _append(path: Path, text: str) -> None:
    """Add to the job's summary; a failure does not change the verdicts."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        terminal.note(f"cannot write the job summary {str(path)!r}: {error.strerror}")
