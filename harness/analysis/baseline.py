"""A baseline: the runs that `harness check` compares new ones with, and a rule for each score.

The TOML file is for people: values to read, rules to edit. The runs, records with their outcomes,
are in a compressed file next to it, so that a check can pair the examples.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.analysis.runs import Run, label, main_measures, measures
from harness.errors import RecordError, UsageError
from harness.files.output import write_bytes, write_text
from harness.records import outcomes, schema
from harness.records.record import Record
from harness.task import Measure

RUNS_SUFFIX = ".runs.json.gz"  # in place of .toml
ALPHA = 0.05  # the default of `harness baseline --alpha`
KINDS = {
    "paired": "delta",  # worse by more than delta, and the paired test says so
    "absolute": "tolerance",  # worse by more than this, in the score's unit
    "relative": "tolerance",  # worse by more than this share of the baseline
    "report": "",  # never fails
}
"""Rule -> the name of its number."""
HEAD = """The baseline of `harness check`. Rules may be edited; values are for reading.
  rule = "paired"    fails if the score is worse by more than `delta`, and the paired one-sided
                     test rejects at level `alpha`; p is adjusted over all paired rules
  rule = "absolute"  fails if it is worse by more than `tolerance`, in the score's unit
  rule = "relative"  fails if it is worse by more than `tolerance` times the value here
  rule = "report"    is shown and never fails"""

Key = tuple[str, str, str]
"""Benchmark, protocol, metric."""


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


def parse_rule(text: str) -> Rule:
    """The rule in `paired:0.5`; the number may be left out where it is 0."""
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


def applicable_rule(measure: Measure, rule: Rule | None) -> Rule:
    """`rule`, by default `paired`; `report` in place of `paired` where no paired test exists.

    There is none for metrics with `select`, for which each run chooses its own examples.
    """
    rule = rule or Rule("paired")
    untestable = getattr(measure.metric, "select", None) is not None
    return Rule("report") if rule.kind == "paired" and untestable else rule


def rules_for(runs: Sequence[Run], rule: Rule | None) -> dict[Key, Rule]:
    """The rule of each main score of the runs."""
    return {
        (*label(run.record), measure.name): applicable_rule(measure, rule)
        for run in runs
        for measure in main_measures(measures(run.record))
    }


def write(runs: Sequence[Run], path: Path, rule: Rule | None, alpha: float) -> None:
    """Write a baseline: the main scores of every run, under `rule` where it applies.

    Raises:
        UsageError: two runs are of the same benchmark and protocol.
    """
    import tomlkit

    labels = [label(run.record) for run in runs]
    twice = next((name for name in labels if labels.count(name) > 1), None)
    if twice:
        raise UsageError(f"two runs of {' '.join(twice)}; a baseline holds one of each")
    values = [
        {"record": run.record.to_json(), "outcomes": outcomes.to_json(run.outcomes)} for run in runs
    ]
    packed = outcomes.pack({**schema.header("baseline runs"), "runs": values})
    document = tomlkit.document()
    for line in HEAD.split("\n"):
        document.add(tomlkit.comment(line))
    document.update(schema.header("baseline"))
    document.update(
        alpha=alpha, runs=runs_path(path).name, sha256=hashlib.sha256(packed).hexdigest()
    )
    document["run"] = [_describe(run.record) for run in runs]
    document["score"] = [entry for run in runs for entry in _scores(run, rule)]
    write_bytes(runs_path(path), packed)
    write_text(path, tomlkit.dumps(document))


def runs_path(path: Path) -> Path:
    """The file with the runs that belongs to a baseline's file."""
    return path.with_name(path.name.removesuffix(".toml") + RUNS_SUFFIX)


def _describe(record: Record) -> dict[str, Any]:
    return {
        "task": label(record)[0],
        "protocol": record.protocol,
        "model": record.model["name"],
        "digest": record.model["digest"],
        "examples": record.examples,
        "created": record.created,
        "signature": str(record.signature),
        **({"warnings": list(record.warnings)} if record.warnings else {}),
    }


def _scores(run: Run, rule: Rule | None) -> list[dict[str, Any]]:
    scores = {score.metric: score for score in run.record.scores}
    entries = []
    for (task, protocol, metric), chosen in rules_for([run], rule).items():
        entry = {
            "task": task,
            "protocol": protocol,
            "metric": metric,
            "value": scores[metric].value,
            "unit": scores[metric].unit,
            "rule": chosen.kind,
        }
        if name := KINDS[chosen.kind]:
            entry[name] = chosen.amount
        entries.append(entry)
    return entries


def read(path: Path) -> Baseline:
    """The baseline in a file, which must agree with the runs next to it."""
    name = repr(str(path))
    text = schema.read_bytes(path)
    with schema.malformed(name, "baseline"):
        fields = schema.fields(tomllib.loads(text.decode("utf-8")), "baseline", name)
        runs_file = path.with_name(str(fields["runs"]))
        sha256, alpha = fields["sha256"], float(fields["alpha"])
        values, rules = _rules(fields["score"])
    if not 0 < alpha < 1:
        raise RecordError(f"{name} has alpha {alpha}; expected a level between 0 and 1")
    packed = schema.read_bytes(runs_file)
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise RecordError(f"the runs next to {name} are not its own: the checksum differs")
    packed_runs = schema.fields(outcomes.unpack(packed, path.name), "baseline runs", path.name)
    with schema.malformed(path.name, "baseline runs"):
        runs = tuple(
            Run(
                Record.from_json(run["record"], path.name),
                outcomes.from_json(run["outcomes"], path.name),
                f"the baseline {path.name}",
            )
            for run in packed_runs["runs"]
        )
    _check_values(values, runs, path.name)
    return Baseline(runs, rules, alpha)


def _rules(scores: Sequence[Mapping[str, Any]]) -> tuple[dict[Key, float], dict[Key, Rule]]:
    values: dict[Key, float] = {}
    rules: dict[Key, Rule] = {}
    for score in scores:
        key = (score["task"], score["protocol"], score["metric"])
        if not all(isinstance(name, str) for name in key):
            raise ValueError(f"names that are not text: {key}")
        values[key] = float(score["value"])
        name = KINDS.get(score["rule"], "")
        rules[key] = parse_rule(f"{score['rule']}:{score[name] if name else 0}")
    return values, rules


def _check_values(values: Mapping[Key, float], runs: Sequence[Run], name: str) -> None:
    """Check that the value of each rule is that of the runs."""
    measured = {
        (*label(run.record), score.metric): score.value
        for run in runs
        for score in run.record.scores
    }
    for key, value in values.items():
        if key not in measured:
            near = ", ".join(k[2] for k in measured if k[:2] == key[:2]) or "none"
            raise RecordError(f"{name}: the runs have no score {' '.join(key)} (available: {near})")
        if value != measured[key]:
            raise RecordError(
                f"{name}: {' '.join(key)} is {value} there and {measured[key]} in the runs; values "
                "cannot be edited, write a new baseline instead"
            )
