"""Results of EleutherAI's lm-eval as records, to be compared and ranked beside each other.

lm-eval writes `results_<time>.json` with all tasks of a run, and under `--log_samples` the items
of each task beside it (`lm_eval/loggers/evaluation_tracker.py` and `lm_eval/result_schema.py` at
0.4.13). Its numbers stay as they are, but for shares, which become percents. Groups are left out:
theirs are means over tasks.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import Any, NoReturn

from harness.core import Score, Tokens
from harness.errors import RecordError
from harness.metrics import ACCURACY, MEAN, Metric
from harness.records import schema
from harness.records.lm_eval_items import (
    FORMULAS,
    Claim,
    first_lines,
    formula,
    items_and_scores,
    read_samples,
    shown_as,
)
from harness.records.outcomes import Outcomes
from harness.records.record import Record
from harness.task import Measure

ORIGIN = "lm-eval"
KEYS = ("results", "configs", "versions")
OLDER = "lm-eval before 0.4.3"  # the first version whose file has "n-samples"
TIME = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
SIGMAS = NormalDist().inv_cdf(0.975)  # standard errors to either end of a 95 % interval
UNKNOWN = "unknown"

ASKED = (
    "output_type", "description", "doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix",
    "target_delimiter", "process_docs", "process_results", "generation_kwargs", "repeats",
    "filter_list", "metric_list",
)  # fmt: skip
"""Parts of a task's configuration that decide what is asked and how answers are scored."""
SHOTS = ("fewshot_delimiter", "fewshot_split", "fewshot_config")
"""Those that matter only with example pairs."""
DATA = ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset")
MODEL = (
    "model", "model_args", "model_num_parameters", "model_revision", "model_sha", "peft_sha",
    "delta_sha",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Run:
    """A task's record without items, and the numbers in it."""

    record: Record
    claims: tuple[Claim, ...]


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
    is_results = isinstance(value, dict) and all(isinstance(value.get(k), dict) for k in KEYS)
    return value if is_results else None


def records(results: Results, path: Path) -> list[Record]:
    """One record per task in a result file of lm-eval; the samples are not read.

    Raises:
        RecordError: the file is not complete, or of an older version.
    """
    return [run.record for run in _runs(results, path)]


def with_outcomes(results: Results, path: Path) -> list[tuple[Record, Outcomes]]:
    """One record per task in a result file, with the outcomes from the samples beside it.

    The values computed from the outcomes must be those of the result file.

    Raises:
        RecordError: a file cannot be read, is missing, incomplete, or of another run.
    """
    return [_with_items(run, path) for run in _runs(results, path)]


def measures(record: Record) -> tuple[Measure, ...]:
    """The measures of a record's scores, those whose items were read.

    Raises:
        RecordError: a score's unit is not one that lm-eval's items give.
    """
    return tuple(_measure(score) for score in record.scores if score.totals)


def _measure(score: Score) -> Measure:
    if score.unit not in FORMULAS:
        raise RecordError(f"score {score.metric!r} of lm-eval has an unknown unit {score.unit!r}")
    metric = ACCURACY if "right" in score.totals else FORMULAS[score.unit].metric
    return Measure(
        name=score.metric,
        metric=replace(metric, higher_is_better=score.higher_is_better),
        extract=_extract,
        statistics=tuple(score.totals),
        help=f"{score.metric} of lm-eval",
    )


def _extract(*_: object) -> NoReturn:
    raise AssertionError("outcomes of lm-eval are read, never extracted")


def _runs(results: Results, path: Path) -> list[_Run]:
    """Every task of a file."""
    groups = results.get("groups", {})
    tasks = [t for t in results["results"] if t in results["configs"] and t not in groups]
    with schema.malformed(repr(str(path)), "lm-eval 0.4 result"):
        runs = [_run(results, task, path) for task in tasks]
    if not runs:
        raise RecordError(f"{str(path)!r} of lm-eval has no results of a task")
    return runs


def _run(file: Mapping[str, Any], task: str, path: Path) -> _Run:
    config, how = file["configs"][task], file.get("config", {})
    rows, scored = _counts(file, task, path)
    version = _version(file["versions"].get(task))
    claims, odd = _claims(file, task)
    record = Record(
        task=task,
        version=version or 0,
        protocol=ORIGIN,
        options={
            **_options(file, config, int(file.get("n-shot", {}).get(task) or 0)),
            **({} if version is not None else {"version": str(file["versions"].get(task))}),
        },
        model=_model(file, how),
        data=_data(config, rows),
        prompt=None,
        limit=scored if scored < rows else None,  # the first rows, or those of `--samples`
        seed=int(how.get("random_seed") or 0),
        rows=scored,
        examples=scored,
        requests=0,
        tokens=Tokens(),
        seconds=float(file.get("total_evaluation_time_seconds") or 0),
        scores=tuple(claim.score for claim in claims),
        notes={"left out": ", ".join(odd)} if odd else {},
        environment={
            "versions": {
                "lm_eval": file.get("lm_eval_version", UNKNOWN),
                "transformers": file.get("transformers_version", UNKNOWN),
            },
            "git": {"commit": file.get("git_hash"), "dirty": None},  # of the folder it ran in
        },
        created=_created(file.get("date")),
        origin=ORIGIN,
    )
    return _Run(record, claims)


def _counts(file: Mapping[str, Any], task: str, path: Path) -> tuple[int, int]:
    """Rows of a task's data, and rows scored.

    Raises:
        RecordError: the file does not say; those of lm-eval 0.4.0 to 0.4.2 do not.
    """
    if "n-samples" in file:
        counts = file["n-samples"][task]
        return int(counts["original"]), int(counts["effective"])
    scored = file["results"][task].get("sample_len")
    if scored is None:
        raise RecordError(
            f"{str(path)!r} was written by {OLDER} and does not say how many rows of {task} were "
            "scored; run lm-eval 0.4.3 or later"
        )
    return int(scored), int(scored)


def _version(said: object) -> int | None:
    """A task's version if it is a whole number; lm-eval has 1.0, "0", 1.1, "Yaml" and none."""
    try:
        number = float(said)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() else None


def _created(date: float | None) -> str:
    return datetime.fromtimestamp(date, UTC).isoformat(timespec="seconds") if date else ""


def _options(file: Mapping[str, Any], config: Mapping[str, Any], shots: int) -> dict[str, Any]:
    """What two runs of a task must have in common beside their data."""
    names = (*ASKED, *(SHOTS if shots else ()))
    found: dict[str, Any] = {
        "config": _digest({name: config.get(name) for name in names})[:8],
        "shots": shots,
    }
    if shots:
        found["shots_seed"] = str(file.get("config", {}).get("fewshot_seed"))
    if file.get("chat_template_sha"):
        chat = [file["chat_template_sha"], file.get("fewshot_as_multiturn")]
        found["chat"] = _digest(chat)[:8]
    if file.get("system_instruction_sha"):
        found["system"] = str(file["system_instruction_sha"])[:8]
    return found


def _model(file: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, Any]:
    said = [file.get("model_source"), file.get("model_name"), *(how.get(name) for name in MODEL)]
    tokens = [file.get(f"tokenizer_{kind}_token") for kind in ("pad", "eos", "bos")]
    return {
        "name": str(file.get("model_name") or how.get("model") or UNKNOWN),
        "revision": how.get("model_sha") or how.get("model_revision"),
        # No digest of the weights, which the file does not have: a checksum over all that it says
        # of the model, arguments included. Other words give another one, also for equal weights;
        # a local folder whose weights were replaced keeps its own.
        "digest": _digest(said),
        # Likewise: the special tokens are all that it says of the tokenizer.
        "tokenizer": _digest([*tokens, file.get("eot_token_id")]),
        "parameters": how.get("model_num_parameters", UNKNOWN),
        "dtype": str(how.get("model_dtype") or UNKNOWN).removeprefix("torch."),
        "device": str(how.get("device") or UNKNOWN),
        "context": file.get("max_length") or UNKNOWN,
    }


def _data(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Where the rows come from; the checksum is over these words where there are no items."""
    split = config.get("test_split") or config.get("validation_split")
    parts = [config.get("dataset_path"), config.get("dataset_name"), split]
    return {
        "source": ORIGIN,
        "name": re.sub(r"[\s|]+", "_", ":".join(str(part) for part in parts if part)),
        "sha256": _digest([*(config.get(name) for name in DATA), split]),
        "rows": rows,
        "warnings": [],
    }


def _digest(value: Any) -> str:
    """sha256 of a JSON value; addresses of Python objects in its texts do not count."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", json.dumps(value, sort_keys=True))
    return hashlib.sha256(text.encode()).hexdigest()


def _claims(file: Mapping[str, Any], task: str) -> tuple[tuple[Claim, ...], list[str]]:
    """A task's numbers, and what stands where there is none, such as `acc (nan)`."""
    found, odd = [], []
    values = file["results"][task]
    for key, value in values.items():
        metric, comma, filter_ = key.partition(",")
        if not comma or metric.endswith("_stderr") or metric == "bypass":
            continue
        name = metric if filter_ == "none" else key
        number, stderr = _number(value), _number(values.get(f"{metric}_stderr,{filter_}"))
        if number is None:
            odd.append(f"{name} ({value})")
            continue
        higher = file.get("higher_is_better", {}).get(task, {}).get(metric)
        how = formula(file["configs"][task], metric, higher)
        score = _score(name, number, stderr, higher, shown_as(metric, how))
        found.append(Claim(metric, filter_, score, how))
    return tuple(found), odd


def _number(value: object) -> float | None:
    """A finite number; None for `N/A` and the like."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _score(
    name: str, value: float, stderr: float | None, higher: bool | None, metric: Metric
) -> Score:
    scale = 100.0 if metric.unit == MEAN.unit else 1.0
    center, spread = scale * value, None if stderr is None else scale * stderr
    return Score(
        metric=name,
        value=center,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better if higher is None else higher,
        stderr=spread,
        low=None if spread is None else center - SIGMAS * spread,  # normal approximation
        high=None if spread is None else center + SIGMAS * spread,
        totals={},
    )


def _with_items(run: _Run, path: Path) -> tuple[Record, Outcomes]:
    """The record with its data's checksum and its scores' totals, and the items."""
    record = run.record
    beside = _samples_path(path, record.task)
    samples = read_samples(beside)
    lines = first_lines(samples).values()
    if len(lines) < record.examples:
        raise RecordError(
            f"{beside.name} has {len(lines)} of the {record.examples} items of {path.name}"
        )
    try:
        items, found = items_and_scores(run.claims, samples)
        hashes = [str(line.get("doc_hash") or line["doc"]) for line in lines]
        requests = sum(len(line["arguments"]) for line in lines)
    except RecordError as error:
        raise RecordError(f"{beside.name} does not belong to {path.name}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RecordError(f"{beside.name} holds no samples of lm-eval 0.4: {error!r}") from error
    data = {**record.data, "sha256": _digest(hashes)}
    return replace(record, scores=found, data=data, requests=requests), items


def _samples_path(path: Path, task: str) -> Path:
    """The file with the items of a task, beside a result file.

    Raises:
        RecordError: the result file has another name than lm-eval gives it, or no file can be
            named after the task.
    """
    time = TIME.search(path.name)
    if not time:
        raise RecordError(
            f"{path.name} has no time in its name, by which its items are found; expected a file "
            "of lm-eval 0.4.3 or later under the name that lm-eval gave it"
        )
    try:
        return path.with_name(f"samples_{task}_{time[1]}.jsonl")
    except ValueError as error:
        raise RecordError(f"{path.name}: {task!r} cannot be part of a file's name") from error
