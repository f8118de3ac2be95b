"""The samples files of lm-eval, `samples_<task>_<time>.jsonl`, as outcomes.

They have one line per example and filter, with the strings that the model was given and the value
of every metric:

    {"doc_id": 0, "target": " mat", "arguments": {"gen_args_0": {"arg_0": "on the", ...}},
     "resps": [[["-3.5", "True"]]], "filter": "none", "perplexity": -3.5, "acc": 1, ...}
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core import (
    Example,
    Generate,
    Generated,
    Loglikelihood,
    Request,
    Response,
    Rolled,
    RollingLoglikelihood,
    Score,
    Scored,
)
from harness.errors import RecordError
from harness.records.outcomes import MetricOutcomes, Outcomes, Shown, show
from harness.records.readers.lm_eval_metrics import RIGHT_OR_WRONG, Formula, ReportedScore
from harness.records.readers.reported import as_right_or_wrong, read_lines, with_totals

_TIME = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")


def samples_path(path: Path, task: str) -> Path:
    """The samples file of a task, next to a result file under the name that lm-eval gave it."""
    time = _TIME.search(path.name)
    if not time:
        raise RecordError(
            f"{path.name} has no time in its name, by which its samples are found; expected a file "
            "of lm-eval 0.4.3 or later under the name that lm-eval gave it"
        )
    try:
        return path.with_name(f"samples_{task}_{time[1]}.jsonl")
    except ValueError as error:
        raise RecordError(f"{path.name}: {task!r} cannot be part of a file's name") from error


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The lines of a samples file, in the order of the rows."""
    samples = read_lines(path, "run lm-eval with --log_samples and keep its files together")
    try:
        return sorted(samples, key=lambda sample: int(sample["doc_id"]))
    except (LookupError, TypeError, ValueError) as error:
        raise RecordError(
            f"{path.name} holds no samples of lm-eval: a line has no integer as doc_id"
        ) from error


def first_lines(samples: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Example -> its first line; there is one line per filter."""
    lines: dict[str, Mapping[str, Any]] = {}
    for sample in samples:
        lines.setdefault(str(sample["doc_id"]), sample)
    return lines


def outcomes_and_scores(
    reported: Sequence[ReportedScore], samples: Sequence[Mapping[str, Any]], name: str
) -> tuple[Outcomes, tuple[Score, ...]]:
    """The outcomes, and the reported scores with the totals that the samples give.

    Raises:
        RecordError: the samples, read from the file `name`, give another value than lm-eval
            reports.
    """
    first = first_lines(samples)
    places = {name: place for place, name in enumerate(first)}
    metrics: dict[str, MetricOutcomes] = {}
    scores = []
    for entry in reported:
        score = entry.score
        if entry.formula:
            outcomes = _outcomes(entry, entry.formula, samples, places)
            metrics[score.metric] = outcomes
            score = with_totals(score, outcomes, name)
            if entry.metric in RIGHT_OR_WRONG:
                score = as_right_or_wrong(score, outcomes)
        scores.append(score)
    return Outcomes(tuple(first), tuple(map(_shown, first.values())), metrics), tuple(scores)


def _outcomes(
    entry: ReportedScore,
    formula: Formula,
    samples: Sequence[Mapping[str, Any]],
    places: Mapping[str, int],
) -> MetricOutcomes:
    """A metric's outcomes, without samples that have no value, which lm-eval leaves out too."""
    examples, values = [], []
    for sample in samples:
        if sample.get("filter", entry.filter) == entry.filter and entry.metric in sample:
            outcome = formula.outcome(sample[entry.metric])
            if not math.isnan(outcome[0]):  # lm-eval's `nanmean`
                examples.append(places[str(sample["doc_id"])])
                values.append(outcome)
    return MetricOutcomes(tuple(examples), tuple(values))


def _shown(sample: Mapping[str, Any]) -> Shown:
    pairs = list(_exchanges(sample))
    reference = str(sample["target"])
    if len(pairs) > 1 and reference.isdecimal() and int(reference) < len(pairs):
        reference = getattr(pairs[int(reference)][0], "continuation", reference)  # its choice
    return show(Example(str(sample["doc_id"]), {}, (reference.strip(),)), pairs)


def _exchanges(sample: Mapping[str, Any]) -> Iterator[tuple[Request, Response]]:
    """Requests and responses as ours, as far as `show` needs them."""
    responses, filtered = sample["resps"], sample["filtered_resps"]
    for i, arguments in enumerate(_as_list(sample["arguments"])):
        text, *more = _as_list(arguments)
        response = responses[i][0]  # of several repeats
        if isinstance(response, list):  # [log-probability, whether it is greedy]
            scored = Scored((float(response[0]),), (False,))
            yield Loglikelihood(str(text), str(more[0])), scored
        elif more:
            output = str(filtered[i] if i < len(filtered) else response)
            yield Generate((str(text),), 0), Generated(output, (), (), 0, "length")
        else:
            scored = Scored((float(response),), (False,))
            yield RollingLoglikelihood((str(text),)), Rolled((scored,))


def _as_list(arguments: Any) -> list[Any]:
    """`{"gen_args_0": x, ...}`, or `[x, ...]` in older files."""
    return list(arguments.values()) if isinstance(arguments, dict) else list(arguments)
