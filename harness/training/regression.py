"""An evaluation held against the one before, by the rules of `harness check`."""

from collections.abc import Sequence

from harness.analysis.baseline import Baseline, Rule, rules_for
from harness.analysis.check import Verdict, check
from harness.analysis.runs import Run
from harness.records.outcomes import NO_OUTCOMES
from harness.records.record import Record


def compared(
    before: Sequence[Record], after: Sequence[Record], rule: Rule, alpha: float
) -> list[Verdict]:
    """The verdict on each main score.

    Args:
        before: the records of the evaluation before, in memory, with their outcomes.
        after: those of the evaluation that is judged.
        rule: of every score.
        alpha: level of the paired tests of an evaluation together.
    """
    runs = _runs(before)
    return check(_runs(after), Baseline(runs, rules_for(runs, rule), alpha), {})


def _runs(records: Sequence[Record]) -> tuple[Run, ...]:
    return tuple(
        Run(record, record.outcomes or NO_OUTCOMES, f"step {record.model.get('step')}")
        for record in records
    )
