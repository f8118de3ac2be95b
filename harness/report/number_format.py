"""Numbers as text, the same in the terminal and on the report page."""

from harness.analysis.paper import published


def number(value: float | None, unit: str = "") -> str:
    """Two decimals as in the paper, four for bits; very large values as 1.23e+45."""
    if value is None:
        return "-"
    if unit.startswith("bits"):
        return f"{value:.4f}"
    return f"{value:.2f}" if abs(value) < 1e5 else f"{value:.3g}"


def interval(low: float | None, high: float | None, unit: str) -> str:
    """`1.00 to 2.00`; empty if there is none."""
    if low is None or high is None:
        return ""
    return f"{number(low, unit)} to {number(high, unit)}"


def distance(value: float | None, reference: float | None, unit: str) -> str:
    """The difference to another number: points for accuracies, else percent or a factor."""
    if value is None or reference is None:
        return ""
    gap = published.difference(value, reference, unit)
    if unit in published.POINTS:
        return f"{gap:+.2f} pt"
    return f"{gap:+.1%}" if gap < 9 else f"x {gap + 1:.3g}"


def signed(value: float | None, unit: str) -> str:
    """With its sign, unless it is rounded to zero."""
    if value is None:
        return ""
    text = number(abs(value), unit)
    return text if float(text) == 0 else f"{'-' if value < 0 else '+'}{text}"


def signed_interval(low: float | None, high: float | None, unit: str) -> str:
    """`-1.00 to +2.00`; empty if there is none."""
    if low is None or high is None:
        return ""
    return f"{signed(low, unit)} to {signed(high, unit)}"


def p_value(value: float | None) -> str:
    """Three decimals, small ones as 1.2e-05; empty if there was no test."""
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def short(number: float) -> str:
    """Three digits and a letter.

    >>> short(124_439_808), short(1.5e9), short(500)
    ('124M', '1.5B', '500')
    """
    if number >= 1e15:
        return f"{number:.3g}"
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:g}"
