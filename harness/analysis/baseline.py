"""A baseline: the runs that `harness check` compares new ones with, and a rule for each score.

The TOML file is for people: values to read, rules to edit. The runs, records with their outcomes,
are in a compressed file next to it, so that a check can pair the examples.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.analysis.compare import require_one_checkpoint
from harness.analysis.rules.rule import KINDS, TESTED, Policy, Rule, WrittenRule, rule_in
from harness.analysis.rules.tiers import DEFAULT_TIERS, Tiers, parse_tiers
from harness.analysis.runs import Run, label, main_measures, measures
from harness.errors import RecordError, UsageError
from harness.files.output import write_bytes, write_text
from harness.records import outcomes, schema
from harness.records.record import Record
from harness.task import Measure

RUNS_SUFFIX = ".runs.json.gz"  # in place of .toml
ALPHA, BETA = 0.05, 0.1  # the defaults of `harness baseline --alpha` and `--beta`
HEAD = """The baseline of `harness check` and `harness gate`. Rules may be edited; values may not.
  rule = "proved"    fine if the loss is shown to be below `margin` at level `alpha`, a regression
                     if it is shown to be above zero (above `min_loss` if set), else undecided
  rule = "paired"    fails if the score is worse by more than `delta`, and the paired one-sided
                     test rejects at level `alpha`
  rule = "absolute"  fails if it is worse by more than `tolerance`, in the score's unit
  rule = "relative"  fails if it is worse by more than `tolerance` times the value here
  rule = "pooled"    fails if all scores with this rule are worse on average, by one test of them
  rule = "report"    is shown and never fails
  pooled = true      counts in the pooled decision, besides the score's own rule
  tier               critical, supporting or advisory: `tiers` has the verdicts that fail the build,
                     undecided only under --require-proof
p is adjusted over all tests. `beta` is the probability that a gate which stops early calls a loss
of the margin fine."""

Key = tuple[str, str, str]
"""Benchmark, protocol, metric."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """Runs and rules."""

    runs: tuple[Run, ...]
    rules: Mapping[Key, Rule]
    alpha: float  # of all rules with a test together: the probability of a false alarm
    beta: float = BETA  # of each score: the probability that a gate calls a loss of the margin fine
    tiers: Tiers = field(default_factory=lambda: DEFAULT_TIERS)


def rules_for(runs: Sequence[Run], policy: Policy) -> dict[Key, Rule]:
    """The rules of the main scores of the runs, and of those that the policy adds.

    Raises:
        UsageError: the policy names a score that no run has, or a rule does not fit its score.
    """
    _check_names(runs, policy)
    rules: dict[Key, Rule] = {}
    for run in runs:
        available = {measure.name: measure for measure in measures(run.record)}
        scores = {score.metric: score for score in run.record.scores}
        own = {m: rule for (t, m), rule in policy.scores.items() if t in _names(run)}
        main = [measure.name for measure in main_measures(tuple(available.values()))]
        for metric in dict.fromkeys([*main, *(m for m in own if m in available)]):
            name = f"{label(run.record)[0]} {metric}"
            written = _testable(name, available[metric], own.get(metric), policy.rule)
            pooled = policy.pooled and _has_test(available[metric])
            rule = written.of(name, scores[metric], tier=policy.tier, pooled=pooled)
            rules[(*label(run.record), metric)] = rule
    return rules


def _testable(
    name: str, measure: Measure, own: WrittenRule | None, default: WrittenRule
) -> WrittenRule:
    """A score's own rule or the default one; `report` in place of the latter if it has no test."""
    if _has_test(measure) or (own or default).kind not in TESTED:
        return own or default
    if own is None:
        return WrittenRule("report")
    raise UsageError(
        f"{name}: rule {own.kind!r} needs a paired test, and there is none: each run chooses the "
        "examples of this score; expected absolute, relative or report"
    )


def _has_test(measure: Measure) -> bool:
    """Whether examples can be swapped; not where a run chooses its own, by `select`."""
    return getattr(measure.metric, "select", None) is None


def _names(run: Run) -> tuple[str, str]:
    """The names of a run's task: its own, and with the program that computed it."""
    return run.record.task, label(run.record)[0]


def _check_names(runs: Sequence[Run], policy: Policy) -> None:
    """Check that the runs have the scores that the policy names."""
    for task, metric in policy.scores:
        matching = [run for run in runs if task in _names(run)]
        if not matching:
            known = ", ".join(dict.fromkeys(label(run.record)[0] for run in runs))
            raise UsageError(f"score {task}:{metric}: there is no run of {task} (runs: {known})")
        names = dict.fromkeys(m.name for run in matching for m in measures(run.record))
        if metric not in names:
            known = ", ".join(names)
            raise UsageError(f"score {task}:{metric}: the run has no such score (scores: {known})")


