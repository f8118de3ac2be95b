"""Results of NVIDIA's NeMo Evaluator as records, to be compared and ranked with ours.

It writes `eval-<time>-<benchmark>.json` with the scores of a benchmark, and next to it
`results.jsonl` with one line per problem and repeat (`nemo_evaluator/engine/artifacts.py` at
0.4.0). Its numbers are not changed, except that shares become percents; those that its samples
determine get the digits that it rounds away. A higher reward is better.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from harness.core import Example, Generate, Generated, Score, Tokens
from harness.errors import RecordError
from harness.metrics import MEAN, Outcome
from harness.records import schema
from harness.records.outcomes import NO_OUTCOMES, Outcomes, Shown, show
from harness.records.readers.reported import (
    PLAIN_MEAN,
    UNKNOWN,
    Results,
    as_option,
    as_right_or_wrong,
    collected,
    digest,
    model,
    number,
    one_word,
    pass_at,
    read_lines,
    reported,
    with_totals,
)
from harness.records.record import Record

ORIGIN = "nemo-evaluator"
OTHER_FILES = frozenset((
    "checkpoint.json", "docker.json", "failure_analysis.json", "nel_run.json",
    "runtime_stats.json", "slurm_job.json", "trajectories_report.json", "_docker_config.json",
))  # fmt: skip
SAMPLES = "results.jsonl"
_ROUNDING = 5e-5  # scores have four digits after the point
_NO_OPTIONS = (
    "api_key", "base_url", "benchmark", "max_problems", "model", "model_url", "n_shards", "repeats",
    "scorers", "seed", "shard", "shard_range", "shuffle", "shuffle_seed",
)  # fmt: skip
"""Fields of the configuration that do not change what is measured, or are elsewhere in a record."""

Line = Mapping[str, Any]
"""One answer to a problem, with its reward."""
Problems = Mapping[str, Sequence[Line]]


class Entry(NamedTuple):
    """A score, and what the answers to one problem add to it if that is known."""

    score: Score
    outcome: Callable[[Sequence[Line]], Outcome | None] | None


def recognises(value: Any) -> bool:
    """Whether a parsed JSON file has the scores of a benchmark."""
    benchmark = value.get("benchmark") if isinstance(value, dict) else None
    return isinstance(benchmark, dict) and "name" in benchmark and "scores" in benchmark


def attempt(results: Results, path: Path) -> tuple[str, str]:
    """Each run of a benchmark in a folder replaces the samples of the one before."""
    return f"{path.parent}:{results['benchmark']['name']}", str(results.get("timestamp"))


def results_file(samples: Path) -> Path:
    """The file with the scores of a file of samples."""
    files = sorted(samples.parent.glob("eval-*.json"))  # their names begin with the time
    if not files:
        raise RecordError(
            f"there is no eval-*.json next to {str(samples)!r}, which names the model and has the "
            "scores; keep the files of NeMo Evaluator together"
        )
    return files[-1]


def records(results: Results, path: Path, *, samples: bool) -> list[tuple[Record, Outcomes]]:
    """The record of a benchmark, with the outcomes of its samples if they are read.

    The scores computed from the outcomes must be those of the file.
    """
    with schema.malformed(repr(str(path)), "NeMo Evaluator result"):
        found = _entries(results["benchmark"]["scores"])
        record = _record(results, found)
    if not found:
        raise RecordError(f"{str(path)!r} of NeMo Evaluator has no scores")
    if not samples:
        return [(record, NO_OUTCOMES)]
    file = path.with_name(SAMPLES)
    problems = _problems(file, results)
    with schema.malformed(repr(str(file)), "NeMo Evaluator samples"):
        return [_with_outcomes(record, found, problems, file)]


def _entries(scores: Mapping[str, Any]) -> list[Entry]:
    entries = []
    for name, found in scores.items():
        value = number(found.get("value")) if isinstance(found, dict) else None
        if value is None:
            continue  # summaries and statistics of the run
        outcome = _outcome_of(name)
        is_share = name.startswith(("pass@", "scorer:"))
        low, high = (
            number(found.get(f"ci_{end}", found.get(f"bootstrap_ci_{end}")))
            for end in ("lower", "upper")
        )
        metric = MEAN if is_share else PLAIN_MEAN
        entries.append(Entry(reported(name, metric, value, interval=(low, high)), outcome))
    return entries


def _outcome_of(name: str) -> Callable[[Sequence[Line]], Outcome | None] | None:
    """What the answers to one problem add to a score; None if samples do not determine it."""
    if name == "mean_reward":
        return lambda lines: (math.fsum(map(_reward, lines)) / len(lines), 1.0)
    if name.startswith("scorer:"):
        return lambda lines: _scored(lines, name)
    if name.startswith("pass@") and name[5:].isdecimal():
        return lambda lines: _passed(lines, int(name[5:]))
    return None


def _passed(lines: Sequence[Line], k: int) -> Outcome | None:
    value = pass_at(len(lines), sum(_reward(line) > 0 for line in lines), k)
    return None if math.isnan(value) else (value, 1.0)


def _scored(lines: Sequence[Line], scorer: str) -> Outcome | None:
    found = [line["scoring_details"].get(scorer) for line in lines]
    right = [bool(value.get("correct")) for value in found if isinstance(value, dict)]
    return (float(sum(right)), float(len(right))) if right else None


def _reward(line: Line) -> float:
    reward = float(line["reward"])
    if not math.isfinite(reward):
        raise ValueError(f"problem {line['problem_idx']} has the reward {reward}")
    return reward


def _record(results: Results, found: Sequence[Entry]) -> Record:
    """The record without outcomes."""
    benchmark, config = results["benchmark"], results.get("config") or {}
    shuffle = config.get("shuffle") or {}
    examples = int(benchmark.get("samples") or 0)
    rows = max(int(shuffle.get("ds_full_size") or 0), examples)
    name = one_word([benchmark["name"]])
    return Record(
        task=name,
        version=0,
        protocol=ORIGIN,
        options={
            "repeats": int(benchmark.get("repeats") or 1),
            "version": UNKNOWN,
            **_options(config),
        },
        model=model(
            config.get("model"), [config.get(key) for key in ("model", "base_url", "model_url")]
        ),
        data={
            "source": ORIGIN,
            "name": name,
            "sha256": digest([name, rows]),
            "rows": rows,
            "warnings": [],
        },
        prompt=None,
        limit=examples if examples < rows else None,
        seed=int(config.get("shuffle_seed") or 0),
        rows=rows,
        examples=examples,
        requests=int(results.get("n_results") or 0),
        tokens=Tokens(),
        seconds=float(benchmark["scores"].get("runtime", {}).get("elapsed_seconds") or 0),
        scores=tuple(entry.score for entry in found),
        environment={
            "versions": {"nemo_evaluator": str(results.get("sdk_version") or UNKNOWN)},
            "git": {"commit": None, "dirty": None},
        },
        created=str(results.get("timestamp") or ""),
        origin=ORIGIN,
    )


def _options(config: Mapping[str, Any]) -> dict[str, str]:
    """What two runs must have in common besides their data, as far as the file says it."""
    return {
        name: as_option(value)
        for name, value in sorted(config.items())
        if value is not None and name not in _NO_OPTIONS and not name.startswith("_")
    }


def _problems(file: Path, results: Results) -> Problems:
    """Problem -> its lines in the order of the repeats, problems in their order."""
    lines = read_lines(file, "run NeMo Evaluator again and keep its files together")
    wanted = int(results.get("n_results") or 0)
    if not lines or len(lines) < wanted:
        raise RecordError(f"{str(file)!r} has {len(lines)} of {wanted} answers")
    with schema.malformed(repr(str(file)), "NeMo Evaluator samples"):
        ordered = sorted(lines, key=_place)
        problems: dict[str, list[Line]] = {}
        for line in ordered:
            problems.setdefault(str(line["problem_idx"]), []).append(line)
        places = Counter(map(_place, ordered))
        place, count = max(places.items(), key=lambda item: item[1])
        if count > 1:
            raise ValueError(f"problem {place[0]} has {count} answers to repeat {place[1]}")
    return dict(problems)


def _place(line: Line) -> tuple[int, int]:
    return int(line["problem_idx"]), int(line.get("repeat", 0))


def _with_outcomes(
    record: Record, found: Sequence[Entry], problems: Problems, file: Path
) -> tuple[Record, Outcomes]:
    """The outcomes, and the record with its data's checksum and the totals of its scores."""
    scores, metrics = [], {}
    for score, outcome in found:
        if outcome:
            outcomes = collected(map(outcome, problems.values()))
            scale = 100 if score.unit == MEAN.unit else 1
            score = with_totals(score, outcomes, str(file), rounding=scale * _ROUNDING)
            score = as_right_or_wrong(score, outcomes)
            metrics[score.metric] = outcomes
        scores.append(score)
    firsts = [lines[0] for lines in problems.values()]
    fields = ("problem_idx", "prompt", "expected_answer")
    asked = [[line.get(field) for field in fields] for line in firsts]
    record = replace(
        record,
        scores=tuple(scores),
        data={**record.data, "sha256": digest(asked)},
        warnings=tuple(_warnings([line for lines in problems.values() for line in lines])),
    )
    return record, Outcomes(tuple(problems), tuple(map(_shown, firsts)), metrics)


def _warnings(lines: Sequence[Line]) -> Iterator[str]:
    """What went wrong with answers that count all the same."""
    details = [line.get("scoring_details") or {} for line in lines]
    failed = Counter(str(d["error_category"]) for d in details if d.get("error_category"))
    if failed:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in failed.items())
        yield (
            f"answers that failed and count as wrong: {failed.total()} of {len(lines)} ({kinds})"
        )
    unjudged = sum(bool((d.get("judge") or {}).get("error")) for d in details)
    if unjudged:
        yield f"answers that were not judged: {unjudged} of {len(lines)}"


def _shown(line: Line) -> Shown:
    expected, written = line.get("expected_answer"), line.get("model_response")
    if written is None:
        written = line.get("extracted_answer")
    references = () if expected is None else (str(expected),)
    response = Generated("" if written is None else str(written), (), (), 0, "length")
    example = Example(str(line["problem_idx"]), {}, references)
    return show(example, [(Generate((str(line.get("prompt") or ""),), 0), response)])
