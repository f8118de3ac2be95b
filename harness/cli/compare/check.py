"""`harness check`."""

from pathlib import Path

import click

from harness.cli.options import JSON, PATH


@click.command()
@click.argument("runs", nargs=-1, required=True, type=PATH)
@click.option("--baseline", required=True, type=PATH, help="the file written by `harness baseline`")
@click.option("--junit", type=PATH, help="write a JUnit XML report, one test case per score")
@click.option(
    "--jitter", type=PATH,
    help="noise measured by `harness jitter`; sets a minimum tolerance for every rule",
)  # fmt: skip
@JSON
@click.pass_context
def check(
    context: click.Context,
    runs: tuple[Path, ...],
    baseline: Path,
    junit: Path | None,
    jitter: Path | None,
    as_json: bool,
) -> None:
    """Check RUNS for regressions against a baseline.

    Exit code 0: no regression. 1: a regression. 2: something cannot be compared or read. In a
    GitHub job, also writes annotations and a summary.
    """
    from harness.commands.compare.check import run_check

    context.exit(run_check(runs, baseline, junit=junit, jitter=jitter, as_json=as_json))
