"""Types of option values: numbers in a range, durations and sizes."""

import math
import re
from typing import Any

import click

from harness.errors import UsageError, clipped_repr
from harness.jobs.durations import parse_duration

MAX_BYTES = 2**63 - 1  # of a size; the largest integer of SQLite
_BYTES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}

Context = click.Context | None
Parameter = click.Parameter | None


class Number(click.FloatRange):
    """A number in a range; refuses `nan`, which click accepts."""

    def convert(self, value: Any, param: Parameter, ctx: Context) -> float:
        """Parse a number."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """`90s`, `10m`, `2h`, `30d` or `8w` in seconds.

    Args:
        example: shown in the error message.
        zero: whether a duration of 0 is allowed.
    """

    name = "duration"

    def __init__(self, example: str, *, zero: bool = False) -> None:
        self._example, self._zero = example, zero

    def convert(self, value: Any, param: Parameter, ctx: Context) -> float:
        """Parse a duration; return seconds."""
        try:
            return parse_duration(str(value), example=self._example, zero=self._zero)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """`500M` or `2G` in bytes, by powers of 1000."""

    name = "size"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> int:
        """Parse a size; return bytes."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kmgt]?)b?", str(value).lower())
        if not match:
            units = "expected a number and k, M, G or T, such as 2G"
            self.fail(f"{clipped_repr(str(value), 40)}: {units}", param, ctx)
        size = float(match[1]) * _BYTES[match[2]]
        if size > MAX_BYTES:
            self.fail(
                f"{clipped_repr(str(value), 40)}: expected at most {MAX_BYTES} bytes", param, ctx
            )
        return min(int(size), MAX_BYTES)


LEVEL = Number(1e-12, 1, max_open=True)
"""Significance level of a test; the normal distribution has no quantile for a smaller one."""
