"""Tiers: which verdicts fail a build."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from harness.analysis.rules.rule import Tier, parse_tier
from harness.errors import UsageError, clipped_repr

Status = Literal[
    "fine",  # proved: the loss is shown to be below the margin
    "regression",
    "undecided",  # proved: neither
    "no regression seen",  # paired and pooled
    "within tolerance",  # absolute and relative
    "improved",
    "not comparable",
    "reported",
]
"""The verdict on a score."""
Failing = Literal["regression", "undecided", "not comparable"]
Tiers = Mapping[Tier, tuple[Failing, ...]]
"""The verdicts that fail the build, for each tier."""

DEFAULT_TIERS: Tiers = {
    "critical": ("regression", "undecided", "not comparable"),
    "supporting": ("regression",),
    "advisory": (),
}
FINE, REGRESSION, NOT_COMPARABLE, UNDECIDED = 0, 1, 2, 3  # exit codes


def parse_tiers(table: Mapping[str, Any]) -> Tiers:
    """The `[tiers]` of a baseline's file; tiers that it leaves out have their defaults.

    Raises:
        UsageError: there is no such tier, or a verdict cannot fail a build.
    """
    tiers = dict(DEFAULT_TIERS)
    for name, verdicts in table.items():
        tiers[parse_tier(name, "tiers")] = tuple(
            _failing(verdict, name)
            for verdict in (verdicts if isinstance(verdicts, list) else [verdicts])
        )
    return tiers


def _failing(verdict: Any, tier: str) -> Failing:
    for known in get_args(Failing):
        if verdict == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(
        f"tiers: {tier} lists {clipped_repr(verdict, 60)}; expected verdicts that can fail a "
        f"build: {', '.join(get_args(Failing))}"
    )


def fails(status: Status, tier: Tier, tiers: Tiers, *, require_proof: bool = False) -> bool:
    """Whether a verdict fails the build; `undecided` does so only if proof is required."""
    return status in tiers[tier] and (status != "undecided" or require_proof)


def code(failing: set[Status]) -> int:
    """The exit code for the verdicts that fail the build."""
    if "regression" in failing:
        return REGRESSION
    if "not comparable" in failing:
        return NOT_COMPARABLE
    return UNDECIDED if "undecided" in failing else FINE
