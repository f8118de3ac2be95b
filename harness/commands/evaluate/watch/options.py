"""The options of `harness watch` that no other command has."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.commands.declare import OptionGroup, Seconds, option


@dataclass(frozen=True, slots=True)
class WatchOptions(OptionGroup):
    """When a checkpoint is evaluated, and what is written after each."""

    once: bool = option(False, "evaluate what is complete now, and stop; for cron")
    newest_first: bool = option(False, "evaluate the newest checkpoint first, not the oldest")
    interval: Seconds = option("30s", "look for new checkpoints at this interval", metavar="TIME")
    settle: Seconds = option(
        "30s", "without a marker of its program, a checkpoint is complete when it has not changed "
        "for this time", metavar="TIME",
    )  # fmt: skip
    plot: Path | None = option(
        None, "draw the scores over steps into this .png or .svg file; needs the extra `plots`"
    )
    tensorboard: Path | None = option(
        None, "write event files into this folder; needs the extra `tensorboard`"
    )


class Until(NamedTuple):
    """When to stop: after the checkpoint of a training step, or after a time."""

    step: int | None = None
    seconds: float | None = None
