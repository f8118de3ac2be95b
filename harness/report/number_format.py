"""Numbers as text, the same on the terminal and on the report page."""

from harness.analysis.paper import published


def number(value: float | None, unit: str = "") -> str:
    """Two decimals as in the paper, four for bits; very large values as 1.23e+45."""
    if value is None:
        return "-"
    if unit.startswith("bits"):
        return f"{value:.4f}"
    return f"{value:.2f}" if abs(value) < 1e5 else f"{value:.3g}"


def interval(low: float | None, high: float | None, unit: str) -> str:
    """`1.00 to 2.00`; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"{number(low, unit)} to {number(high, unit)}"


def distance(value: float | None, beside: float | None, unit: str) -> str:
    """Ours against another number: points for accuracies, else a share, or a factor from ten on."""
    if value is None or beside is None:
        return ""
    found = published.difference(value, beside, unit)
    if unit in published.POINTS:
        return f"{found:+.2f} pt"
    return f"{found:+.1%}" if found < 9 else f"x {found + 1:.3g}"


def signed(value: float | None, unit: str) -> str:
    """With its sign; no sign on what is zero as shown."""
    if value is None:
        return ""
    text = number(abs(value), unit)
    return text if float(text) == 0 else f"{'-' if value < 0 else '+'}{text}"


def signed_interval(low: float | None, high: float | None, unit: str) -> str:
    """`-1.00 to +2.00`; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"{signed(low, unit)} to {signed(high, unit)}"


def p_value(value: float | None) -> str:
    """Three decimals, small ones as 1.2e-05; empty where nothing was tested."""
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
