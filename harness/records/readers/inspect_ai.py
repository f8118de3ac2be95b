"""Logs of inspect_ai as records, to be compared and ranked with ours.

A log is of one task and one model (`inspect_ai/log/_log.py` at 0.3.285). Its numbers are not
changed, except that shares become percents. inspect_ai does not say in which direction a score is
better: higher is taken to be better, as its own reducers do.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.core import Example, Generate, Generated, Tokens
from harness.errors import RecordError
from harness.records import schema
from harness.records.outcomes import NO_OUTCOMES, Outcomes, Shown, show
from harness.records.readers.inspect_log import read_samples
from harness.records.readers.inspect_scores import Entry, Samples, entries, with_outcomes
from harness.records.readers.reported import (
    UNKNOWN,
    Results,
    as_option,
    digest,
    model,
    number,
    one_word,
    whole_version,
)
from harness.records.record import Record

ORIGIN = "inspect_ai"
OTHER_FILES = frozenset(("eval-set.json", "listing.json", "logs.json"))
_KEYS = ("eval", "plan")
_VERSION = 2  # of logs
_STATES = {
    "started": "is still going on, or was killed",
    "cancelled": "was cancelled",
    "error": "ended in an error",
}

_LIMITS = (
    "message_limit", "token_limit", "turn_limit", "time_limit", "working_limit", "cost_limit",
)  # fmt: skip
_NO_OPTIONS = (
    "adaptive_connections", "attempt_timeout", "batch", "cache", "cache_prompt", "max_connections",
    "max_retries", "seed", "stream_idle_timeout", "timeout",
)  # fmt: skip
"""Fields of the configuration of generations that do not change what is measured."""


def recognises(value: Any) -> bool:
    """Whether a parsed JSON file is a log of inspect_ai."""
    if not isinstance(value, dict) or not all(isinstance(value.get(k), dict) for k in _KEYS):
        return False
    return "status" in value and "version" in value


def attempt(results: Results, path: Path) -> tuple[str, tuple[bool, str]]:
    """A task keeps its id when it is tried again; a finished attempt replaces all others."""
    with schema.malformed(repr(str(path)), "inspect_ai log"):
        log = results["eval"]
        return str(log.get("task_id") or path), (_is_finished(results), str(log.get("created")))


def records(results: Results, path: Path, *, samples: bool) -> list[tuple[Record, Outcomes]]:
    """The record of a log, with the outcomes of its samples if they are read.

    The scores computed from the outcomes must be those of the log.
    """
    _require_scores(results, path)
    with schema.malformed(repr(str(path)), "inspect_ai log"):
        found, left_out = entries(results)
        record = _record(results, found, left_out)
        if not samples:
            return [(record, NO_OUTCOMES)]
        return [_with_outcomes(record, found, _examples(results, path), path)]


def _is_finished(log: Results) -> bool:
    return log.get("status") == "success"


def _require_scores(log: Results, path: Path) -> None:
    """Check that a log is complete and has scores."""
    name = path.name
    if log.get("version") != _VERSION:
        raise RecordError(
            f"{name} is a log of inspect_ai in version {log.get('version')}; expected version "
            f"{_VERSION}, which `inspect log convert` writes"
        )
    if not _is_finished(log):
        state = _STATES.get(str(log.get("status")), "did not finish")
        raise RecordError(
            f"{name} has no final scores: its run {state}; finish it with `inspect eval-retry`, or "
            "leave the file out"
        )
    if log.get("invalidated"):
        raise RecordError(
            f"{name} has samples that were declared invalid; compute them again with `inspect "
            "eval-retry`, or leave the file out"
        )
    if not (log.get("results") or {}).get("scores"):
        raise RecordError(f"{name} has no scores; score it with `inspect score`")


def _record(log: Results, found: Sequence[Entry], left_out: Sequence[str]) -> Record:
    """The record without outcomes."""
    spec, results = log["eval"], log["results"]
    dataset, epochs = spec["dataset"], int(spec["config"].get("epochs") or 1)
    scored = -(-int(results["completed_samples"]) // epochs)  # rounded up
    chosen = len(dataset.get("sample_ids") or ()) or scored
    rows = max(int(dataset.get("samples") or 0), chosen)
    version = whole_version(spec.get("task_version"))
    return Record(
        task=one_word([spec["task"]]),
        version=version or 0,
        protocol=_protocol(spec),
        options={
            **_options(log),
            **({} if version is not None else {"version": one_word([spec["task_version"]])}),
        },
        model=model(
            spec["model"], [spec.get(name) for name in ("model", "model_base_url", "model_args")]
        ),
        data={
            "source": ORIGIN,
            "name": one_word([dataset.get("name") or dataset.get("location") or UNKNOWN]),
            "sha256": digest([dataset.get(name) for name in ("name", "location", "samples")]),
            "rows": rows,
            "warnings": [],
        },
        prompt=None,
        limit=chosen if chosen < rows else None,
        seed=int(number(spec["config"].get("sample_shuffle")) or 0),  # or True
        rows=rows,
        examples=scored,
        requests=int(results["completed_samples"]),
        tokens=Tokens(),
        seconds=_seconds(log.get("stats", {})),
        scores=tuple(entry.score for entry in found),
        notes={"left out": ", ".join(left_out)} if left_out else {},
        environment={
            "versions": {
                "inspect_ai": UNKNOWN,
                **{name: str(version) for name, version in spec.get("packages", {}).items()},
            },
            "git": {
                "commit": (spec.get("revision") or {}).get("commit"),
                "dirty": (spec.get("revision") or {}).get("dirty"),
            },
        },
        warnings=tuple(_warnings(results)),
        created=str(spec["created"]),
        origin=ORIGIN,
    )


def _logged(results: Mapping[str, Any]) -> int:
    """How many samples a finished log has; fewer than planned if it was stopped early."""
    planned = "completed_samples" if results.get("early_stopping") else "total_samples"
    return int(results.get("logged_samples") or results[planned])


def _warnings(results: Mapping[str, Any]) -> Iterator[str]:
    planned, logged = int(results["total_samples"]), _logged(results)
    if logged < planned:
        yield f"the run was stopped after {logged} of {planned} samples"
    errors = logged - int(results["completed_samples"])
    if errors > 0:
        yield (
            f"samples that ended in an error: {errors} of {logged}; compute them again with "
            "`inspect eval-retry`"
        )


def _protocol(spec: Mapping[str, Any]) -> str:
    """`inspect_ai+subject=law`, with the arguments that were passed to the task."""
    passed = spec.get("task_args_passed", spec.get("task_args")) or {}
    return "+".join([ORIGIN, *(f"{name}={as_option(value)}" for name, value in passed.items())])


def _options(log: Results) -> dict[str, str | int]:
    """What two runs of a task must have in common besides their data."""
    spec, plan = log["eval"], log["plan"]
    # Newer versions list defaults as well, and what no one has set: versions differ in neither.
    steps = [
        (step["solver"], step.get("params_passed", step.get("params")))
        for step in plan.get("steps", ())
    ]
    scorers = [(s["name"], s["options"]) for s in spec.get("scorers") or () if s.get("options")]
    roles = {name: role["model"] for name, role in (spec.get("model_roles") or {}).items()}
    options: dict[str, str | int] = {
        "config": digest([spec.get("task_args"), steps, plan.get("finish"), scorers, roles])[:8],
        "solver": one_word(["+".join(str(solver) for solver, _ in steps)]),
        "epochs": int(spec["config"].get("epochs") or 1),
    }
    generation = {**(spec.get("model_generate_config") or {}), **(plan.get("config") or {})}
    limits = {name: spec["config"].get(name) for name in _LIMITS}
    for name, value in sorted({**generation, **limits}.items()):
        if value is not None and name not in _NO_OPTIONS:
            options[name] = as_option(value)
    return options


def _seconds(stats: Mapping[str, Any]) -> float:
    """From start to end; 0 if the log does not say."""
    times = [stats.get("started_at"), stats.get("completed_at")]
    if not all(times):
        return 0.0
    start, end = (datetime.fromisoformat(str(time)) for time in times)
    return (end - start).total_seconds()


def _examples(log: Results, path: Path) -> dict[str, Samples]:
    """Example -> its samples, in the order of the epochs."""
    samples = read_samples(path, log)
    if not samples:
        raise RecordError(f"{path.name} has no samples; run inspect_ai without --no-log-samples")
    wanted = _logged(log["results"])
    if len(samples) < wanted:
        raise RecordError(f"{path.name} has {len(samples)} of its {wanted} samples")
    examples: dict[str, list[Mapping[str, Any]]] = {}
    for sample in sorted(samples, key=_place):
        examples.setdefault(str(sample["id"]), []).append(sample)
    return dict(examples)


def _place(sample: Mapping[str, Any]) -> tuple[bool, int, str, int]:
    """Numbers in their order, then names."""
    name = sample["id"]
    is_number = isinstance(name, int)
    return (not is_number, name if is_number else 0, str(name), int(sample["epoch"]))


def _with_outcomes(
    record: Record, found: Sequence[Entry], examples: Mapping[str, Samples], path: Path
) -> tuple[Record, Outcomes]:
    """The outcomes, and the record with its data's checksum and the totals of its scores."""
    scores, metrics = [], {}
    for entry in found:
        score = entry.score
        if entry.known:
            score, metrics[score.metric] = with_outcomes(entry, [*examples.values()], path.name)
        scores.append(score)
    firsts = [samples[0] for samples in examples.values()]
    asked = [[str(s["id"]), _plain(s["input"]), s["target"], s.get("choices")] for s in firsts]
    data = {**record.data, "sha256": digest(asked)}
    warnings = (*record.warnings, *_reached_limits(examples.values()))
    record = replace(record, scores=tuple(scores), data=data, warnings=warnings)
    return record, Outcomes(tuple(examples), tuple(map(_shown, firsts)), metrics)


