"""`harness power`."""

from dataclasses import asdict, dataclass
from pathlib import Path

from harness.cli.options import ALL_SCORES, JSON, command, given, part
from harness.cli.types import LEVEL
from harness.commands.declare import OptionGroup, option
from harness.errors import UsageError


@dataclass(frozen=True, slots=True)
class Options(OptionGroup):
    """The options of `harness.analysis.power.PowerSettings`, which takes long to import."""

    drop: float = option(
        2.0, "drop to detect, in points for scores in points, else in percent of the score",
        min=1e-6, max=1e6,
    )  # fmt: skip
    alpha: float = option(0.05, "significance level of the test", type=LEVEL)
    power: float = option(0.8, "probability of detecting the drop", min=0, max=1)
    correlation: float = option(
        0.5, "assumed correlation between the items of two runs; for one run", min=-1, max=1
    )
    discordance: float | None = option(
        None, "assumed share of right/wrong items that only one of two runs gets right; for one "
        "run",
        min=0, max=1,
    )  # fmt: skip


@command()
def power(
    runs: tuple[Path, ...],
    settings: Options = part(Options, heading="Options"),
    every: bool = ALL_SCORES,
    as_json: bool = JSON,
) -> None:
    """Estimate the items needed to detect a drop, and the smallest detectable drop.

    RUNS: one run, two runs of different checkpoints, or a baseline. Two runs give a better
    estimate: the spread of the differences between their items is measured. They also show how
    many items would detect the difference between them (B - A).
    """
    from harness.analysis.power import PowerSettings
    from harness.commands.compare.power import run_power

    for name in ("correlation", "discordance"):
        if len(runs) == 2 and given(name):
            raise UsageError(f"--{name} is measured on two runs; leave it out, or give one run")
    run_power(runs, PowerSettings(**asdict(settings)), every=every, as_json=as_json)
