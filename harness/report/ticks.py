"""Logarithmic axes: what they show, and the round numbers that stand at them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

NARROW, WIDE = 0.9, 2.2  # decades: ticks as on a plain axis below, powers of ten above
SHARE = 0.06  # of the length of an axis that is left free on each side


class Span(NamedTuple):
    """What an axis shows."""

    low: float
    high: float

    @property
    def decades(self) -> float:
        """How many powers of ten."""
        return math.log10(self.high / self.low)


def around(values: Sequence[float], margin: float, least: float) -> Span:
    """From below the least to above the largest value.

    Args:
        values: positive.
        margin: factor on each side, at least; more where the values are far apart.
        least: the ratio of both ends, at least.
    """
    low, high = min(values), max(values)
    more = max(margin, (high / low) ** SHARE, math.sqrt(least * low / high))
    return Span(low / more, high * more)


def ticks(span: Span) -> list[float]:
    """Round numbers within a span, some three to seven."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if span.decades < NARROW:
        found = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(*span)
    else:
        found = LogLocator(subs=(1, 2, 5) if span.decades < WIDE else (1,)).tick_values(*span)
    return [float(tick) for tick in found if span.low <= tick <= span.high]


def short(number: float) -> str:
    """A number in a few letters.

    >>> short(124_439_808), short(1.5e9), short(500)
    ('124M', '1.5B', '500')
    """
    if number >= 1e15:
        return f"{number:.3g}"
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:g}"
