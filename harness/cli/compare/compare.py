"""`harness compare`."""

from pathlib import Path

from harness.cli.options import ALL_SCORES, JSON, command
from harness.commands.declare import option


@command()
def compare(
    runs: tuple[Path, ...],
    every: bool = ALL_SCORES,
    flips: int = option(
        0, "show up to N items per score that only one of two runs got right", min=0, metavar="N"
    ),
    anyway: bool = option(False, "compare even if the signatures differ in what is measured"),
    as_json: bool = JSON,
) -> None:
    """Compare RUNS item by item: records, or folders of records.

    Results of lm-eval, inspect_ai and NeMo Evaluator are read as records.

    Two runs: difference with interval, p-value, p-value adjusted over the main scores, and the
    items that flipped. With three or more runs, print one matrix per score. Differing signatures
    are named; runs that measure different things are not compared.
    """
    from harness.commands.compare.compare import run_compare

    run_compare(runs, anyway=anyway, every=every, flips=flips, as_json=as_json)
