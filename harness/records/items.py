"""The outcomes of a record's items, in a file beside it, for comparing two runs item by item.

A record stays small and quick to read; whoever compares reads `<record>.items.json.gz` as well:

    {"schema": 1, "ids": ["0", ...], "shown": [["asked", "wanted", "got"], ...],
     "outcomes": {"ppl": {"of": [0, ...], "values": [[2.31, 1.0], ...]}, ...}}
"""

import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.core import (
    Example,
    Generated,
    Request,
    Response,
    RollingLoglikelihood,
    Scored,
    Word,
    request_text,
)
from harness.errors import RecordError
from harness.files import strict_json

SCHEMA = 1
LONGEST = 160  # characters of a text that is shown


class Shown(NamedTuple):
    """What a person would want to see of an item, shortened."""

    asked: str  # the end of the first prompt
    wanted: str
    got: str


class Outcomes(NamedTuple):
    """All outcomes of one measure."""

    of: tuple[int, ...]  # which item each belongs to
    values: tuple[tuple[float, ...], ...]  # the statistics


@dataclass(frozen=True, slots=True)
class Items:
    """One run's items."""

    ids: tuple[str, ...]
    shown: tuple[Shown, ...]
    outcomes: Mapping[str, Outcomes]  # by measure; those of texts are left out

    def has(self, measure: str) -> bool:
        """Whether there is any outcome of a measure."""
        return measure in self.outcomes and bool(self.outcomes[measure].of)

    def keys(self, measure: str) -> list[tuple[str, int]]:
        """(item, part) of each outcome of a measure: what stays the same from run to run."""
        count: dict[int, int] = {}
        found = []
        for item in self.outcomes[measure].of:
            part = count[item] = count.get(item, -1) + 1
            found.append((self.ids[item], part))
        return found


def show(example: Example, pairs: Sequence[tuple[Request, Response]]) -> Shown:
    """The texts of an item, from its requests and responses."""
    if not pairs:
        return Shown("", "", "")
    asked = request_text(pairs[0][0])
    if isinstance(pairs[0][0], RollingLoglikelihood):
        return Shown(_start(asked), "", f"{pairs[0][1].logprob:.2f} nats")  # type: ignore[union-attr]
    wanted = " | ".join(example.references)
    return Shown(_end(asked), _start(wanted), _start(_said(pairs)))


def _said(pairs: Sequence[tuple[Request, Response]]) -> str:
    """What the model wrote last, and the continuation that it finds most probable."""
    texts = [r.text.strip() for _, r in pairs if isinstance(r, Word | Generated)]
    scored = [(r.logprob, r.is_greedy, q) for q, r in pairs if isinstance(r, Scored)]
    found = texts[-1:]
    if scored:
        best, greedy, request = max(scored, key=lambda pair: pair[0])
        mark = ", argmax" if greedy else ""
        text = getattr(request, "continuation", "").strip()
        found.append(f"{text} ({best:.2f} nats{mark})")
    return "; ".join(found)


def _end(text: str) -> str:
    return text if len(text) <= LONGEST else f"...{text[-LONGEST:]}"


def _start(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def to_json(items: Items) -> dict[str, Any]:
    """The items as plain JSON values."""
    return {
        "schema": SCHEMA,
        "ids": items.ids,
        "shown": items.shown,
        "outcomes": {name: o._asdict() for name, o in items.outcomes.items()},
    }


def from_json(value: Any, name: str) -> Items:
    """The items in a parsed JSON value that came from `name`.

    Raises:
        RecordError: it holds no items, or they contradict each other.
    """
    try:
        if value["schema"] != SCHEMA:
            raise RecordError(f"{name} has schema {value['schema']!r}, expected {SCHEMA}")
        outcomes = {measure: _outcomes(found) for measure, found in value["outcomes"].items()}
        shown = tuple(Shown(*(str(text) for text in texts)) for texts in value["shown"])
        items = Items(tuple(str(i) for i in value["ids"]), shown, outcomes)
        places = (place for o in outcomes.values() for place in o.of)
        if len(shown) != len(items.ids) or not all(0 <= p < len(items.ids) for p in places):
            raise ValueError("an outcome of no item")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{name} holds no items of a record ({error})") from error
    return items


def pack(value: Any) -> bytes:
    """A JSON value as a gzip file; the same value gives the same bytes."""
    plain = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return gzip.compress(plain.encode("utf-8", "surrogatepass"), mtime=0)


def unpack(data: bytes, name: str) -> Any:
    """The JSON value in a gzip file's bytes.

    Raises:
        RecordError: they are no such file, or it is damaged.
    """
    try:
        text = gzip.decompress(data).decode("utf-8", "surrogatepass")
        return strict_json.loads(text, allow_surrogates=True)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise RecordError(f"{name} is damaged, or no file of ours ({error})") from error


def _outcomes(found: Mapping[str, Any]) -> Outcomes:
    values = tuple(tuple(_number(x) for x in outcome) for outcome in found["values"])
    of = tuple(int(_number(place)) for place in found["of"])
    if len(of) != len(values) or len({len(outcome) for outcome in values}) > 1:
        raise ValueError("outcomes of different lengths")
    return Outcomes(of, values)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)
