"""A baseline: the runs that new ones are held against, and the rule for each score.

The TOML file is for people: values to read, rules to edit. The runs themselves, records and
outcomes, lie beside it, compressed, so that a check can pair its items.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.analysis.runs import Run, label, main_measures, measures
from harness.errors import RecordError, UsageError
from harness.records import items
from harness.records.record import Record, write_bytes, write_text
from harness.task import Measure

SCHEMA = 1
RUNS = ".runs.json.gz"  # in place of .toml
ALPHA = 0.05
KINDS = {
    "paired": "delta",  # worse by more than delta, and the paired test says so
    "absolute": "tolerance",  # worse by more than so much, in the score's unit
    "relative": "tolerance",  # worse by more than this share of the baseline
    "report": "",  # never fails
}
"""Rule -> the name of its number."""
HEAD = """What `harness check` holds a run against. Rules may be edited, values are for reading.
  rule = "paired"    fails if the score is worse by more than `delta`, and the paired one-sided
                     test says so at level `alpha`; p is adjusted over all paired rules
  rule = "absolute"  fails if it is worse by more than `tolerance`, in the score's unit
  rule = "relative"  fails if it is worse by more than `tolerance` times the value here
  rule = "report"    is shown and never fails"""

Key = tuple[str, str, str]
"""Benchmark, protocol, score."""


class Rule(NamedTuple):
    """When a score that has become worse is a regression."""

    kind: str
    amount: float = 0.0

    def __str__(self) -> str:
        name = KINDS[self.kind]
        return f"{self.kind}, {name} {self.amount:g}" if name else self.kind


@dataclass(frozen=True, slots=True)
class Baseline:
    """Runs and rules."""

    runs: tuple[Run, ...]
    rules: Mapping[Key, Rule]
    alpha: float


def rule_from(text: str) -> Rule:
    """`paired:0.5` as a rule; the number may be left out where it is 0.

    Raises:
        UsageError: it is no rule.
    """
    kind, _, amount = text.partition(":")
    try:
        value = float(amount or 0)
    except ValueError:
        value = -1.0
    if kind not in KINDS or not 0 <= value < float("inf"):
        raise UsageError(
            f"rule {text!r}: expected paired, absolute, relative or report, and a number that is "
            "not negative, such as absolute:1.5"
        )
    return Rule(kind, value)


def rule_for(measure: Measure, wish: Rule | None) -> Rule:
    """The rule that is wished for, else `paired`; `report` where pairs cannot be tested.

    That is so for scores of a part of the items, which each run chooses for itself.
    """
    rule = wish or Rule("paired")
    untestable = getattr(measure.metric, "select", None) is not None
    return Rule("report") if rule.kind == "paired" and untestable else rule


def write(runs: Sequence[Run], path: Path, rule: Rule | None, alpha: float) -> None:
    """Write a baseline: the main scores of every run, under `rule` where it can be applied.

    Raises:
        RecordError: a run's benchmark is not installed, or the files cannot be written.
        UsageError: two runs are of the same benchmark and protocol.
    """
    import tomlkit

    names = [label(run.record) for run in runs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"two runs of {' '.join(twice)}; a baseline holds one of each")
    packed = items.pack({"schema": SCHEMA, "runs": [_run_json(run) for run in runs]})
    document = tomlkit.document()
    for line in HEAD.split("\n"):
        document.add(tomlkit.comment(line))
    beside = runs_path(path)
    document.update(
        schema=SCHEMA, alpha=alpha, runs=beside.name, sha256=hashlib.sha256(packed).hexdigest()
    )
    document["run"] = [_about(run.record) for run in runs]
    document["score"] = [entry for run in runs for entry in _scores(run, rule)]
    write_bytes(beside, packed)
    write_text(path, tomlkit.dumps(document))


def runs_path(path: Path) -> Path:
    """The file with the runs that belongs to a baseline's file."""
    return path.with_name(path.name.removesuffix(".toml") + RUNS)


