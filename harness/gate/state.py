"""`gate.json`: what a gate has found so far, and what it goes on from when it is run again.

A repeated gate reads only the estimates, on which the schedule depends: with the same estimates and
the answers in the response cache it takes the same slices, computes nothing twice, and goes on
where it was. The rest of the file is for people and programs.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.files.output import write_text
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


def read_costs(folder: Path, gate: Identity) -> dict[str, Cost] | None:
    """The estimates of this gate, if it was run before; None if there are none, or of another.

    Raises:
        RecordError: the file is damaged, or not written by a gate.
    """
    path = folder / FILE
    if not path.exists():
        return None
    value = schema.fields(schema.load(path), "gate", str(path))
    with schema.malformed(str(path), "gate"):
        if value["gate"] != gate._asdict():
            return None
        return {
            name: Cost(float(cost["seconds"]), int(cost["tokens"]))
            for name, cost in value["costs"].items()
        }


def write(folder: Path, state: State) -> None:
    """Write a state in one step."""
    value = {
        **schema.header("gate"),
        "gate": state.gate._asdict(),
        "costs": {name: cost._asdict() for name, cost in state.costs.items()},
        "stopped": state.stopped,
        "verdicts": list(state.verdicts),
        "slices": [part._asdict() for part in state.slices],
    }
    write_text(folder / FILE, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
