"""What every reply of a server must be. Each function returns a checked value or raises.

`what` names the value in the words of the server, such as `usage.prompt_tokens`.
"""

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from harness.errors import ResponseError, clipped_repr

ABSENT = -9999.0  # what vLLM sends for minus infinity, and for a token that it left out
ROUNDING = 1e-6  # nats above 0 that are rounding of the server
_MAX_SHOWN = 60
_KEY = re.compile("token_id:(0|[1-9][0-9]*)")


def refuse(what: str, expected: object, got: Any) -> NoReturn:
    """Raise the ResponseError of a value that is not as expected."""
    shown = clipped_repr(got, _MAX_SHOWN)
    raise ResponseError(f"the server's {what}: expected {expected}, got {shown}")


def part(reply: Any, *path: str | int) -> Any:
    """The value at a path of keys and indices, such as `"usage", "prompt_tokens"`."""
    value = reply
    for depth, key in enumerate(path):
        holds = isinstance(value, dict) if isinstance(key, str) else isinstance(value, list)
        if not holds:
            refuse(_dotted(path[:depth]), "an object" if isinstance(key, str) else "a list", value)
        try:
            value = value[key]
        except (KeyError, IndexError):
            refuse(_dotted(path[: depth + 1]), "a value", None)
    return value


def _dotted(path: Sequence[str | int]) -> str:
    name = "".join(f".{key}" if isinstance(key, str) else f"[{key}]" for key in path)
    return name.lstrip(".") or "reply"


def optional(reply: Any, *path: str) -> Any:
    """The value at a path of keys; None if there is none."""
    for key in path:
        if not isinstance(reply, dict):
            return None
        reply = reply.get(key)
    return reply


def text(value: Any) -> str:
    """What a server says of itself in words; empty if it says nothing."""
    return value if isinstance(value, str) else ""


def counted(value: Any, what: str) -> int | None:
    """A number of tokens, if the server says it."""
    return None if value is None else whole(value, what)


def items(value: Any, count: int, what: str) -> list[Any]:
    """A list with `count` items."""
    if not isinstance(value, list):
        refuse(what, f"a list of {count}", value)
    if len(value) != count:
        refuse(what, f"{count} items", len(value))
    return value


def whole(value: Any, what: str) -> int:
    """A whole number from 0, such as a token id or a count."""
    if type(value) is not int or value < 0:
        refuse(what, "a whole number from 0", value)
    return value


def token_ids(value: Any, what: str) -> tuple[int, ...]:
    """A list of token ids."""
    if not isinstance(value, list):
        refuse(what, "a list of token ids", value)
    return tuple(whole(token, f"{what}[{i}]") for i, token in enumerate(value))


def keyed_token(key: Any, what: str) -> int:
    """The token id in a key such as `token_id:28`."""
    match = _KEY.fullmatch(key) if isinstance(key, str) else None
    return int(match[1]) if match else refuse(what, "keys such as token_id:28", key)


def logprob(value: Any, what: str) -> float:
    """A log-probability in nats: finite and at most 0."""
    if type(value) is not float and type(value) is not int:
        refuse(what, "a log-probability", value)
    if not ABSENT < value <= ROUNDING:  # also false for NaN
        refuse(what, f"a log-probability between {ABSENT:g} and 0", value)
    return min(float(value), 0.0)


def equal(value: Any, expected: object, what: str) -> None:
    """Refuse anything but one value."""
    if type(value) is not type(expected) or value != expected:
        refuse(what, expected, value)


def same_tokens(value: Any, sent: Sequence[int], what: str) -> None:
    """Refuse token ids that are not those that were sent."""
    if value == list(sent):
        return
    got = token_ids(value, what)
    if len(got) != len(sent):
        refuse(what, f"the {len(sent)} token ids that were sent", len(got))
    at = next(i for i, (a, b) in enumerate(zip(got, sent, strict=True)) if a != b)
    refuse(f"{what}[{at}]", f"token {sent[at]}, which was sent", got[at])


def tokenized(reply: Any) -> tuple[int, ...]:
    """The token ids of a text in the reply of `/tokenize`."""
    ids = token_ids(part(reply, "tokens"), "tokens")
    if (count := optional(reply, "count")) is not None:
        equal(count, len(ids), "count")
    return ids
