"""The head of every JSON file that the harness writes, `kind` and `schema`, and its checks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from harness.errors import RecordError, UsageError
from harness.files import strict_json
from harness.records import schema1

SCHEMA = 2
Kind = Literal["record", "outcomes", "baseline", "baseline runs", "jitter", "watch", "gate"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_HINTS = {
    "baseline": "; write one with harness baseline",
    "jitter": "; write one with harness jitter",
    "gate": "; remove it, or give another --out",
}


def header(kind: Kind) -> dict[str, Any]:
    """The first fields of a file."""
    return {"kind": kind, "schema": SCHEMA}


def kind_of(value: Any) -> str | None:
    """The kind of a parsed file of any schema; None if the harness did not write it."""
    if not isinstance(value, dict):
        return None
    if value.get("schema") == 1:
        return schema1.kind_of(value)
    kind = value.get("kind")
    return kind if isinstance(kind, str) else None


def fields(value: Any, kind: Kind, name: str) -> dict[str, Any]:
    """The fields of a parsed file called `name` in the current schema, without its head.

    Raises:
        RecordError: the file is not of the given kind, or of an unknown schema.
    """
    actual, number = kind_of(value), value.get("schema") if isinstance(value, dict) else None
    if actual != kind or number not in (1, SCHEMA):
        raise RecordError(
            f"{name}: expected a file of kind {kind!r} and schema {SCHEMA} or 1, got "
            + (f"kind {actual!r} and schema {number!r}" if number else "something else")
            + _HINTS.get(kind, "")
        )
    if number == 1:
        with malformed(name, kind):
            value = schema1.upgrade(value)
    return {key: part for key, part in value.items() if key not in ("kind", "schema")}


def load(path: Path) -> Any:
    """The JSON value in a file."""
    return parse(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The content of a file; a RecordError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read {str(path)!r}: {error.strerror}") from error


def parse(data: bytes, name: str) -> Any:
    """The JSON value in the content of a file called `name`; a RecordError if it is not JSON."""
    try:
        return strict_json.loads(data)
    except ValueError as error:
        raise RecordError(f"{name!r} is not a JSON file: {error}") from error


@contextmanager
def malformed(name: str, kind: str) -> Iterator[None]:
    """Report content of unexpected types or with missing fields as one RecordError."""
    try:
        yield
    except (
        LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError,
        UsageError,
    ) as error:  # fmt: skip
        detail = f"({type(error).__name__}: {error}){_HINTS.get(kind, '')}"
        raise RecordError(f"{name} is not a valid {kind} file {detail}") from error
