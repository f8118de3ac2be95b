"""An evaluation held against the one before: which scores became worse."""

from collections.abc import Sequence

from harness.analysis.baseline import Baseline, Rule, rules_for
from harness.analysis.check import Verdict, check
from harness.analysis.runs import Run
from harness.records.outcomes import NO_OUTCOMES
from harness.records.record import Record


def regressions(
    before: Sequence[Record], after: Sequence[Record], rule: Rule, alpha: float
) -> list[Verdict]:
    """The main scores that `harness check` would call regressions.

    Args:
        before: the records of the evaluation before, in memory, with their outcomes.
        after: those of the evaluation that is judged.
        rule: of every score.
        alpha: level of the paired tests of an evaluation together.
    """
    runs = _runs(before)
    verdicts = check(_runs(after), Baseline(runs, rules_for(runs, rule), alpha), {})
    return [verdict for verdict in verdicts if verdict.status == "regression"]


def _runs(records: Sequence[Record]) -> tuple[Run, ...]:
    return tuple(
        Run(record, record.outcomes or NO_OUTCOMES, f"step {record.model.get('step')}")
        for record in records
    )
