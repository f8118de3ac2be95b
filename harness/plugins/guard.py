"""Check what the functions of a task raise and return, and refuse what is wrong.

Every command gets its tasks from `registry`, which hands out guarded ones. A mistake in a plugin is
therefore one line everywhere: the function, the example, the error and its place.
"""

import functools
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from harness.core import (
    Example,
    Generate,
    Loglikelihood,
    NextWord,
    Request,
    Response,
    RollingLoglikelihood,
    Row,
    Source,
)
from harness.errors import HarnessError, TaskError, clipped_repr, in_one_line
from harness.metrics import Metric
from harness.metrics.hf_evaluate import ModuleMetric
from harness.prompt import Prompt
from harness.task import FewShot, Measure, Options, Task

log = logging.getLogger(__name__)


def guarded(task: Task) -> Task:
    """The task with functions that raise `TaskError` when they fail or return something wrong."""
    guard = _Guard(task)
    return replace(
        task,
        source=guard.source("source()", task.source),
        read=guard.read(),
        ask=guard.ask(),
        measures=guard.measures(),
        prompt=guard.value("prompt()", task.prompt, Prompt, "a Prompt"),
        notes=guard.notes(task.notes) if task.notes else None,
        few_shot=guard.few_shot(task.few_shot) if task.few_shot else None,
        follow=guard.follow(task.follow) if task.follow else None,
    )