def _run_json(run: Run) -> dict[str, Any]:
    return {"record": run.record.to_json(), "items": items.to_json(run.items)}


def _about(record: Record) -> dict[str, Any]:
    return {
        "task": label(record)[0],
        "protocol": record.protocol,
        "model": record.model["name"],
        "digest": record.model["digest"],
        "examples": record.examples,
        "created": record.created,
        "signature": record.signature,
    }


def _scores(run: Run, rule: Rule | None) -> list[dict[str, Any]]:
    values = {score.metric: score for score in run.record.scores}
    found = []
    for measure in main_measures(measures(run.record)):
        chosen = rule_for(measure, rule)
        number = {KINDS[chosen.kind]: chosen.amount} if KINDS[chosen.kind] else {}
        found.append(
            {
                "task": label(run.record)[0],
                "protocol": run.record.protocol,
                "metric": measure.name,
                "value": values[measure.name].value,
                "unit": values[measure.name].unit,
                "rule": chosen.kind,
                **number,
            }
        )
    return found


def read(path: Path) -> Baseline:
    """The baseline in a file.

    Raises:
        RecordError: it cannot be read, is no baseline, or does not fit the runs beside it.
    """
    try:
        value = tomllib.loads(path.read_text("utf-8"))
        packed = path.with_name(str(value["runs"])).read_bytes()
        schema, sha256, alpha = value["schema"], value["sha256"], float(value["alpha"])
        entries, rules = _rules(value["score"])
    except OSError as error:
        raise RecordError(f"cannot read {error.filename!r}: {error.strerror}") from error
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, UsageError,
    ) as error:  # fmt: skip
        raise RecordError(
            f"{str(path)!r} is no baseline ({type(error).__name__}: {error}); write one with "
            "harness baseline"
        ) from error
    if schema != SCHEMA or not 0 < alpha < 1:
        raise RecordError(
            f"{str(path)!r} has schema {schema} and alpha {alpha}; expected schema {SCHEMA} and a "
            "level between 0 and 1"
        )
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise RecordError(f"the runs beside {str(path)!r} are others: their checksum differs")
    runs = _runs(packed, path.name)
    _fits(entries, runs, path.name)
    return Baseline(runs, rules, alpha)


def _rules(scores: Sequence[Mapping[str, Any]]) -> tuple[dict[Key, float], dict[Key, Rule]]:
    values: dict[Key, float] = {}
    rules: dict[Key, Rule] = {}
    for score in scores:
        key = (score["task"], score["protocol"], score["metric"])
        if not all(isinstance(name, str) for name in key):
            raise ValueError(f"names that are no texts: {key}")
        values[key] = float(score["value"])
        name = KINDS.get(score["rule"], "")
        rules[key] = rule_from(f"{score['rule']}:{score[name] if name else 0}")
    return values, rules


def _runs(packed: bytes, name: str) -> tuple[Run, ...]:
    value = items.unpack(packed, name)
    found = []
    for run in value["runs"]:
        record = Record.from_json(run["record"], name)
        found.append(Run(record, items.from_json(run["items"], name), f"the baseline {name}"))
    return tuple(found)


def _fits(values: Mapping[Key, float], runs: Sequence[Run], name: str) -> None:
    """Each rule's value is that of the runs.

    Raises:
        RecordError: it is not, or there is no such score.
    """
    known = {
        (*label(run.record), score.metric): score.value
        for run in runs
        for score in run.record.scores
    }
    for key, value in values.items():
        if key not in known:
            near = ", ".join(k[2] for k in known if k[:2] == key[:2]) or "none"
            raise RecordError(f"{name}: the runs have no score {' '.join(key)} (known: {near})")
        if value != known[key]:
            raise RecordError(
                f"{name}: {' '.join(key)} is {value} there and {known[key]} in the runs; values "
                "cannot be edited, write a new baseline instead"
            )
