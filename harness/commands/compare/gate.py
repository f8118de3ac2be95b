"""What the commands that hold runs against each other do: compare, baseline, check, power."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from harness.analysis import baseline as baselines
from harness.analysis.check import check, exit_code
from harness.analysis.compare import (
    Comparison,
    Matrix,
    compare,
    matrices,
    newest_runs,
    one_checkpoint,
)
from harness.analysis.noise_floor import read as read_jitter
from harness.analysis.power import Question, power
from harness.analysis.runs import Run, load
from harness.display import comparisons, terminal
from harness.display.console import in_github_actions
from harness.errors import UsageError
from harness.records.record import check_file
from harness.report import ci


def run_compare(
    paths: Sequence[Path], *, anyway: bool, every: bool, flips: int, as_json: bool
) -> None:
    """Two sides with tests and flips, or a matrix of more.

    Raises:
        UsageError: fewer than two sides, or nothing that can be compared.
    """
    if len(paths) < 2:
        raise UsageError("compare what with what? give two or more records or folders")
    if flips and (as_json or len(paths) > 2):
        raise UsageError(
            "--flips shows items of two runs as text; leave it out with more runs, and with "
            "--json, which has all of them"
        )
    sides = [(str(path), _of_one_checkpoint(path)) for path in paths]
    tables: list[Matrix] = []
    if len(sides) == 2:
        found = compare(sides[0][1], sides[1][1], every=every, anyway=anyway)
    else:
        tables, found = matrices(sides, every=every, anyway=anyway)
    if not found.lines:
        raise UsageError(f"nothing can be compared: {'; '.join(found.refused) or 'no score'}")
    if as_json:
        _print_comparison([name for name, _ in sides], tables, found)
    elif tables:
        comparisons.show_matrices(tables, found)
    else:
        comparisons.show_comparison(found, flips)


def _print_comparison(names: Sequence[str], tables: Sequence[Matrix], found: Comparison) -> None:
    """The same as JSON."""
    pairs = [((0, 1), line) for line in found.lines]
    if tables:
        pairs = [item for table in tables for item in table.lines.items()]
    scores = [{"runs": [names[i], names[j]], **asdict(line)} for (i, j), line in pairs]
    terminal.print_json({"scores": scores, "marks": found.marks, "refused": found.refused})


def _of_one_checkpoint(path: Path) -> Sequence[Run]:
    """The runs of one side.

    Raises:
        UsageError: they are of several checkpoints.
    """
    runs = load([path])
    one_checkpoint(runs, str(path))
    return runs


def write_baseline(paths: Sequence[Path], out: Path, rule: str | None, alpha: float) -> None:
    """Runs -> a baseline; of several of one benchmark and protocol the newest counts."""
    runs = load(paths)
    one_checkpoint(runs, ", ".join(map(str, paths)))
    newest = list(newest_runs(runs).values())
    baselines.write(newest, out, baselines.rule_from(rule) if rule else None, alpha)
    for path in (out, baselines.runs_path(out)):
        terminal.OUT.print(f"wrote {path}", markup=False)


def run_check(
    paths: Sequence[Path], baseline: Path, *, junit: Path | None, jitter: Path | None, as_json: bool
) -> int:
    """Verdicts for people, machines and GitHub; the exit code.

    Raises:
        RecordError: a file cannot be read or written.
    """
    if junit:
        check_file(junit, "--junit")
    held = baselines.read(baseline)
    runs = load(paths)
    models = {run.record.model["digest"]: run.record.model["name"] for run in runs}
    if len(models) > 1:
        terminal.note(f"the runs are of {len(models)} checkpoints: {', '.join(models.values())}")
    verdicts = check(runs, held, read_jitter(jitter))
    code = exit_code(verdicts)
    if junit:
        ci.write_junit(verdicts, junit)
    # Files before what is printed: nobody may be there to read that.
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        _append(Path(summary), ci.summary(verdicts))
    if as_json:
        value = {"exit": code, "verdicts": [asdict(verdict) for verdict in verdicts]}
        terminal.print_json(value)
    else:
        comparisons.show_verdicts(verdicts)
    if in_github_actions():
        # Past the console, which takes workflow commands out of everything that is printed.
        stream = (terminal.ERR if as_json else terminal.OUT).file
        stream.writelines(f"{line}\n" for line in ci.annotations(verdicts))
        stream.flush()
    return code


def _append(path: Path, text: str) -> None:
    """Add to the job's summary; where that cannot be done the verdicts count all the same."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        terminal.note(f"cannot write the job summary {str(path)!r}: {error.strerror}")


def run_power(paths: Sequence[Path], question: Question, *, as_json: bool) -> None:
    """What today's items can show, and how many a drop needs.

    Raises:
        UsageError: more than two runs or baselines are given.
    """
    if not 1 <= len(paths) <= 2:
        raise UsageError(f"power takes one run or two, or a baseline; {len(paths)} were given")
    sides = [_runs(path) for path in paths]
    found = power(sides[0], sides[1] if len(sides) == 2 else [], question)
    if as_json:
        terminal.print_json({"power": [asdict(line) for line in found]})
    else:
        comparisons.show_power(found, question)


def _runs(path: Path) -> Sequence[Run]:
    return baselines.read(path).runs if path.suffix == ".toml" else _of_one_checkpoint(path)
