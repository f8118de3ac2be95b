"""Check runs against a baseline: fine, a regression, or not comparable.

Only rules decide. An improvement is reported and never fails. The noise that `harness jitter`
measured is the smallest tolerance of every rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis.baseline import Baseline, Key, Rule
from harness.analysis.compare import ScoreComparison, compare_runs, matching_runs, signature_note
from harness.analysis.runs import Incomparable, Run, label
from harness.stats.paired import Difference, holm

Status = Literal["pass", "improved", "regression", "not comparable", "reported"]
FINE, REGRESSION, NOT_COMPARABLE = 0, 1, 2
ROUNDING = 1e-5  # relative to the score; a paired test detects any bias, even in the last digits


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of one rule."""

    task: str
    protocol: str
    metric: str
    status: Status
    rule: Rule
    reason: str  # in words
    score: ScoreComparison | None = None
    p: float | None = None  # one-sided, that it is worse; adjusted over all paired rules
    note: str = ""  # where the signatures differ
    warnings: tuple[str, ...] = ()  # of the run, and of the baseline's


def check(
    runs: Sequence[Run], baseline: Baseline, noise: Mapping[tuple[str, str], float]
) -> list[Verdict]:
    """A verdict for every rule of the baseline, in its order.

    Runs that the baseline does not have are ignored. `noise` maps (benchmark, metric) to the
    distance by which the score moves without a cause, in its unit.
    """
    scores: dict[Key, ScoreComparison | Incomparable] = {}
    notes: dict[tuple[str, str], str] = {}
    warnings: dict[tuple[str, str], tuple[str, ...]] = {}
    for name, a, b in matching_runs(baseline.runs, runs):
        if a is None:
            continue
        run = label(a.record)
        keys = [key for key in baseline.rules if key[:2] == run]
        if b is None:
            missing = Incomparable(f"there is no run of {name} to check")
            scores |= dict.fromkeys(keys, missing)
            continue
        notes[run] = signature_note(a.record, b.record)
        warnings[run] = (
            *(f"{name}: {text}" for text in b.record.warnings),
            *(f"{name}, in the baseline: {text}" for text in a.record.warnings),
        )
        compared = compare_runs(a, b, {metric for _, _, metric in keys})
        for key in keys:
            if isinstance(compared, Incomparable):
                scores[key] = compared
            else:
                scores[key] = compared.get(key[2], Incomparable("the run has no such score"))
    paired = {
        key: score.difference.p_worse
        for key, score in scores.items()
        if isinstance(score, ScoreComparison) and baseline.rules[key].kind == "paired"
    }
    adjusted = dict(zip(paired, holm(list(paired.values())), strict=True))
    verdicts = []
    for key, rule in baseline.rules.items():
        score = scores.get(key, Incomparable("the baseline has no run of it"))
        warned = warnings.get(key[:2], ())
        if isinstance(score, Incomparable):
            reason = score.reason
            verdicts.append(Verdict(*key, "not comparable", rule, reason, warnings=warned))
            continue
        p = adjusted.get(key)
        status, reason = _judge(rule, score, p, baseline.alpha, noise.get((key[0], key[2]), 0.0))
        note = notes.get(key[:2], "")
        verdicts.append(Verdict(*key, status, rule, reason, score, p, note, warned))
    return verdicts


def _judge(
    rule: Rule, score: ScoreComparison, p: float | None, alpha: float, noise: float
) -> tuple[Status, str]:
    """Status and reason of a score that can be compared; `p` is one-sided and adjusted."""
    if rule.kind == "report":
        return "reported", "no rule"
    share = abs(score.difference.a) if rule.kind == "relative" else 1.0
    allowed = max(rule.amount * share, noise)
    worse = -score.difference.value if score.higher_is_better else score.difference.value
    if rule.kind == "paired":
        return _judge_by_test(score.difference, worse, p, allowed, alpha)
    if worse > allowed:
        return "regression", f"worse by {worse:.4g}, allowed is {allowed:.4g}"
    if -worse > allowed > 0:
        return "improved", f"better by {-worse:.4g}"
    return "pass", f"allowed is {allowed:.4g}"


def _judge_by_test(
    difference: Difference, worse: float, p: float | None, allowed: float, alpha: float
) -> tuple[Status, str]:
    """Status and reason by the paired test."""
    allowed = max(allowed, ROUNDING * abs(difference.a))
    if p is None and difference.pairs > 1:
        return "not comparable", "no paired test: each run chooses the examples of this score"
    if p is None or 0.5**difference.pairs >= alpha:  # the smallest p that the pairs can give
        return "not comparable", f"{difference.pairs} examples are too few for a paired test"
    if p < alpha and worse > allowed:
        return "regression", f"worse by {worse:.4g}, one-sided p {p:.2g} after Holm"
    if p < alpha:
        return "pass", f"worse by {worse:.4g}, which is within {allowed:.4g}"
    if difference.p is not None and difference.p < alpha and -worse > allowed:
        return "improved", f"better by {-worse:.4g}, two-sided p {difference.p:.2g}"
    return "pass", f"no regression seen, one-sided p {p:.2g} after Holm"


def all_warnings(verdicts: Sequence[Verdict]) -> list[str]:
    """The warnings of all runs, each once."""
    return list(dict.fromkeys(text for verdict in verdicts for text in verdict.warnings))


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """1 if anything is a regression, else 2 if anything is not comparable, else 0."""
    statuses = {verdict.status for verdict in verdicts}
    if "regression" in statuses:
        return REGRESSION
    return NOT_COMPARABLE if "not comparable" in statuses else FINE
