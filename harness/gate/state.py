"""`gate.json`: what a gate has found so far, and what it goes on from when it is run again.

A repeated gate reads the estimates, on which the schedule depends: with the same estimates and the
answers in the response cache it takes the same slices, computes nothing twice, and goes on where it
was. It also reads which records it wrote, to remove those that it replaces. The rest of the file is
for people and programs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import RecordError
from harness.files.output import write_text
from harness.records import folder as records
from harness.records import schema

FILE = "gate.json"


class Cost(NamedTuple):
    """The estimated cost of a whole benchmark."""

    seconds: float
    tokens: int  # that are fed


class Identity(NamedTuple):
    """What makes two gates the same, so that the second goes on where the first was."""

    baseline: str  # checksum of its file
    model: str  # checksum of the weights
    tokenizer: str
    seed: int
    looks: int | None
    batch_tokens: int


class Slice(NamedTuple):
    """Some parts of a benchmark that were answered together."""

    benchmark: str
    parts: int


class State(NamedTuple):
    """A gate in its file."""

    gate: Identity
    costs: Mapping[str, Cost]  # by benchmark
    slices: Sequence[Slice] = ()
    verdicts: Sequence[Mapping[str, Any]] = ()
    stopped: Mapping[str, Any] | None = None  # why, after how many items of how many
    records: Mapping[str, str] = {}  # benchmark -> the one that the gate wrote, from its folder


class Earlier(NamedTuple):
    """What a gate has left of an earlier run; empty if there was none."""

    costs: Mapping[str, Cost]
    records: Mapping[str, str]


def read(folder: Path, gate: Identity) -> Earlier:
    """What this gate has left in its folder, if it was run before.

    Raises:
        RecordError: the file is damaged, or not written by a gate.
    """
    path, nothing = folder / FILE, Earlier({}, {})
    if not path.exists():
        return nothing
    try:
        loaded = schema.load(path)
    except RecordError as error:
        raise RecordError(f"{error}; remove it, or give another --out") from error
    value = schema.fields(loaded, "gate", str(path))
    with schema.malformed(str(path), "gate"):
        if value["gate"] != gate._asdict():
            return nothing
        costs = {
            name: Cost(float(cost["seconds"]), int(cost["tokens"]))
            for name, cost in value["costs"].items()
        }
        return Earlier(costs, {name: str(path) for name, path in value.get("records", {}).items()})


def remove_replaced(folder: Path, earlier: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Remove the records of an earlier stop of which the gate has written later ones.

    Args:
        folder: of the gate; nothing outside it is removed.
        earlier: the records that the gate wrote before, by benchmark.
        now: those that it has written since.
    """
    for name in earlier.keys() & now.keys():
        path = (folder / earlier[name]).resolve()
        if earlier[name] != now[name] and path.is_relative_to(folder.resolve()):
            records.remove(path)


def write(folder: Path, state: State) -> None:
    """Write a state in one step."""
    value = {
        **schema.header("gate"),
        "gate": state.gate._asdict(),
        "costs": {name: cost._asdict() for name, cost in state.costs.items()},
        "stopped": state.stopped,
        "records": dict(state.records),
        "verdicts": list(state.verdicts),
        "slices": [part._asdict() for part in state.slices],
    }
    write_text(folder / FILE, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
