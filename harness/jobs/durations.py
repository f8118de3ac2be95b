"""Durations such as `90s` or `2h`."""

import re

from harness.errors import UsageError, clipped_repr

MAX_SECONDS = 100 * 365 * 86400  # anything longer is a typo
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_duration(text: str, *, example: str = "90s", zero: bool = False) -> float:
    """`90s`, `10m`, `2h`, `30d` or `8w` in seconds.

    Args:
        text: the duration.
        example: shown in the error message.
        zero: whether a duration of 0 is allowed.

    Raises:
        UsageError: it is not a duration, or longer than 100 years.
    """
    shown = clipped_repr(text, 40)
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", text.lower())
    if not match:
        raise UsageError(f"{shown}: expected a number and s, m, h, d or w, such as {example}")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds == 0 and not zero:
        raise UsageError(f"{shown}: expected more than 0, such as {example}")
    if seconds > MAX_SECONDS:
        raise UsageError(f"{shown}: expected at most 100 years")
    return seconds
