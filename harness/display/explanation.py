"""How an example got its score, as lines: request, response, steps and outcome."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from harness.display.preview import preview
from harness.records.record import Record
from harness.records.trace import ItemTrace, OutcomeTrace
from harness.report.number_format import number
from harness.task import Task

if TYPE_CHECKING:
    from harness.prompt import Prompt

MAX_STEP_CHARS = 100  # of a value
MAX_STATISTICS = 6  # beyond which those that are 0 are left out


class MeasureExplanation(NamedTuple):
    """How a measure came to its outcome."""

    outcome: OutcomeTrace
    help: str
    steps: tuple[tuple[str, Any], ...]  # (name, value) in the order of the extraction
    recorded: tuple[float, ...] | None  # sums in the record; None if it has none
    score: float | None  # of the whole run


def explanation(
    record: Record,
    prompt: "Prompt",
    task: Task,
    trace: ItemTrace,
    measures: Sequence[MeasureExplanation],
) -> Iterator[Text]:
    """The lines of `harness explain`."""
    data = record.data
    template = f"{prompt.name} {prompt.template!r}" if prompt.name else "none, the text as it is"
    yield Text(f"{record.task} item {trace.id} of {record.model['name']}")
    yield Text(f"  signature: {record.signature}")
    yield Text(f"  protocol: {record.protocol} ({_options(task, record)})")
    yield Text(f"  data: {data['name']} ({data['source']}, sha256 {data['sha256'][:12]}...)")
    yield Text(f"  template: {template}")
    if trace.references:
        yield Text(f"  references: {list(trace.references)}")
    yield from preview(trace.requests)
    yield from _most_probable(trace)
    shown: set[str] = set()
    for measure in measures:
        yield Text("  ").append(measure.outcome.measure, "bold").append(f": {measure.help}")
        lines = [f"{name}: {step_value(value)}" for name, value in measure.steps]
        for line in lines:
            if line not in shown:
                yield Text(f"    {line}")
        shown |= set(lines)
        yield Text(f"    outcome: {_sums(measure.outcome)}{_scores(measure)}")


def _options(task: Task, record: Record) -> str:
    """Options that differ from the defaults, then the number of the others."""
    defaults = {option.name: option.default for option in task.options}
    changed = [f"{k}={v}" for k, v in record.options.items() if str(v) != defaults[k]]
    return ", ".join([*changed, f"{len(record.options) - len(changed)} options at their defaults"])


def _most_probable(trace: ItemTrace) -> Iterator[Text]:
    """The most probable of several continuations; an extractor may divide before it compares."""
    choices = [r for r in trace.requests if r.kind == "loglikelihood" and r.logprob is not None]
    if len(choices) > 1:
        best = max(choices, key=lambda r: r.logprob or 0.0)
        text = "".join(token.text for token in best.tokens if token.scored)
        nats = f"{best.logprob:.4f} nats, not normalized"
        yield Text(f"  most probable of {len(choices)}: {text!r} ({nats})")


def step_value(value: Any) -> str:
    """The value of a step on one line; a long one is shortened in the middle."""
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    if len(text) <= MAX_STEP_CHARS:
        return text
    return f"{text[: MAX_STEP_CHARS // 2]} [...] {text[-MAX_STEP_CHARS // 2 :]}"


def _sums(outcome: OutcomeTrace) -> str:
    pairs = list(zip(outcome.statistics, outcome.sums, strict=True))
    if len(pairs) > MAX_STATISTICS:
        pairs = [(name, value) for name, value in pairs if value]
    parts = f", over {outcome.parts} parts" if outcome.parts > 1 else ""
    return (", ".join(f"{name} {value:.6g}" for name, value in pairs) or "a text") + parts


def _scores(measure: MeasureExplanation) -> str:
    """The score of this example alone and of the run; the recorded outcome if it differs."""
    outcome = measure.outcome
    parts = []
    if outcome.value is not None:
        parts.append(f"alone {number(outcome.value, outcome.unit)} {outcome.unit}")
    if measure.score is not None:
        parts.append(f"the run {number(measure.score, outcome.unit)} {outcome.unit}")
    if measure.recorded is not None and measure.recorded != outcome.sums:
        parts.append(f"recorded as {', '.join(f'{value:.6g}' for value in measure.recorded)}")
    return "".join(f"; {part}" for part in parts)