class _Guard:
    """Makes guarded versions of a task's functions."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def call(self, what: str, where: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function; `what` and `where` name the call in errors.

        Raises:
            TaskError: the function raises anything but a `HarnessError`.
        """
        try:
            return function(*args)
        except HarnessError:
            raise
        except (Exception, SystemExit) as error:
            log.debug("%s of task %r failed", what, self.task.name, exc_info=error)
            raise TaskError(
                f"task {self.task.name!r}: {what} failed{where}: {in_one_line(error)}"
            ) from error

    def call_list(
        self, what: str, where: str, function: Callable[[], Any], expected: str
    ) -> list[Any]:
        """Call a function that returns a sequence or an iterator; a generator runs to its end."""

        def listed() -> Any:
            result = function()
            is_list = isinstance(result, Iterable) and not isinstance(result, str | bytes | Mapping)
            return list(result) if is_list else result

        result = self.call(what, where, listed)
        if not isinstance(result, list):
            self.refuse(what, where, result, expected)
        return result

    def refuse(self, what: str, where: str, value: object, expected: str) -> NoReturn:
        raise TaskError(
            f"task {self.task.name!r}: {what} gave {clipped_repr(value)}{where}, "
            f"expected {expected}"
        )

    def value(
        self, what: str, function: Callable[..., Any], kind: type, expected: str
    ) -> Callable[..., Any]:
        """A function that returns one value of `kind`."""

        @functools.wraps(function)
        def guard(*args: Any) -> Any:
            result = self.call(what, "", function, *args)
            if not isinstance(result, kind):
                self.refuse(what, "", result, expected)
            return result

        return guard

    def source(self, what: str, function: Callable[[Options], Source]) -> Callable[..., Any]:
        checked = self.value(what, function, Source, "a Source")

        @functools.wraps(function)
        def guard(options: Options) -> Source:
            source: Source = checked(options)
            for name in ("files", "sha256"):
                value = getattr(source, name)
                if not _is_tuple(value, str):
                    self.refuse(what, "", value, f"a tuple of texts as the {name} of the Source")
            if source.companion is None:
                return source
            companion = self.value("companion()", source.companion, str, "a file name")
            return replace(source, companion=companion)

        return guard

    def read(self) -> Callable[..., Any]:
        read = self.task.read
        expected = "examples: an id, fields and references, all ids and references text"

        def checked(rows: Sequence[Row], options: Options, where: str) -> list[Example]:
            examples = self.call_list("read()", where, lambda: read(rows, options), expected)
            for example in examples:
                if not _is_example(example):
                    self.refuse("read()", where, example, expected)
            return examples

        @functools.wraps(read)
        def guard(rows: Sequence[Row], options: Options) -> list[Example]:
            try:
                return checked(rows, options, "")
            except TaskError:
                for row in rows if not self.task.stream else ():
                    checked([row], options, f" on row {row.number}")
                raise  # only these rows together fail, or they are one text

        return guard

    def requests(self, what: str, example: Example, ask: Callable[[], Any]) -> list[Request]:
        """The well-formed requests that `ask` returns."""
        where = f" on example {example.id}"
        requests = self.call_list(what, where, ask, "a list of requests")
        for request in requests:
            if not is_request(request):
                self.refuse(what, where, request, "a request of harness.core with its own types")
        return requests

    def ask(self) -> Callable[..., Any]:
        ask = self.task.ask

        @functools.wraps(ask)
        def guard(example: Example, prompt: Prompt, options: Options) -> list[Request]:
            requests = self.requests("ask()", example, lambda: ask(example, prompt, options))
            if not requests:
                self.refuse("ask()", f" on example {example.id}", requests, "at least one request")
            return requests

        return guard

    def follow(self, follow: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(follow)
        def guard(example: Example, *args: Any) -> list[Request]:
            return self.requests("follow()", example, lambda: follow(example, *args))

        return guard

    def measures(self) -> Callable[..., Any]:
        measures = self.task.measures
        expected = "a tuple of Measures, each with a metric and a tuple of statistics"

        @functools.wraps(measures)
        def guard(options: Options) -> tuple[Measure, ...]:
            result = self.call_list("measures()", "", lambda: measures(options), expected)
            if not result or not all(map(_is_measure, result)):
                self.refuse("measures()", "", result, expected)
            names = [measure.name for measure in result]
            if len(set(names)) < len(names):
                self.refuse("measures()", "", names, "names that differ")
            return tuple(map(self.measure, result))

        return guard

    def measure(self, measure: Measure) -> Measure:
        if isinstance(measure.metric, ModuleMetric):
            is_outcome, expected = _is_texts, "pairs of a text and a tuple of references"
        else:
            count = len(measure.statistics)
            is_outcome = functools.partial(_is_numbers, count=count)
            expected = f"tuples of {count} finite numbers: {', '.join(measure.statistics)}"

        def of_responses(
            name: str, function: Callable[..., Any], is_member: Callable[[Any], bool], expected: str
        ) -> Callable[..., Any]:
            what = f"{name}() of measure {measure.name!r}"

            @functools.wraps(function)
            def guard(example: Example, responses: Sequence[Response]) -> list[Any]:
                where = f" on example {example.id}"
                result = self.call_list(
                    what, where, lambda: function(example, responses), f"a list of {expected}"
                )
                if not all(map(is_member, result)):
                    self.refuse(what, where, result, f"a list of {expected}")
                return result

            return guard

        steps = measure.steps and of_responses(
            "steps", measure.steps, _is_step, "pairs of a name and a value"
        )
        extract = of_responses("extract", measure.extract, is_outcome, expected)
        return replace(measure, extract=extract, steps=steps)

    def notes(self, notes: Callable[..., Any]) -> Callable[..., Any]:
        checked = self.value("notes()", notes, Mapping, "a mapping")

        @functools.wraps(notes)
        def guard(examples: Sequence[Example], options: Options) -> Mapping[str, Any]:
            result: Mapping[str, Any] = checked(examples, options)
            try:
                json.dumps(dict(result), allow_nan=False)
            except (TypeError, ValueError):
                self.refuse("notes()", "", dict(result), "texts or finite numbers by name")
            return result

        return guard

    def few_shot(self, few_shot: FewShot) -> FewShot:
        draw = self.value("few_shot.draw()", few_shot.draw, Mapping, "a mapping of fields")
        return FewShot(self.source("few_shot.source()", few_shot.source), draw)


def _is_tuple(value: object, kind: type) -> bool:
    return isinstance(value, tuple) and all(isinstance(part, kind) for part in value)


def _is_example(value: object) -> bool:
    return (
        isinstance(value, Example)
        and isinstance(value.id, str)
        and isinstance(value.fields, Mapping)
        and _is_tuple(value.references, str)
    )


def _is_measure(value: object) -> bool:
    return (
        isinstance(value, Measure)
        and isinstance(value.metric, Metric | ModuleMetric)
        and _is_tuple(value.statistics, str)
    )


def _is_step(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)


def _is_numbers(outcome: object, *, count: int) -> bool:
    """Whether an outcome is `count` finite numbers; those of numpy and torch are numbers too."""
    if not isinstance(outcome, tuple | list) or len(outcome) != count:
        return False
    return all(hasattr(type(n), "__float__") and math.isfinite(n) for n in outcome)


def _is_texts(outcome: object) -> bool:
    match outcome:
        case (str(), [*references]):
            return all(isinstance(reference, str) for reference in references)
    return False


def is_request(value: object) -> bool:
    """Whether a value is a request whose fields have their types."""
    match value:
        case Loglikelihood(str(), str()):
            return True
        case NextWord(str(), frozenset(), frozenset() | None, rule):
            return rule in ("word", "first-token", "every-token")
        case RollingLoglikelihood(pieces):
            return _is_tuple(pieces, str) or _is_tuple(pieces, bytes)
        case Generate(parts, int(count), stop, int(top_k), seed, overflow):
            tuples = _is_tuple(parts, str) and _is_tuple(stop, str) and _is_tuple(seed, int)
            return tuples and count > 0 and top_k > 0 and overflow in ("left", "turns", "right")
    return False
