"""A call to a model server: one HTTP request, and how the caller reads its reply."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, below the root of a server."""

    path: str  # such as "v1/completions"
    body: Mapping[str, Any] | None = None  # sent by POST as JSON; None: GET
    group: Hashable = None
    """Calls of one group share a long prefix, and go to the same replica as far as possible."""


class Ask(NamedTuple, Generic[T]):
    """A call, and what makes a value of the parsed JSON that it returns.

    `read` raises a ResponseError if the reply is not an answer to the call.
    """

    call: Call
    read: Callable[[Any], T]
