"""A rule says when a score that has become worse is a regression, and how much that matters."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from harness.analysis.paper.published import POINTS
from harness.core import Score
from harness.errors import UsageError, clipped_repr

Tier = Literal["critical", "supporting", "advisory"]
TIERS: tuple[Tier, ...] = get_args(Tier)
KINDS = {
    "proved": "margin",  # fine if the loss is shown to be below this, in the score's unit
    "paired": "delta",  # worse by more than delta, and the paired test says so
    "absolute": "tolerance",  # worse by more than this, in the score's unit
    "relative": "tolerance",  # worse by more than this share of the baseline
    "pooled": "",  # one decision for all such scores together
    "report": "",  # never fails
}
"""Rule -> the name of its number."""
OWN_TEST = ("proved", "paired")  # of the score alone, by swapping the runs example by example
TESTED = (*OWN_TEST, "pooled")
KEYS = ("task", "protocol", "metric", "value", "unit", "tier", "rule", "margin", "min_loss",
        "delta", "tolerance", "pooled")  # fmt: skip
"""What a score has in a baseline's file."""
NUMBER = re.compile(r"\s*([+-]?(?:[0-9.]+(?:e[+-]?[0-9]+)?|nan|inf))\s*(.*?)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule of one score; numbers are in the score's unit, that of `relative` is a share."""

    kind: str
    amount: float = 0.0
    min_loss: float = 0.0  # `proved`: a loss of at most this is no regression
    tier: Tier = "critical"
    pooled: bool = False  # whether the score counts in the pooled decision besides

    def __str__(self) -> str:
        name = KINDS[self.kind]
        return f"{self.kind}, {name} {self.amount:g}" if name else self.kind

    @property
    def margin(self) -> float | None:
        """The loss that a verdict `fine` rules out; None if the rule has no such verdict."""
        return self.amount if self.kind == "proved" else None

    @property
    def in_pool(self) -> bool:
        """Whether the score counts in the pooled decision."""
        return self.pooled or self.kind == "pooled"


def pooled_rule(rules: Iterable[Rule]) -> Rule | None:
    """The rule of the pooled decision, in the highest tier of its scores; None without any."""
    tiers = [rule.tier for rule in rules if rule.in_pool]
    return Rule("pooled", tier=min(tiers, key=TIERS.index)) if tiers else None


class Amount(NamedTuple):
    """A number as it was written, with its unit: "" for the score's, "%" for a share of it."""

    number: float
    unit: str = ""


ZERO = Amount(0.0)


class WrittenRule(NamedTuple):
    """A rule as it was written, for any score."""

    kind: str = "paired"
    amount: Amount = ZERO

    def of(
        self, name: str, score: Score, min_loss: Amount = ZERO, tier: str = "critical",
        pooled: bool = False,
    ) -> Rule:  # fmt: skip
        """The rule of a score of the baseline, which messages call by `name`.

        Raises:
            UsageError: a number is not in the unit of the score, or out of range.
        """
        what = f"{name}: rule {self.kind!r}"
        amount = _in_unit_of(score, self.amount, f"{what}: {KINDS[self.kind]}", self.kind)
        least = _in_unit_of(score, min_loss, f"{what}: min_loss", self.kind)
        if self.kind == "proved":
            _check_margin(amount, score, name, what)
            if least > amount:
                raise UsageError(
                    f"{what}: min_loss {least:g} is greater than the margin {amount:g}; expected "
                    "a loss that is too small to matter, below the margin"
                )
        elif least:
            raise UsageError(f"{what} takes no min_loss, which belongs to 'proved'; leave it out")
        return Rule(self.kind, amount, least, parse_tier(tier, what), pooled)


PAIRED = WrittenRule()


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a new baseline."""

    rule: WrittenRule = PAIRED  # of every score without its own
    scores: Mapping[tuple[str, str], WrittenRule | None] = field(default_factory=dict)
    """(task, metric) of scores to add, or of those with a rule of their own."""
    tier: str = "critical"
    pooled: bool = False  # whether all scores are decided together besides


def parse_rule(text: str) -> WrittenRule:
    """The rule in `paired:0.5` or `proved:2%`; the number may be left out where it is 0."""
    name, colon, amount = text.partition(":")
    what = f"rule {clipped_repr(text, 60)}"
    kind = _parse_kind(name, what)
    if kind == "proved" and not amount:
        raise UsageError(
            f"{what}: expected a margin after a colon, such as proved:0.5 or proved:2%"
        )
    if colon and not KINDS[kind]:
        raise UsageError(f"{what}: {kind} takes no number; leave it out")
    return WrittenRule(kind, parse_amount(amount or 0, what, positive=kind == "proved"))


def _parse_kind(kind: Any, what: str) -> str:
    if kind in KINDS:
        return str(kind)
    raise UsageError(f"{what}: expected one of {', '.join(KINDS)}, such as proved:0.5")


def parse_amount(value: object, what: str, *, positive: bool = False) -> Amount:
    """The number of a rule, from a file or the command line, with the unit behind it if any."""
    text = str(value) if isinstance(value, str | int | float) else ""
    match = NUMBER.fullmatch(text)
    number = _number(match[1]) if match else math.nan
    if match is None or not 0 <= number < math.inf or (positive and not number):
        allowed = "above zero" if positive else "that is not negative"
        raise UsageError(
            f"{what}: expected a number {allowed}, in the score's unit or in percent of its "
            f"value, such as 0.5 or 2%; got {clipped_repr(text or value, 40)}"
        )
    return Amount(number, match[2])


def rule_in(entry: Mapping[str, Any], name: str, score: Score) -> Rule:
    """The rule in an entry of a baseline's file, for the score that it names."""
    kind = _parse_kind(entry["rule"], f"{name}: rule {clipped_repr(entry['rule'], 60)}")
    what = f"{name}: rule {kind!r}"
    if unknown := [key for key in entry if key not in KEYS]:
        raise UsageError(
            f"{name}: unknown {clipped_repr(unknown[0], 40)}; a score has {', '.join(KEYS)}"
        )
    if KINDS[kind] not in ("", *entry):
        raise UsageError(f"{what} has no {KINDS[kind]}; write one, such as {KINDS[kind]} = 0.5")
    amount = parse_amount(entry.get(KINDS[kind], 0), what, positive=kind == "proved")
    pooled = entry.get("pooled", False)
    if not isinstance(pooled, bool):
        raise UsageError(f"{what}: pooled is {clipped_repr(pooled, 40)}; expected true or false")
    least = parse_amount(entry.get("min_loss", 0), f"{what}: min_loss")
    return WrittenRule(kind, amount).of(name, score, least, entry.get("tier", "critical"), pooled)


def parse_score(text: str) -> tuple[tuple[str, str], WrittenRule | None]:
    """((task, metric), its own rule if any) in `cbt-cn:nats` or `lambada:ppl=proved:2%`.

    The names of other programs' tasks may have a colon or an equals sign; metrics and rules do not.
    """
    name, equals, rule = text.rpartition("=") if "=" in text else (text, "", "")
    task, _, metric = name.rpartition(":")
    if not (task and metric) or (equals and not rule):
        raise UsageError(
            f"score {clipped_repr(text, 60)}: expected TASK:METRIC or TASK:METRIC=RULE, such as "
            "cbt-cn:nats or lambada:ppl=proved:2%"
        )
    return (task, metric), parse_rule(rule) if rule else None


def parse_tier(text: object, what: str) -> Tier:
    """A tier by its name."""
    for tier in TIERS:
        if text == tier:
            return tier
    known = ", ".join(TIERS)
    raise UsageError(f"{what}: tier {clipped_repr(text, 60)}; expected {known}")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # such as 1.2.3
        return math.nan


def _in_unit_of(score: Score, amount: Amount, what: str, kind: str) -> float:
    """An amount in the score's unit; of the rule `relative`, as a share."""
    relative = kind == "relative"
    if amount.unit == "%":
        share = amount.number / 100
        return share if relative else float(f"{share * abs(score.value):.4g}")
    units = (
        ["points", "point"] if score.unit in POINTS else [score.unit, score.unit.split(" per ")[0]]
    )
    if amount.unit and (relative or amount.unit not in units):
        expected = "a share, such as 0.05 or 5%" if relative else f"{units[0]!r} or '%'"
        raise UsageError(
            f"{what} is in {clipped_repr(amount.unit, 40)}; expected {expected} (of the baseline's "
            "value), or a number alone"
        )
    return amount.number


def _check_margin(margin: float, score: Score, name: str, what: str) -> None:
    """Refuse margins that no loss can reach, which are surely in another unit."""
    has_zero = not score.higher_is_better or score.unit in POINTS  # others may be negative
    if not margin or (has_zero and not score.value):
        raise UsageError(
            f"{what}: the baseline's value is {score.value:g}, of which no share can be lost; give "
            f"the score a rule of its own, such as --score {':'.join(name.rsplit(' ', 1))}=report"
        )
    if has_zero and margin >= abs(score.value):
        raise UsageError(
            f"{what}: margin {margin:g} is not smaller than the baseline's value {score.value:g} "
            f"({score.unit}); expected a loss in that unit that would still be acceptable, or in "
            "percent of the value, such as 2%"
        )
