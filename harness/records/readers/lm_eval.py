"""Results of EleutherAI's lm-eval as records, to be compared and ranked with ours.

lm-eval writes `results_<time>.json` with all tasks of a run and, with `--log_samples`, one file of
samples per task (`lm_eval/loggers/evaluation_tracker.py` and `lm_eval/result_schema.py` at
0.4.13). Its numbers are not changed, except that shares become percents. Groups are left out,
because they are means over tasks.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.core import Tokens
from harness.errors import RecordError
from harness.records import schema
from harness.records.outcomes import NO_OUTCOMES, Outcomes
from harness.records.readers.lm_eval_metrics import ReportedScore, formula, metric_of
from harness.records.readers.lm_eval_samples import (
    first_lines,
    outcomes_and_scores,
    read_samples,
    samples_path,
)
from harness.records.readers.reported import (
    UNKNOWN,
    Results,
    digest,
    number,
    one_word,
    reported,
    whole_version,
)
from harness.records.record import Record

ORIGIN = "lm-eval"
OTHER_FILES: frozenset[str] = frozenset()
_KEYS = ("results", "configs", "versions")

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


def recognises(value: Any) -> bool:
    """Whether a parsed JSON file is a result file of lm-eval."""
    return isinstance(value, dict) and all(isinstance(value.get(k), dict) for k in _KEYS)


def attempt(results: Results, path: Path) -> tuple[str, int]:
    """Every file is a run of its own."""
    return str(path), 0


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


def _task(file: Results, task: str, path: Path) -> tuple[Record, list[ReportedScore]]:
    """A task's record without outcomes, and the scores in it."""
    config, settings = file["configs"][task], file.get("config", {})
    rows, scored = _counts(file, task, path)
    version = whole_version(file["versions"].get(task))
    date = file.get("date")
    entries, left_out = _reported(file, task)
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
        scores=tuple(entry.score for entry in entries),
        notes={"left out": ", ".join(left_out)} if left_out else {},
        environment={
            "versions": {
                "lm_eval": file.get("lm_eval_version", UNKNOWN),
                "transformers": file.get("transformers_version", UNKNOWN),
            },
            "git": {"commit": file.get("git_hash"), "dirty": None},  # of the folder it ran in
        },
        created=datetime.fromtimestamp(date, UTC).isoformat(timespec="seconds") if date else "",
        origin=ORIGIN,
    )
    return record, entries


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


def _options(file: Results, config: Mapping[str, Any], shots: int) -> dict[str, Any]:
    """What two runs of a task must have in common besides their data."""
    names = (*_TASK_FIELDS, *(_FEW_SHOT_FIELDS if shots else ()))
    options: dict[str, Any] = {
        "config": digest({name: config.get(name) for name in names})[:8],
        "shots": shots,
    }
    if shots:
        options["shots_seed"] = str(file.get("config", {}).get("fewshot_seed"))
    if file.get("chat_template_sha"):
        chat = [file["chat_template_sha"], file.get("fewshot_as_multiturn")]
        options["chat"] = digest(chat)[:8]
    if file.get("system_instruction_sha"):
        options["system"] = str(file["system_instruction_sha"])[:8]
    return options


def _model(file: Results, settings: Mapping[str, Any]) -> dict[str, Any]:
    identity = [file.get("model_source"), file.get("model_name")]
    identity += [settings.get(name) for name in _MODEL_FIELDS]
    tokens = [file.get(f"tokenizer_{kind}_token") for kind in ("pad", "eos", "bos")]
    return {
        "name": str(file.get("model_name") or settings.get("model") or UNKNOWN),
        "revision": settings.get("model_sha") or settings.get("model_revision"),
        # The file has no digest of the weights. This one is over all that it says about the model,
        # arguments included: equal weights named in another way have another digest, and a local
        # folder whose weights were replaced keeps its own.
        "digest": digest(identity),
        # Likewise, the file describes the tokenizer only by its special tokens.
        "tokenizer": digest([*tokens, file.get("eot_token_id")]),
        "parameters": settings.get("model_num_parameters", UNKNOWN),
        "dtype": str(settings.get("model_dtype") or UNKNOWN).removeprefix("torch."),
        "device": str(settings.get("device") or UNKNOWN),
        "context": file.get("max_length") or UNKNOWN,
    }


def _data(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Where the rows come from; without samples the checksum is over this description."""
    split = config.get("test_split") or config.get("validation_split")
    parts = [config.get("dataset_path"), config.get("dataset_name"), split]
    return {
        "source": ORIGIN,
        "name": one_word(parts),
        "sha256": digest([*(config.get(name) for name in _DATA_FIELDS), split]),
        "rows": rows,
        "warnings": [],
    }


def _reported(file: Results, task: str) -> tuple[list[ReportedScore], list[str]]:
    """A task's scores, and the entries that are not numbers, such as `acc (nan)`."""
    entries, left_out = [], []
    values = file["results"][task]
    for key, value in values.items():
        metric, comma, filter_ = key.partition(",")
        if not comma or metric.endswith("_stderr") or metric == "bypass":
            continue
        name = metric if filter_ == "none" else key
        found, stderr = number(value), number(values.get(f"{metric}_stderr,{filter_}"))
        if found is None:
            left_out.append(f"{name} ({value})")
            continue
        higher = file.get("higher_is_better", {}).get(task, {}).get(metric)
        how = formula(file["configs"][task], metric, higher)
        kind = metric_of(metric, how)
        if higher is not None:
            kind = replace(kind, higher_is_better=higher)
        score = reported(name, kind, found, stderr=stderr)
        entries.append(ReportedScore(metric, filter_, score, how))
    return entries, left_out


def _with_outcomes(
    record: Record, entries: list[ReportedScore], path: Path
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
        outcomes, scores = outcomes_and_scores(entries, samples, file.name)
        hashes = [str(line.get("doc_hash") or line["doc"]) for line in lines]
        requests = sum(len(line["arguments"]) for line in lines)
    data = {**record.data, "sha256": digest(hashes)}
    return replace(record, scores=scores, data=data, requests=requests), outcomes
