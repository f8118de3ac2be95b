"""Results of EleutherAI's lm-eval as records, to be compared and ranked with ours.

lm-eval writes `results_<time>.json` with all tasks of a run and, with `--log_samples`, one file of
samples per task (`lm_eval/loggers/evaluation_tracker.py` and `lm_eval/result_schema.py` at
0.4.13). Its numbers are not changed, except that shares become percents. Groups are left out,
because they are means over tasks.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import Any

from harness.core import Score, Tokens
from harness.errors import RecordError
from harness.metrics import MEAN
from harness.records import schema
from harness.records.lm_eval_metrics import ReportedScore, formula, measure_of, metric_of
from harness.records.lm_eval_samples import (
    first_lines,
    outcomes_and_scores,
    read_samples,
    samples_path,
)
from harness.records.outcomes import NO_OUTCOMES, Outcomes
from harness.records.record import Record
from harness.task import Measure

ORIGIN = "lm-eval"
_KEYS = ("results", "configs", "versions")
_STDERRS = NormalDist().inv_cdf(0.975)  # from the value to either end of a 95 % interval
_UNKNOWN = "unknown"

_TASK_FIELDS = (
    "output_type", "description", "doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix",
    "target_delimiter", "process_docs", "process_results", "generation_kwargs", "repeats",
    "filter_list", "metric_list",
)  # fmt: skip
"""Parts of a task's configuration that decide the requests and how responses are scored."""
_FEW_SHOT_FIELDS = ("fewshot_delimiter", "fewshot_split", "fewshot_config")
"""Those that matter only with few-shot examples."""
_DATA_FIELDS = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")
_MODEL_FIELDS = (
    "model", "model_args", "model_num_parameters", "model_revision", "model_sha", "peft_sha",
    "delta_sha",
)  # fmt: skip

Results = Mapping[str, Any]
"""The JSON object in a result file of lm-eval."""


def results(data: bytes) -> Results | None:
    """The content of a result file of lm-eval; None if it is another file, or damaged."""
    if b'"results"' not in data:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    is_results = isinstance(value, dict) and all(isinstance(value.get(k), dict) for k in _KEYS)
    return value if is_results else None


def records(results: Results, path: Path, *, samples: bool) -> list[tuple[Record, Outcomes]]:
    """One record per task in a result file, with the outcomes of its samples if they are read.

    The scores computed from the outcomes must be those of the result file.
    """
    groups = results.get("groups", {})
    names = [t for t in results["results"] if t in results["configs"] and t not in groups]
    with schema.malformed(repr(str(path)), "lm-eval 0.4 result"):
        tasks = [_task(results, name, path) for name in names]
    if not tasks:
        raise RecordError(f"{str(path)!r} of lm-eval has no results of a task")
    if not samples:
        return [(record, NO_OUTCOMES) for record, _ in tasks]
    return [_with_outcomes(*task, path) for task in tasks]


def measures(record: Record) -> tuple[Measure, ...]:
    """The measures of those scores whose samples were read."""
    return tuple(measure_of(score) for score in record.scores if score.totals)


def _task(file: Results, task: str, path: Path) -> tuple[Record, list[ReportedScore]]:
    """A task's record without outcomes, and the scores in it."""
    config, settings = file["configs"][task], file.get("config", {})
    rows, scored = _counts(file, task, path)
    version = _version(file["versions"].get(task))
    date = file.get("date")
    reported, left_out = _reported(file, task)
    record = Record(
        task=task,
        version=version or 0,
        protocol=ORIGIN,
        options={
            **_options(file, config, int(file.get("n-shot", {}).get(task) or 0)),
            **({} if version is not None else {"version": str(file["versions"].get(task))}),
        },
        model=_model(file, settings),
        data=_data(config, rows),
        prompt=None,
        limit=scored if scored < rows else None,  # the first rows, or those of `--samples`
        seed=int(settings.get("random_seed") or 0),
        rows=scored,
        examples=scored,
        requests=0,
        tokens=Tokens(),
        seconds=float(file.get("total_evaluation_time_seconds") or 0),
        scores=tuple(entry.score for entry in reported),
        notes={"left out": ", ".join(left_out)} if left_out else {},
        environment={
            "versions": {
                "lm_eval": file.get("lm_eval_version", _UNKNOWN),
                "transformers": file.get("transformers_version", _UNKNOWN),
            },
            "git": {"commit": file.get("git_hash"), "dirty": None},  # of the folder it ran in
        },
        created=datetime.fromtimestamp(date, UTC).isoformat(timespec="seconds") if date else "",
        origin=ORIGIN,
    )
    return record, reported


def _counts(file: Results, task: str, path: Path) -> tuple[int, int]:
    """Rows of a task's data, and rows scored; files of lm-eval 0.4.0 to 0.4.2 do not say."""
    if "n-samples" in file:  # since 0.4.3
        counts = file["n-samples"][task]
        return int(counts["original"]), int(counts["effective"])
    scored = file["results"][task].get("sample_len")
    if scored is None:
        raise RecordError(
            f"{str(path)!r} was written by lm-eval before 0.4.3 and does not say how many rows of "
            f"{task} were scored; run lm-eval 0.4.3 or later"
        )
    return int(scored), int(scored)


