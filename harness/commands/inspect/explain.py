"""`harness explain`: how one example of a record got its score."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.commands.inspect.options import ExplainOptions
from harness.commands.inspect.rerun import Again, Answered, run_again
from harness.display import terminal
from harness.display.explanation import MeasureExplanation, explanation
from harness.errors import CheckpointError, RecordError
from harness.records.folder import read, read_outcomes
from harness.records.outcomes import NO_OUTCOMES, Outcomes
from harness.records.record import Record
from harness.records.trace import ItemTrace, outcome_of


def run_explain(path: Path, item: str, options: ExplainOptions) -> None:
    """Print how one example of a record got its score."""
    if path.is_dir():
        raise RecordError(f"{str(path)!r} is a folder; give the file of one record (*.json)")
    terminal.start_logging()
    record = read(path)
    again = run_again(record, options.model, options.data, options.cache, options.server)
    if options.ranks and record.endpoint:
        terminal.note("ranks of scored tokens need the weights, and the model is behind a server")
    with again.closing:
        answered = again.answered(item)
        trace = _trace(again, answered, options.ranks)
    measures = explain(again, answered, _outcomes(path, record))
    if options.as_json:
        terminal.print_json({**_plain(trace), "measures": _plain(measures)})
        return
    for line in explanation(record, again.asked.prompt, again.job.task, trace, measures):
        terminal.OUT.print(line)


def _trace(again: Again, answered: Answered, ranks: bool) -> ItemTrace:
    try:
        return again.trace(answered, ranks=ranks)
    except CheckpointError as error:
        if not ranks:
            raise
        raise CheckpointError(f"{error}; --no-ranks shows the item without the weights") from error


def _outcomes(path: Path, record: Record) -> Outcomes:
    """The recorded outcomes; none, with a note, if the file of them is missing."""
    try:
        return read_outcomes(path, record)
    except RecordError as error:
        terminal.note(str(error))
        return NO_OUTCOMES


def explain(again: Again, answered: Answered, recorded: Outcomes) -> list[MeasureExplanation]:
    """How each measure that concerns the example came to its outcome."""
    scores = {score.metric: score.value for score in again.record.scores}
    example, responses = answered.example, answered.responses
    explained = []
    for measure in again.job.task.measures(again.job.protocol.options):
        if outcome := outcome_of(measure, example, responses):
            explained.append(
                MeasureExplanation(
                    outcome,
                    measure.help,
                    tuple(measure.steps(example, responses)) if measure.steps else (),
                    _recorded_sums(recorded, measure.name, example.id),
                    scores.get(measure.name),
                )
            )
    return explained


def _recorded_sums(outcomes: Outcomes, measure: str, item: str) -> tuple[float, ...] | None:
    if measure not in outcomes.metrics:
        return None
    place, metric = outcomes.ids.index(item), outcomes.metrics[measure]
    pairs = zip(metric.examples, metric.values, strict=True)
    parts = [values for example, values in pairs if example == place]
    return tuple(sum(column) for column in zip(*parts, strict=True)) if parts else None


def _plain(value: Any) -> Any:
    """JSON values: named tuples become objects, what JSON does not have becomes text."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, str | int | float) else repr(value)
