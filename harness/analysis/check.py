"""Runs against a baseline: fine, a regression, or not comparable.

Only rules decide. An improvement is said and never fails. What scores move by on the machine
itself (`harness jitter`) is the least tolerance of every rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.analysis.baseline import Baseline, Key, Rule
from harness.analysis.compare import Incomparable, Line, mark, pair, partners
from harness.analysis.runs import Run, label
from harness.errors import RecordError
from harness.stats.paired import holm

Status = Literal["pass", "improved", "regression", "not comparable", "reported"]
FINE, REGRESSION, NOT_COMPARABLE = 0, 1, 2
ROUNDING = 1e-5  # of a score; a test sees any bias, also one of the last digits


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one rule."""

    task: str
    protocol: str
    metric: str
    status: Status
    rule: Rule
    reason: str  # in words
    line: Line | None = None
    p: float | None = None  # one-sided, that it is worse; adjusted over all paired rules
    note: str = ""  # where the signatures differ


def check(
    runs: Sequence[Run], baseline: Baseline, jitter: Mapping[tuple[str, str], float]
) -> list[Verdict]:
    """A verdict for every rule of the baseline, in its order.

    Args:
        runs: what is checked; runs that the baseline does not have are ignored.
        baseline: what it is held against.
        jitter: (benchmark, score) -> by how much it moves on its own, in its unit.
    """
    found: dict[Key, Line | Incomparable] = {}
    notes: dict[tuple[str, str], str] = {}
    for name, a, b in partners(baseline.runs, runs):
        if a is None:
            continue
        mine = label(a.record)
        lines: dict[str, Line | Incomparable] = {}
        reason = "the run has no such score"
        try:
            if b is None:
                raise RecordError(f"there is no run of {name} to check")
            metrics = {key[2] for key in baseline.rules if key[:2] == mine}
            lines = {line.metric: line for line in pair(a, b, metrics)}
            notes[mine] = mark(a.record, b.record)
        except RecordError as error:
            reason = str(error)
        found.update(
            (key, lines.get(key[2], Incomparable(key[2], reason)))
            for key in baseline.rules
            if key[:2] == mine
        )
    adjusted = _adjusted(baseline.rules, found)
    verdicts = []
    for key, rule in baseline.rules.items():
        line = found.get(key, Incomparable(key[2], "the baseline has no run of it"))
        limits = baseline.alpha, jitter.get((key[0], key[2]), 0.0)
        verdicts.append(
            _verdict(key, rule, line, adjusted.get(key), limits, notes.get(key[:2], ""))
        )
    return verdicts


def _adjusted(
    rules: Mapping[Key, Rule], found: Mapping[Key, Line | Incomparable]
) -> dict[Key, float | None]:
    """One-sided p of the paired rules after Holm."""
    tested = {
        key: line.difference.p_worse
        for key, line in found.items()
        if isinstance(line, Line) and rules[key].kind == "paired"
    }
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _verdict(
    key: Key,
    rule: Rule,
    line: Line | Incomparable,
    p: float | None,
    limits: tuple[float, float],
    note: str,
) -> Verdict:
    if isinstance(line, Incomparable):
        return Verdict(*key, "not comparable", rule, line.reason)
    status, reason = _judge(rule, line, p, limits)
    return Verdict(*key, status, rule, reason, line, p, note)


def _judge(
    rule: Rule, line: Line, p: float | None, limits: tuple[float, float]
) -> tuple[Status, str]:
    """Status and reason of a score that can be compared; `limits` are alpha and the jitter."""
    alpha, jitter = limits
    if rule.kind == "report":
        return "reported", "no rule"
    share = abs(line.difference.a) if rule.kind == "relative" else 1.0
    allowed = max(rule.amount * share, jitter)
    if rule.kind == "paired":
        return _by_test(line, p, allowed, alpha)
    worse = _worse(line)
    if worse > allowed:
        return "regression", f"worse by {worse:.4g}, allowed is {allowed:.4g}"
    if -worse > allowed > 0:
        return "improved", f"better by {-worse:.4g}"
    return "pass", f"allowed is {allowed:.4g}"


def _worse(line: Line) -> float:
    """By how much the second run is worse, in the score's unit."""
    value = line.difference.value
    return -value if line.higher_is_better else value


def _by_test(line: Line, p: float | None, allowed: float, alpha: float) -> tuple[Status, str]:
    """What the paired test says; `p` is one-sided and adjusted."""
    found, worse = line.difference, _worse(line)
    allowed = max(allowed, ROUNDING * abs(found.a))
    if p is None and found.pairs > 1:
        return "not comparable", "a score of a part of the items cannot be tested in pairs"
    if p is None or 0.5**found.pairs >= alpha:  # the least p that so many pairs can give
        return "not comparable", f"{found.pairs} items are too few for a paired test"
    if p < alpha and worse > allowed:
        return "regression", f"worse by {worse:.4g}, one-sided p {p:.2g} after Holm"
    if p < alpha:
        return "pass", f"worse by {worse:.4g}, which is within {allowed:.4g}"
    if found.p is not None and found.p < alpha and -worse > allowed:
        return "improved", f"better by {-worse:.4g}, two-sided p {found.p:.2g}"
    return "pass", f"no regression seen, one-sided p {p:.2g} after Holm"


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """1 if anything is a regression, else 2 if anything is not comparable, else 0."""
    statuses = {verdict.status for verdict in verdicts}
    if "regression" in statuses:
        return REGRESSION
    return NOT_COMPARABLE if "not comparable" in statuses else FINE