def _reached_limits(examples: Iterable[Samples]) -> Iterator[str]:
    samples = [sample for samples in examples for sample in samples]
    limits = Counter(str(sample["limit"]["type"]) for sample in samples if sample.get("limit"))
    if limits:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in limits.items())
        yield f"samples stopped by a limit: {limits.total()} of {len(samples)} ({kinds})"


def _plain(messages: Any) -> Any:
    """An input without the ids of its messages, which are drawn at random."""
    if isinstance(messages, str):
        return messages
    return [[message["role"], message["content"]] for message in messages]


def _shown(sample: Mapping[str, Any]) -> Shown:
    """The last message of the input, the targets, and what the model wrote in the first epoch."""
    asked, target = _plain(sample["input"]), sample["target"]
    prompt = asked if isinstance(asked, str) else str(asked[-1][1])
    prompt = sample.get("attachments", {}).get(prompt.removeprefix("attachment://"), prompt)
    targets = [target] if isinstance(target, str) else target
    written = Generated(_written(sample.get("output") or {}), (), (), 0, "length")
    example = Example(str(sample["id"]), {}, tuple(str(text) for text in targets))
    return show(example, [(Generate((prompt,), 0), written)])


def _written(output: Mapping[str, Any]) -> str:
    if "completion" in output:
        return str(output["completion"])
    choices = output.get("choices") or [{"message": {"content": ""}}]
    return str(choices[0]["message"]["content"])
