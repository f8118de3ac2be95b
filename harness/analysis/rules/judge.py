"""What a rule says about the difference of two scores: a status, and the reason in words."""

import math
from dataclasses import dataclass

from harness.analysis.rules.rule import Rule
from harness.analysis.rules.tiers import Status
from harness.stats.limits import Limits
from harness.stats.paired import Difference
from harness.stats.pooled import Pooled

ROUNDING = 1e-5  # relative to the score; a paired test detects any bias, even in the last digits
NO_RULE, IN_POOL = "no rule", "part of the pooled decision"
NO_TEST = "no paired test: each run chooses the examples of this score"
EMPTY_POOL = "no score of the pooled decision can be tested"


@dataclass(frozen=True, slots=True)
class Case:
    """A score that can be compared."""

    rule: Rule
    difference: Difference
    higher_is_better: bool
    alpha: float
    noise: float = 0.0  # by which the score moves without a cause
    p: float | None = None  # one-sided, that it is worse; adjusted over all tests
    limits: Limits | None = None  # of the loss, for `proved`
    more: int | None = None  # examples that would decide, where `proved` is undecided

    @property
    def worse(self) -> float:
        """The loss that was measured."""
        value = self.difference.value
        return -value if self.higher_is_better else value

    @property
    def rounding(self) -> float:
        """A loss that may come from rounding."""
        return ROUNDING * abs(self.difference.a)

    @property
    def allowed(self) -> float:
        """The loss that the rule's number, or the noise, allows."""
        share = abs(self.difference.a) if self.rule.kind == "relative" else 1.0
        return max(self.rule.amount * share, self.noise)


def judge(case: Case) -> tuple[Status, str]:
    """Status and reason of a score."""
    kind = case.rule.kind
    if kind == "report":
        return "reported", NO_RULE
    if kind in ("absolute", "relative"):
        return _by_tolerance(case)
    pairs = case.difference.pairs
    if case.difference.test == "none" and pairs > 1:
        return "not comparable", NO_TEST
    if kind == "pooled":
        return "reported", IN_POOL
    if case.limits and case.p is not None:
        return _by_limits(case, case.limits)
    alpha = 0.0 if case.p is None else case.alpha  # without a test, no p is small enough
    if few := too_few(pairs, alpha):
        return "not comparable", few
    return _by_test(case)


def _by_tolerance(case: Case) -> tuple[Status, str]:
    if case.worse > case.allowed:
        return "regression", f"worse by {case.worse:.4g}, allowed is {case.allowed:.4g}"
    if -case.worse > case.allowed > 0:
        return "improved", f"better by {-case.worse:.4g}"
    return "within tolerance", f"allowed is {case.allowed:.4g}"


def _by_test(case: Case) -> tuple[Status, str]:
    """By the paired test of any loss."""
    p, p_both, worse = case.p, case.difference.p, case.worse
    assert p is not None, "there is a test"
    allowed = max(case.allowed, case.rounding)
    if p < case.alpha and worse > allowed:
        return "regression", f"worse by {worse:.4g}, one-sided p {p:.2g} after Holm"
    if p < case.alpha:
        return "no regression seen", f"worse by {worse:.4g}, which is within {allowed:.4g}"
    if p_both is not None and p_both < case.alpha and -worse > allowed:
        return "improved", f"better by {-worse:.4g}, two-sided p {p_both:.2g}"
    return "no regression seen", f"one-sided p {p:.2g} after Holm"


def _by_limits(case: Case, limits: Limits) -> tuple[Status, str]:
    """By the limits of the loss, and the margin that they are held against."""
    p, upper, margin = case.p, limits.upper, case.allowed
    if upper is not None and upper < margin:
        at_most = f"a loss of at most {upper:.4g}" if upper > 0 else "no loss"
        return "fine", f"{at_most} at level {case.alpha:g}, margin {margin:.4g}"
    assert p is not None, "there is a test"
    if p < case.alpha and case.worse > case.rounding:
        return "regression", f"worse by {case.worse:.4g}, one-sided p {p:.2g} after Holm"
    limited = upper is not None and math.isfinite(upper)
    possible = f"a loss of up to {upper:.4g}" if limited else "any loss"
    more = would_decide(case.more, "example")
    return "undecided", f"{possible} is possible, margin {margin:.4g}; {more}"


def too_few(units: int, alpha: float) -> str:
    """Why so few units cannot show a loss at this level, whatever they are; empty if they can."""
    smallest_p = 0.5**units
    return f"{units} examples are too few for a paired test" if smallest_p >= alpha else ""


def would_decide(more: int | None, what: str) -> str:
    """How many more examples or items would decide, in words."""
    count = f"hardly any number of {what}s"
    if more:
        count = f"about {more:,} more {what}{'s' * (more != 1)}"
    return f"{count} would decide with 90 % probability"


def judge_pooled(
    pooled: Pooled, p: float, *, alpha: float, scores: int, beyond: bool
) -> tuple[Status, str]:
    """Status and reason of the pooled decision; `p` is one-sided and adjusted.

    `beyond` says whether any score is worse by more than rounding and noise explain.
    """
    if few := too_few(pooled.units, alpha):
        return "not comparable", few
    size = pooled_size(pooled.loss, scores)
    if p < alpha and beyond:
        return "regression", f"worse by {size}, one-sided p {p:.2g} after Holm"
    if pooled.p < alpha and pooled.loss < 0:
        return "improved", f"better by {size}, two-sided p {pooled.p:.2g}"
    return "no regression seen", f"{scores} scores on average, one-sided p {p:.2g} after Holm"


def pooled_size(loss: float, scores: int) -> str:
    """The size of a pooled loss or gain, in words."""
    return f"{abs(loss):.2g} standard errors on average over {scores} scores"