def _version(version: Any) -> int | None:
    """A task's version if it is an integer; lm-eval has 1.0, "0", 1.1, "Yaml" and none."""
    try:
        number = float(version)
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def _options(file: Results, config: Mapping[str, Any], shots: int) -> dict[str, Any]:
    """What two runs of a task must have in common besides their data."""
    names = (*_TASK_FIELDS, *(_FEW_SHOT_FIELDS if shots else ()))
    options: dict[str, Any] = {
        "config": _digest({name: config.get(name) for name in names})[:8],
        "shots": shots,
    }
    if shots:
        options["shots_seed"] = str(file.get("config", {}).get("fewshot_seed"))
    if file.get("chat_template_sha"):
        chat = [file["chat_template_sha"], file.get("fewshot_as_multiturn")]
        options["chat"] = _digest(chat)[:8]
    if file.get("system_instruction_sha"):
        options["system"] = str(file["system_instruction_sha"])[:8]
    return options


def _model(file: Results, settings: Mapping[str, Any]) -> dict[str, Any]:
    identity = [file.get("model_source"), file.get("model_name")]
    identity += [settings.get(name) for name in _MODEL_FIELDS]
    tokens = [file.get(f"tokenizer_{kind}_token") for kind in ("pad", "eos", "bos")]
    return {
        "name": str(file.get("model_name") or settings.get("model") or _UNKNOWN),
        "revision": settings.get("model_sha") or settings.get("model_revision"),
        # The file has no digest of the weights. This one is over all that it says about the model,
        # arguments included: equal weights named in another way have another digest, and a local
        # folder whose weights were replaced keeps its own.
        "digest": _digest(identity),
        # Likewise, the file describes the tokenizer only by its special tokens.
        "tokenizer": _digest([*tokens, file.get("eot_token_id")]),
        "parameters": settings.get("model_num_parameters", _UNKNOWN),
        "dtype": str(settings.get("model_dtype") or _UNKNOWN).removeprefix("torch."),
        "device": str(settings.get("device") or _UNKNOWN),
        "context": file.get("max_length") or _UNKNOWN,
    }


def _data(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Where the rows come from; without samples the checksum is over this description."""
    split = config.get("test_split") or config.get("validation_split")
    parts = [config.get("dataset_path"), config.get("dataset_name"), split]
    return {
        "source": ORIGIN,
        "name": re.sub(r"[\s|]+", "_", ":".join(str(part) for part in parts if part)),
        "sha256": _digest([*(config.get(name) for name in _DATA_FIELDS), split]),
        "rows": rows,
        "warnings": [],
    }


def _digest(value: Any) -> str:
    """sha256 of a JSON value, without the addresses of Python objects in its texts."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", json.dumps(value, sort_keys=True))
    return hashlib.sha256(text.encode()).hexdigest()


def _reported(file: Results, task: str) -> tuple[list[ReportedScore], list[str]]:
    """A task's scores, and the entries that are not numbers, such as `acc (nan)`."""
    reported, left_out = [], []
    values = file["results"][task]
    for key, value in values.items():
        metric, comma, filter_ = key.partition(",")
        if not comma or metric.endswith("_stderr") or metric == "bypass":
            continue
        name = metric if filter_ == "none" else key
        number, stderr = _number(value), _number(values.get(f"{metric}_stderr,{filter_}"))
        if number is None:
            left_out.append(f"{name} ({value})")
            continue
        higher = file.get("higher_is_better", {}).get(task, {}).get(metric)
        how = formula(file["configs"][task], metric, higher)
        kind = metric_of(metric, how)
        scale = 100.0 if kind.unit == MEAN.unit else 1.0
        value, spread = scale * number, None if stderr is None else scale * stderr
        score = Score(
            metric=name,
            value=value,
            unit=kind.unit,
            higher_is_better=kind.higher_is_better if higher is None else higher,
            stderr=spread,
            low=None if spread is None else value - _STDERRS * spread,  # normal approximation
            high=None if spread is None else value + _STDERRS * spread,
            totals={},
        )
        reported.append(ReportedScore(metric, filter_, score, how))
    return reported, left_out


def _number(value: object) -> float | None:
    """A finite number; None for `N/A` and the like."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _with_outcomes(
    record: Record, reported: list[ReportedScore], path: Path
) -> tuple[Record, Outcomes]:
    """The outcomes, and the record with its data's checksum and the totals of its scores."""
    file = samples_path(path, record.task)
    samples = read_samples(file)
    lines = first_lines(samples).values()
    if len(lines) < record.examples:
        raise RecordError(
            f"{file.name} has {len(lines)} of the {record.examples} examples of {path.name}"
        )
    with schema.malformed(file.name, "lm-eval 0.4 samples"):
        outcomes, scores = outcomes_and_scores(reported, samples, file.name)
        hashes = [str(line.get("doc_hash") or line["doc"]) for line in lines]
        requests = sum(len(line["arguments"]) for line in lines)
    data = {**record.data, "sha256": _digest(hashes)}
    return replace(record, scores=scores, data=data, requests=requests), outcomes
