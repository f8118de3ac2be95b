"""One item of a record from prompt to score, for a person: `harness explain`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rich.text import Text

from harness.commands.inspect.rerun import Again, Answered, run_again
from harness.commands.inspect.steps import Step, described, steps
from harness.commands.options import CacheOptions, DataOptions, ModelOptions
from harness.display import terminal
from harness.display.preview import preview
from harness.errors import CheckpointError, RecordError
from harness.records.folder import read, read_outcomes
from harness.records.outcomes import Outcomes
from harness.records.record import Record
from harness.records.trace import ItemTrace, OutcomeTrace
from harness.report.number_format import number
from harness.task import Task

MOST = 40  # steps shown of one measure
FEW = 6  # statistics of an outcome that are shown by name


class Explained(NamedTuple):
    """How a measure came to its outcome."""

    outcome: OutcomeTrace
    about: str  # what the measure is, and what its extractor does
    steps: tuple[Step, ...]
    recorded: tuple[float, ...] | None  # sums in the record; None where it has none
    score: float | None  # of the whole run


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """How one item is explained."""

    model: ModelOptions
    data: DataOptions
    cache: CacheOptions
    ranks: bool = True  # load the model for the rank of every scored token
    as_json: bool = False


def run_explain(path: Path, item: str, options: ExplainOptions) -> None:
    """Print one item of a record.

    Raises:
        HarnessError: the record cannot be read or made again, or has no such item.
    """
    if path.is_dir():
        raise RecordError(f"{str(path)!r} is a folder; give the file of one record (*.json)")
    terminal.start_logging()
    record = read(path)
    again = run_again(record, options.model, options.data, options.cache)
    answered = again.answered(item)
    found = _trace(again, answered, options.ranks)
    explained = explain(again, answered, found, _items(path, record))
    if options.as_json:
        value = {**_plain(found), "measures": _plain(explained)}
        terminal.print_json(value)
        return
    lines = (_head(again, found), preview(found.requests), _best(found), _measures(explained))
    for line in chain.from_iterable(lines):
        terminal.OUT.print(line)


def _trace(again: Again, item: Answered, ranks: bool) -> ItemTrace:
    try:
        return again.trace(item, ranks=ranks)
    except CheckpointError as error:
        if not ranks:
            raise
        raise CheckpointError(f"{error}; --no-ranks shows the item without the weights") from error


def explain(
    again: Again, item: Answered, trace: ItemTrace, items: Outcomes | None
) -> tuple[Explained, ...]:
    """Every measure's way to its outcome, of those that say something of the item."""
    scores = {score.metric: score.value for score in again.record.scores}
    outcomes = {outcome.measure: outcome for outcome in trace.outcomes}
    found = []
    for measure in again.job.task.measures(again.job.protocol.options):
        if measure.name in outcomes:
            _, way = steps(again.job.task, measure, item.example, item.responses)
            found.append(
                Explained(
                    outcomes[measure.name],
                    described(again.job.task, measure),
                    way,
                    _recorded(items, measure.name, trace.id),
                    scores.get(measure.name),
                )
            )
    return tuple(found)


def _items(path: Path, record: Record) -> Outcomes | None:
    """The recorded outcomes; a record without them is explained all the same."""
    try:
        return read_outcomes(path, record)
    except RecordError as error:
        terminal.note(str(error))
        return None


def _recorded(items: Outcomes | None, measure: str, item: str) -> tuple[float, ...] | None:
    if items is None or measure not in items.metrics:
        return None
    place = items.ids.index(item)
    outcomes = items.metrics[measure]
    mine = [v for e, v in zip(outcomes.examples, outcomes.values, strict=True) if e == place]
    return tuple(sum(column) for column in zip(*mine, strict=True)) if mine else None


# --- lines ------------------------------------------------------------------------------------


def _head(again: Again, trace: ItemTrace) -> Iterator[Text]:
    """Which item of which run, its protocol, template and references."""
    record, prompt = again.record, again.asked.prompt
    yield Text(f"{record.task} item {trace.id} of {record.model['name']}")
    yield Text(f"  signature: {record.signature}")
    yield Text(f"  protocol: {record.protocol} ({_options(again.job.task, record)})")
    data = record.data
    yield Text(f"  data: {data['name']} ({data['source']}, sha256 {data['sha256'][:12]}...)")
    text = f"{prompt.name} {prompt.template!r}" if prompt.name else "none, the text as it is"
    yield Text(f"  template: {text}")
    if trace.references:
        yield Text(f"  references: {list(trace.references)}")


def _options(task: Task, record: Record) -> str:
    """Options that differ from the defaults first, then how many do not."""
    defaults = {option.name: option.default for option in task.options}
    differ = [f"{k}={v}" for k, v in record.options.items() if str(v) != defaults[k]]
    rest = len(record.options) - len(differ)
    return ", ".join([*differ, f"{rest} options at their defaults"])


def _best(trace: ItemTrace) -> Iterator[Text]:
    """The most probable of several continuations; an extractor may divide before it compares."""
    choices = [r for r in trace.requests if r.kind == "loglikelihood" and r.logprob is not None]
    if len(choices) > 1:
        best = max(choices, key=lambda r: r.logprob or 0.0)
        text = "".join(token.text for token in best.tokens if token.scored)
        yield Text(
            f"  most probable of {len(choices)}, undivided: {text!r} ({best.logprob:.4f} nats)"
        )


def _measures(explained: Sequence[Explained]) -> Iterator[Text]:
    told: set[Step] = set()
    for measure in explained:
        yield from _measure(measure, told)
        told |= set(measure.steps)


def _measure(found: Explained, told: set[Step]) -> Iterator[Text]:
    outcome = found.outcome
    yield Text("  ").append(outcome.measure, "bold").append(f": {found.about}")
    new = [step for step in found.steps if step not in told]
    for step in new[:MOST]:
        given = ", ".join(step.given)
        yield Text(f"    {'  ' * step.depth}{step.function}({given}) -> {step.gave}")
    if len(new) > MOST:
        yield Text(f"    ... and {len(new) - MOST} more steps")
    if len(new) < len(found.steps):
        yield Text(f"    ({len(found.steps) - len(new)} steps as above)", "dim")
    yield Text(f"    outcome: {_sums(outcome)}{_beside(found)}")


def _sums(outcome: OutcomeTrace) -> str:
    """The statistics by name; those that are 0 are left out where there are many."""
    pairs = list(zip(outcome.statistics, outcome.sums, strict=True))
    if len(pairs) > FEW:
        pairs = [(name, value) for name, value in pairs if value]
    parts = f", over {outcome.parts} parts" if outcome.parts > 1 else ""
    return (", ".join(f"{name} {value:.6g}" for name, value in pairs) or "a text") + parts


def _beside(found: Explained) -> str:
    """This item's own score, the run's, and the record's outcome where it is another."""
    outcome = found.outcome
    said = []
    if outcome.value is not None:
        said.append(f"alone {number(outcome.value, outcome.unit)} {outcome.unit}")
    if found.score is not None:
        said.append(f"the run {number(found.score, outcome.unit)} {outcome.unit}")
    if found.recorded is not None and found.recorded != outcome.sums:
        values = ", ".join(f"{value:.6g}" for value in found.recorded)
        said.append(f"recorded as {values}")
    return f"; {'; '.join(said)}" if said else ""


def _plain(value: Any) -> Any:
    """Named tuples as objects, for JSON."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {k: _plain(v) for k, v in value._asdict().items()}
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
