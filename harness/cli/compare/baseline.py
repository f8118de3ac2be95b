"""`harness baseline`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.cli.options import command, part
from harness.cli.types import LEVEL
from harness.commands.declare import OptionGroup, option


@dataclass(frozen=True, slots=True)
class Options(OptionGroup):
    """The rules of a new baseline."""

    rule: str | None = option(
        None, "rule of every score: proved:MARGIN, paired:DELTA, absolute:TOLERANCE, "
        "relative:SHARE, pooled or report; MARGIN is in the score's unit, or in percent of its "
        "value as in proved:2%; default: paired:0", metavar="RULE",
    )  # fmt: skip
    scores: tuple[str, ...] = option(
        (), "add a score that is not checked by default, or give a score a rule of its own, as in "
        "cbt-cn:nats or lambada:ppl=proved:2%; repeatable", flag="score",
        metavar="TASK:METRIC[=RULE]",
    )  # fmt: skip
    pooled: bool = option(
        False, "in addition, decide once for all scores together, by one test of their mean loss"
    )
    tier: Literal["critical", "supporting", "advisory"] = option(
        "critical", "tier of every score; the file says which verdicts of a tier fail the build"
    )
    alpha: float = option(
        0.05, "significance level of all tests together, and of each proof that a score is fine",
        type=LEVEL,
    )  # fmt: skip
    beta: float = option(
        0.1, "probability that a gate calls a score fine although it lost the margin", type=LEVEL
    )


@command()
def baseline(
    runs: tuple[Path, ...],
    out: Path = option(
        Path("results/baselines/main.toml"),
        "write this TOML file, and a copy of the runs next to it",
    ),
    options: Options = part(Options, heading="Options"),
) -> None:
    """Save RUNS as the baseline for `harness check` and `harness gate`.

    RUNS are records, or folders of records; the newest record of a task and protocol counts.
    """
    from harness.commands.compare.baseline import policy, write_baseline

    rules = policy(options.rule, options.scores, options.tier, options.pooled)
    write_baseline(runs, out, rules, alpha=options.alpha, beta=options.beta)
