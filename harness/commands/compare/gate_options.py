"""The options of `harness gate` that no other command has."""

from dataclasses import dataclass
from pathlib import Path

from harness.commands.declare import OptionGroup, Seconds, option


@dataclass(frozen=True, slots=True)
class GateOptions(OptionGroup):
    """What is decided, and when the gate stops."""

    baseline: Path = option(None, "the file written by `harness baseline`", required=True)
    looks: int | None = option(
        None, "look at the evidence N times only, after equal numbers of items; default: after "
        "every slice", min=1, max=20, metavar="N",
    )  # fmt: skip
    budget: Seconds | None = option(
        None, "stop after this time (90s, 10m, 2h); the same command continues the gate",
        metavar="TIME",
    )  # fmt: skip
    fail_fast: bool = option(False, "stop at the first verdict that fails the build")
    require_proof: bool = option(False, "exit with 3 if a critical score is undecided")
    seed: int = option(0, "seed of the order of the items", min=0, metavar="N")
    out: Path = option(
        Path("results/gate"), "write records, and gate.json, from which a gate continues, into "
        "this folder",
    )  # fmt: skip
    junit: Path | None = option(None, "write a JUnit XML report, one test case per score")
    json: bool = option(False, "print one JSON object, nothing else")
    self_test: bool = option(
        False, "try the gate on the baseline's own checkpoint: with other batches, which it has to "
        "accept, and with noise in the weights; writes nothing",
    )  # fmt: skip
    noise: str | None = option(
        None, "sizes of the noise in --self-test, in percent of the spread of each weight matrix; "
        "default: 1%,3%", metavar="SIZES",
    )  # fmt: skip
