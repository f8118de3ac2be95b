"""Check runs against a baseline: fine, a regression, undecided, or not comparable.

Only rules decide. An improvement is reported and never fails. The noise that `harness jitter`
measured is the smallest tolerance of every rule.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, get_args

from harness.analysis.baseline import Baseline, Key
from harness.analysis.compare import ScoreComparison, compare_runs, matching_runs, signature_note
from harness.analysis.rules.judge import EMPTY_POOL, Case, judge, judge_pooled
from harness.analysis.rules.rule import OWN_TEST, Rule, pooled_rule
from harness.analysis.rules.tiers import Failing, Status, Tiers, code, fails
from harness.analysis.runs import (
    Incomparable,
    PairedOutcomes,
    Run,
    blocks_of,
    common,
    label,
    measures,
)
from harness.errors import NumericsError
from harness.metrics import Metric
from harness.records.record import Record
from harness.stats.limits import Limits, limits, more_items
from harness.stats.paired import holm
from harness.stats.pooled import Pooled, PooledScore, pooled_test

POOL: Key = ("all benchmarks", "", "pooled")
"""In place of benchmark, protocol and metric: the decision over all pooled scores."""

Noise = Mapping[tuple[str, str], float]
"""(benchmark, metric) -> how far the score moves without a cause, in its unit."""


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
    p: float | None = None  # one-sided, that it is worse; adjusted over all tests
    note: str = ""  # where the signatures differ
    warnings: tuple[str, ...] = ()  # of the run, and of the baseline's
    margin: float | None = None  # the loss that `fine` rules out, in the score's unit
    upper: float | None = None  # one-sided limit of the loss, at the level of the check
    items: int | None = None  # examples that were compared
    of: int | None = None  # examples of the baseline
    evidence: str = ""  # in words, such as `p 0.003 after Holm`

    @property
    def title(self) -> str:
        """The status, with the tier where it decides what follows."""
        if self.rule.tier == "critical" or self.status not in get_args(Failing):
            return self.status
        return f"{self.status} ({self.rule.tier})"


class _Outcomes(NamedTuple):
    """The outcomes of one score in two runs."""

    metric: Metric
    blocks: int | None
    paired: PairedOutcomes


@dataclass(slots=True)
class _Compared:
    """The scores of a baseline in the runs that are checked."""

    scores: dict[Key, ScoreComparison | Incomparable] = field(default_factory=dict)
    pairs: dict[tuple[str, str], tuple[Run, Run]] = field(default_factory=dict)
    notes: dict[tuple[str, str], str] = field(default_factory=dict)
    warnings: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def comparable(self, key: Key) -> ScoreComparison | None:
        score = self.scores.get(key)
        return score if isinstance(score, ScoreComparison) else None

    def outcomes(self, key: Key) -> _Outcomes:
        a, b = self.pairs[key[:2]]
        measure = next(m for m in measures(a.record) if m.name == key[2])
        assert isinstance(measure.metric, Metric)  # others are not compared
        return _Outcomes(measure.metric, blocks_of(measure, a, b), common(a, b, measure.name))


def check(runs: Sequence[Run], baseline: Baseline, noise: Noise) -> list[Verdict]:
    """A verdict for every rule of the baseline, in its order, and last the pooled one if any.

    Runs that the baseline does not have are ignored.
    """
    compared = _compare(runs, baseline)
    bounds = _limits(compared, baseline, noise)
    pooled = _pool(compared, baseline)
    adjusted = _adjusted(compared, baseline, bounds, pooled)
    verdicts = []
    for key, rule in baseline.rules.items():
        warnings = compared.warnings.get(key[:2], ())
        found = compared.scores.get(key, Incomparable("the baseline has no run of it"))
        if isinstance(found, Incomparable):
            missing = Verdict(*key, "not comparable", rule, found.reason, warnings=warnings)
            verdicts.append(missing)
            continue
        case = Case(
            rule, found.difference, found.higher_is_better, baseline.alpha,
            noise.get((key[0], key[2]), 0.0), adjusted.get(key), bounds.get(key),
        )  # fmt: skip
        verdicts.append(_verdict(key, case, compared))
    if pooled is not None:
        verdicts.append(_pooled_verdict(pooled, adjusted.get(POOL), compared, baseline, noise))
    return verdicts


def _compare(runs: Sequence[Run], baseline: Baseline) -> _Compared:
    """Compare the scores of the baseline that have a rule."""
    found = _Compared()
    for name, a, b in matching_runs(baseline.runs, runs):
        if a is None:
            continue
        run = label(a.record)
        keys = [key for key in baseline.rules if key[:2] == run]
        if b is None:
            missing = Incomparable(f"there is no run of {name} to check")
            found.scores |= dict.fromkeys(keys, missing)
            continue
        found.pairs[run] = (a, b)
        found.notes[run] = signature_note(a.record, b.record)
        found.warnings[run] = warnings_of(name, a.record, b.record)
        compared = compare_runs(a, b, {metric for _, _, metric in keys})
        for key in keys:
            if isinstance(compared, Incomparable):
                found.scores[key] = compared
            else:
                found.scores[key] = compared.get(key[2], Incomparable("the run has no such score"))
    return found


def _limits(compared: _Compared, baseline: Baseline, noise: Noise) -> dict[Key, Limits]:
    """The limits of the loss of each score under `proved`; some scores may become incomparable."""
    found: dict[Key, Limits] = {}
    for key, rule in baseline.rules.items():
        score = compared.comparable(key)
        if rule.kind != "proved" or not score or score.difference.test == "none":
            continue
        metric, blocks, paired = compared.outcomes(key)
        least = noise.get((key[0], key[2]), 0.0)
        try:
            found[key] = limits(
                metric, paired.a, paired.b, blocks=blocks, alpha=baseline.alpha,
                margin=max(rule.amount, least), min_loss=max(rule.min_loss, least),
            )  # fmt: skip
        except NumericsError as error:
            compared.scores[key] = Incomparable(str(error))
    return found


def _adjusted(
    compared: _Compared,
    baseline: Baseline,
    bounds: Mapping[Key, Limits],
    pooled: Pooled | Incomparable | None,
) -> dict[Key, float | None]:
    """P of no loss, after Holm over all tests: of scores, and of the pooled ones together."""
    ps: dict[Key, float | None] = {}
    for key, rule in baseline.rules.items():
        if (score := compared.comparable(key)) and rule.kind in OWN_TEST:
            ps[key] = bounds[key].p_worse if key in bounds else score.difference.p_worse
    if isinstance(pooled, Pooled):
        ps[POOL] = pooled.p_worse
    return dict(zip(ps, holm(list(ps.values())), strict=True))


def _verdict(key: Key, case: Case, compared: _Compared) -> Verdict:
    """The verdict on a score that can be compared."""
    score = compared.comparable(key)
    assert score is not None
    status, reason = judge(case)
    if status == "undecided":
        metric, blocks, paired = compared.outcomes(key)
        more = more_items(
            metric, paired.a, paired.b, blocks=blocks, alpha=case.alpha,
            margin=case.allowed, min_loss=max(case.rule.min_loss, case.noise),
        )  # fmt: skip
        status, reason = judge(replace(case, more=more))
    upper = case.limits.upper if case.limits else None
    a, _ = compared.pairs[key[:2]]
    return Verdict(
        *key, status, case.rule, reason, score, case.p, compared.notes.get(key[:2], ""),
        compared.warnings.get(key[:2], ()),
        margin=case.rule.margin,
        upper=upper if upper is not None and math.isfinite(upper) else None,
        items=score.examples,
        of=len(a.outcomes.keys(key[2])),
        evidence=_evidence(case, status),
    )  # fmt: skip


def _evidence(case: Case, status: Status) -> str:
    """What the verdict rests on: the test against the margin, or that of any loss."""
    within = case.limits.p_within if case.limits else None
    if status == "fine" and within is not None:
        return f"p {within:.2g} of a loss of {case.allowed:.4g}"
    return "" if case.p is None else f"p {case.p:.2g} after Holm"


def _pool(compared: _Compared, baseline: Baseline) -> Pooled | Incomparable | None:
    """The test of all pooled scores together; None if the baseline has no such rule."""
    keys = [key for key, rule in baseline.rules.items() if rule.in_pool]
    scores = []
    for key in _tested(keys, compared):
        metric, blocks, (keys_of, a, b) = compared.outcomes(key)
        scores.append(PooledScore(metric, key[0], keys_of, a, b, blocks))
    if not scores:
        return Incomparable(EMPTY_POOL) if keys else None
    try:
        return pooled_test(scores)
    except NumericsError as error:
        return Incomparable(str(error))


def _tested(keys: Sequence[Key], compared: _Compared) -> list[Key]:
    """The scores among them that have a paired test."""
    found = [(key, compared.comparable(key)) for key in keys]
    return [key for key, score in found if score and score.difference.test != "none"]


def _pooled_verdict(
    pooled: Pooled | Incomparable, p: float | None, compared: _Compared, baseline: Baseline,
    noise: Noise,
) -> Verdict:  # fmt: skip
    """The verdict on all pooled scores together, in the highest of their tiers."""
    rules = {key: rule for key, rule in baseline.rules.items() if rule.in_pool}
    rule = pooled_rule(rules.values())
    assert rule is not None
    if isinstance(pooled, Incomparable):
        return Verdict(*POOL, "not comparable", rule, pooled.reason)
    assert p is not None
    keys = _tested(list(rules), compared)
    scores = [(key, score) for key in keys if (score := compared.comparable(key))]
    cases = [
        Case(rules[key], s.difference, s.higher_is_better, baseline.alpha) for key, s in scores
    ]
    beyond = any(
        case.worse > max(case.rounding, noise.get((key[0], key[2]), 0.0))
        for key, case in zip(keys, cases, strict=True)
    )
    status, reason = judge_pooled(pooled, p, alpha=baseline.alpha, scores=len(keys), beyond=beyond)
    return Verdict(*POOL, status, rule, reason, p=p, evidence=f"p {p:.2g} after Holm")


def warnings_of(name: str, before: Record, after: Record) -> tuple[str, ...]:
    """The warnings of a run and of the baseline's, with the name of their benchmark."""
    return (
        *(f"{name}: {text}" for text in after.warnings),
        *(f"{name}, in the baseline: {text}" for text in before.warnings),
    )


def all_warnings(verdicts: Sequence[Verdict]) -> list[str]:
    """The warnings of all runs, each once."""
    return list(dict.fromkeys(text for verdict in verdicts for text in verdict.warnings))


def exit_code(verdicts: Sequence[Verdict], tiers: Tiers, *, require_proof: bool = False) -> int:
    """1 for a regression, else 2 for what is not comparable, else 3 for undecided, else 0.

    Only verdicts that fail the build count, `undecided` only if proof is required.
    """
    return code(
        {
            verdict.status
            for verdict in verdicts
            if fails(verdict.status, verdict.rule.tier, tiers, require_proof=require_proof)
        }
    )