def write(
    runs: Sequence[Run], path: Path, policy: Policy, *, alpha: float = ALPHA, beta: float = BETA
) -> None:
    """Write a baseline: the scores of every run that count, with their rules.

    Raises:
        UsageError: two runs are of the same benchmark and protocol, or of different checkpoints;
            a run was stopped early or has no outcomes; or the policy does not fit the runs.
    """
    import tomlkit

    labels = [label(run.record) for run in runs]
    twice = next((name for name in labels if labels.count(name) > 1), None)
    if twice:
        raise UsageError(f"two runs of {' '.join(twice)}; a baseline holds one of each")
    _check_runs(runs, str(path))
    rules = rules_for(runs, policy)
    by_name = dict(zip(labels, runs, strict=True))
    entries = [_entry(by_name[key[:2]], key, rule) for key, rule in rules.items()]
    values = [
        {"record": run.record.to_json(), "outcomes": outcomes.to_json(run.outcomes)} for run in runs
    ]
    packed = outcomes.pack({**schema.header("baseline runs"), "runs": values})
    document = tomlkit.document()
    for line in HEAD.split("\n"):
        document.add(tomlkit.comment(line))
    document.update(schema.header("baseline"))
    document.update(alpha=alpha, beta=beta, runs=runs_path(path).name)
    document["sha256"] = hashlib.sha256(packed).hexdigest()
    document["tiers"] = {tier: list(failing) for tier, failing in DEFAULT_TIERS.items()}
    document["run"] = [_describe(run.record) for run in runs]
    document["score"] = entries
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


def _entry(run: Run, key: Key, rule: Rule) -> dict[str, Any]:
    """A rule as it stands in the file."""
    task, protocol, metric = key
    score = next(score for score in run.record.scores if score.metric == metric)
    entry = {
        "task": task,
        "protocol": protocol,
        "metric": metric,
        "value": score.value,
        "unit": score.unit,
        "tier": rule.tier,
        "rule": rule.kind,
    }
    if number := KINDS[rule.kind]:
        entry[number] = rule.amount
    return {**entry, "pooled": True} if rule.pooled else entry


def read(path: Path) -> Baseline:
    """The baseline in a file, which must agree with the runs next to it."""
    name = repr(str(path))
    text = schema.read_bytes(path)
    with schema.malformed(name, "baseline"):
        fields = schema.fields(tomllib.loads(text.decode("utf-8")), "baseline", name)
        runs_file, sha256 = path.with_name(str(fields["runs"])), fields["sha256"]
        levels = {"alpha": float(fields["alpha"]), "beta": float(fields.get("beta", BETA))}
        entries = [(_key(entry), entry) for entry in fields["score"]]
        tiers = dict(fields.get("tiers", {}))
    for level, value in levels.items():
        if not 0 < value < 1:
            raise RecordError(f"{name} has {level} {value}; expected a level between 0 and 1")
    runs = _read_runs(runs_file, sha256, path)
    with schema.malformed(name, "baseline"):
        try:
            _check_runs(runs, path.name)
            rules = _rules(entries, runs, path.name)
            return Baseline(runs, rules, levels["alpha"], levels["beta"], parse_tiers(tiers))
        except UsageError as error:
            raise RecordError(f"{path.name}: {error}") from error


def _read_runs(file: Path, sha256: object, baseline: Path) -> tuple[Run, ...]:
    """The runs that belong to a baseline."""
    packed, name = schema.read_bytes(file), baseline.name
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise RecordError(
            f"the runs next to {str(baseline)!r} are not its own: the checksum differs"
        )
    packed_runs = schema.fields(outcomes.unpack(packed, name), "baseline runs", name)
    with schema.malformed(name, "baseline runs"):
        return tuple(
            Run(
                Record.from_json(run["record"], name),
                outcomes.from_json(run["outcomes"], name),
                f"the baseline {name}",
            )
            for run in packed_runs["runs"]
        )


def _check_runs(runs: Sequence[Run], name: str) -> None:
    """Check that runs can be a baseline: of one checkpoint, complete, and with their outcomes."""
    require_one_checkpoint(runs, name)
    for run in runs:
        if run.record.stopped is not None:
            raise UsageError(
                f"{name}: the run of {' '.join(label(run.record))} was {run.record.extent}; "
                "expected complete runs, as `harness run` and `harness table3` give"
            )
        if not run.has_outcomes:
            raise UsageError(
                f"{name}: the run of {' '.join(label(run.record))} has no outcomes, without which "
                "examples cannot be paired; run it again with this version"
            )


def _key(entry: Mapping[str, Any]) -> Key:
    key = (entry["task"], entry["protocol"], entry["metric"])
    if not all(isinstance(name, str) for name in key):
        raise ValueError(f"names that are not text: {key}")
    return key


def _rules(
    entries: Sequence[tuple[Key, Mapping[str, Any]]], runs: Sequence[Run], name: str
) -> dict[Key, Rule]:
    """The rules in a file, each of a score that the runs have, with its value."""
    measured = {
        (*label(run.record), score.metric): score for run in runs for score in run.record.scores
    }
    rules: dict[Key, Rule] = {}
    for key, entry in entries:
        value = float(entry["value"])
        if key not in measured:
            near = ", ".join(k[2] for k in measured if k[:2] == key[:2]) or "none"
            raise RecordError(f"{name}: the runs have no score {' '.join(key)} (available: {near})")
        if value != measured[key].value:
            raise RecordError(
                f"{name}: {' '.join(key)} is {value} there and {measured[key].value} in the runs; "
                "values cannot be edited, write a new baseline instead"
            )
        rules[key] = rule_in(entry, f"{key[0]} {key[2]}", measured[key])
    return rules
