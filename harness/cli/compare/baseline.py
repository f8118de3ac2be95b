"""`harness baseline`."""

from pathlib import Path

from harness.cli.options import command
from harness.cli.types import LEVEL
from harness.commands.options import option


@command()
def baseline(
    runs: tuple[Path, ...],
    out: Path = option(
        Path("results/baselines/main.toml"),
        "write this TOML file, and a copy of the runs next to it",
    ),
    rule: str | None = option(
        None, "rule of every score: paired:DELTA, absolute:TOLERANCE, relative:SHARE or report; "
        "default: paired:0", metavar="RULE",
    ),
    alpha: float = option(
        0.05, "significance level of all paired rules together", type=LEVEL
    ),
) -> None:  # fmt: skip
    """Save RUNS as the baseline for `harness check`.

    RUNS are records, or folders of records; the newest record of a task and protocol counts.
    """
    from harness.commands.compare.baseline import write_baseline

    write_baseline(runs, out, rule, alpha)
