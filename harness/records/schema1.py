"""Files of schema 1, which version 0.1.0 wrote: their kind, and their fields in schema 2.

Such a file does not name its kind, and some fields have other names. All other modules know only
schema 2.
"""

from collections.abc import Mapping
from typing import Any

_KEYS = {"jitter": "movements", "outcomes": "ids", "baseline": "score", "baseline runs": "runs"}
"""Kind -> a field that only files of this kind have; everything else is a record."""


def kind_of(value: Mapping[str, Any]) -> str:
    """The kind of a file, judged by its fields."""
    return next((kind for kind, key in _KEYS.items() if key in value), "record")


def upgrade(value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields in schema 2; the caller reports fields that are missing or of another type."""
    match kind_of(value):
        case "record":
            return _record(value)
        case "outcomes":
            return _outcomes(value)
        case "baseline runs":
            runs = [
                {"record": _record(run["record"]), "outcomes": _outcomes(run["items"])}
                for run in value["runs"]
            ]
            return {**value, "runs": runs}
        case "jitter":
            return {**_without(value, "movements"), "scores": value["movements"]}
    return dict(value)


def _record(value: Mapping[str, Any]) -> dict[str, Any]:
    record = _without(value, "items_sha256", "items")
    record["schema"] = 2
    record.setdefault("rows", value.get("examples"))  # early records have one number for both
    record["outcomes_sha256"] = value.get("items_sha256")
    for name in ("data", "pool"):
        if value.get(name):
            record[name] = {**_without(value[name], "road"), "source": value[name]["road"]}
    return {"kind": "record", **record}


def _outcomes(value: Mapping[str, Any]) -> dict[str, Any]:
    metrics = {
        name: {"examples": outcomes["of"], "values": outcomes["values"]}
        for name, outcomes in value["outcomes"].items()
    }
    kept = _without(value, "outcomes")
    return {**kept, "kind": "outcomes", "schema": 2, "metrics": metrics}


def _without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: part for key, part in value.items() if key not in names}
