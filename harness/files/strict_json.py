"""Parse strict JSON: finite numbers, bounded integers and nesting, valid characters."""

import json
import math
import re
from typing import Any

MAX_DIGITS = 300  # of an integer; one with more does not fit a float
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def loads(text: str | bytes, *, allow_nan: bool = False, allow_surrogates: bool = False) -> Any:
    """Parse a JSON text; bytes are decoded as UTF-8.

    Args:
        text: The JSON text.
        allow_nan: Accept NaN and infinities, and read floats that are too large as infinities.
        allow_surrogates: Accept half of a surrogate pair, which UTF-8 cannot encode.

    Raises:
        ValueError: the text is not strict JSON; the message is one line.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    floats: dict[str, Any] = {} if allow_nan else {"parse_constant": _refuse, "parse_float": _float}
    try:
        value = json.loads(text, parse_int=_integer, **floats)
        if not allow_surrogates and _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()  # complete pairs are one character
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"a string holds half of a surrogate pair ({half!r})") from None
    return value


def _integer(text: str) -> int:
    if (digits := len(text.lstrip("-"))) > MAX_DIGITS:
        raise ValueError(f"an integer has {digits:,} digits, expected at most {MAX_DIGITS}")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _refuse(text: str) -> float:
    raise ValueError(f"{text[:40]} is not a finite number")
