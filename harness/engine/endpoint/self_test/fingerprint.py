"""The fingerprint of a model behind a server: its log-probabilities of fixed prompts, rounded.

A value near the middle of two roundings may fall to either side when it is computed again. So the
values are kept in the user's cache, and values that are equal but for noise have their fingerprint.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from harness.engine.checkpoint.digest import cache_root, cached_entries, store_entry
from harness.engine.endpoint.dialects.dialect import Server
from harness.engine.endpoint.self_test.findings import Known

FILE = "endpoints.json"
DECIMALS = 3  # of nats; noise in float32 is some 1e-5
NOISE = 4  # times the spread of one self-test may lie between two
LEAST = 1e-4  # nats that are always taken for noise
_HEX = 16


def fingerprint(server: Server, known: Sequence[Known], spread: float, *, store: bool) -> str:
    """The fingerprint of what a server said, the same as before if only noise has moved it.

    Args:
        server: whose values they are.
        known: fixed prompts and their log-probabilities.
        spread: nats between answers to the same question, seen now.
        store: whether values are kept in the user's cache, and found there.
    """
    values = [value for one in known for value in one.logprobs]
    new = _digest([[list(one.tokens), [_rounded(v) for v in one.logprobs]] for one in known])
    if not store:
        return new
    prompts = _digest([list(one.tokens) for one in known])
    key = _digest([server.kind, server.version, server.model, prompts])
    path = cache_root() / FILE
    entries = cached_entries(path, _is_entry)
    for stored_key, entry in reversed(entries.items()):
        if stored_key.partition("|")[0] == key and _agree(entry, values, spread):
            return str(entry["fingerprint"])
    store_entry(
        path,
        f"{key}|{new}",
        {"fingerprint": new, "values": values, "spread": spread},
        _is_entry,
    )
    return new


def _agree(entry: Any, values: Sequence[float], spread: float) -> bool:
    """Whether stored values differ from these by noise only."""
    allowed = max(NOISE * max(spread, entry["spread"]), LEAST)
    stored = entry["values"]
    return len(stored) == len(values) and all(
        abs(a - b) <= allowed for a, b in zip(stored, values, strict=True)
    )


def _rounded(value: float) -> str:
    return f"{value:.{DECIMALS}f}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:_HEX]


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("fingerprint"), str)
        and isinstance(value.get("spread"), int | float)
        and isinstance(value.get("values"), list)
        and all(isinstance(v, float) for v in value["values"])
    )
