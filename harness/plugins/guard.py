"""A benchmark whose functions are watched: what one raises, or returns wrongly, is named.

Every command finds benchmarks through `registry`, which hands out guarded ones, so that a
fault of a plugin is one line everywhere: the function, the example, the error and its place.
"""

import functools
import json
import logging
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
from harness.errors import HarnessError, TaskError, in_one_line
from harness.metrics import Metric
from harness.metrics.hf_evaluate import ModuleMetric
from harness.prompt import Prompt
from harness.task import FewShot, Measure, Options, Task

log = logging.getLogger(__name__)


def guarded(task: Task) -> Task:
    """The benchmark with functions that raise `TaskError` for whatever is wrong with them."""
    calls = _Calls(task)
    return replace(
        task,
        source=calls.of_source("source()", task.source),
        read=calls.of_read(),
        ask=calls.of_ask(),
        measures=calls.of_measures(),
        prompt=calls.returning("prompt()", task.prompt, Prompt),
        notes=calls.of_notes(task.notes) if task.notes else None,
        few_shot=calls.of_few_shot(task.few_shot) if task.few_shot else None,
        follow=calls.of_follow(task.follow) if task.follow else None,
    )


class _Calls:
    """Guarded versions of a task's functions."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def call(self, what: str, where: str, function: Callable[..., Any], *given: Any) -> Any:
        """What a function gives; `what` and `where` name the call in the error.

        Raises:
            TaskError: it raises anything but a `HarnessError`.
        """
        try:
            return function(*given)
        except HarnessError:
            raise
        except (Exception, SystemExit) as error:
            log.debug("%s of task %r failed", what, self.task.name, exc_info=error)
            raise TaskError(
                f"task {self.task.name!r}: {what} failed{where}: {in_one_line(error)}"
            ) from error

    def refuse(self, what: str, where: str, got: object, expected: str) -> NoReturn:
        """Say that a function gave something wrong."""
        said = repr(got)
        said = said if len(said) <= 80 else f"{said[:80]}..."
        raise TaskError(f"task {self.task.name!r}: {what} gave {said}{where}, expected {expected}")

    def returning(
        self, what: str, function: Callable[..., Any], kind: type, expected: str = ""
    ) -> Callable[..., Any]:
        """A function that gives one value of a kind."""

        @functools.wraps(function)
        def guard(*given: Any) -> Any:
            found = self.call(what, "", function, *given)
            if not isinstance(found, kind):
                self.refuse(what, "", found, expected or f"a {kind.__name__}")
            return found

        return guard

    def of_source(self, what: str, function: Callable[[Options], Source]) -> Callable[..., Any]:
        checked = self.returning(what, function, Source)

        @functools.wraps(function)
        def guard(options: Options) -> Source:
            source: Source = checked(options)
            for name in ("files", "sha256"):
                if not _is_tuple(getattr(source, name), str):
                    value = getattr(source, name)
                    self.refuse(what, "", value, f"a tuple of texts as the {name} of the Source")
            if source.companion is None:
                return source
            other = self.returning("companion()", source.companion, str, "a file's name")
            return replace(source, companion=other)

        return guard

    def of_read(self) -> Callable[..., Any]:
        read = self.task.read

        def checked(rows: Sequence[Row], options: Options, where: str) -> list[Example]:
            found = self.call("read()", where, lambda: _listed(read(rows, options)))
            for example in found if isinstance(found, list) else [found]:
                if not _is_example(example):
                    expected = "examples: an id, fields and references, all ids and references text"
                    self.refuse("read()", where, example, expected)
            return list(found)

        @functools.wraps(read)
        def guard(rows: Sequence[Row], options: Options) -> list[Example]:
            try:
                return checked(rows, options, "")
            except TaskError:
                for row in rows if not self.task.stream else ():
                    checked([row], options, f" on row {row.number}")
                raise  # it fails on these rows together, or they belong together

        return guard

    def requests(self, what: str, example: Example, ask: Callable[[], Any]) -> list[Request]:
        """What `ask` gives, as a list of well-formed requests."""
        where = f" on example {example.id}"
        found = self.call(what, where, lambda: _listed(ask()))
        if not isinstance(found, list):
            self.refuse(what, where, found, "a list of requests")
        for request in found:
            if not is_request(request):
                self.refuse(what, where, request, "a request of harness.core with its own types")
        return list(found)

    def of_ask(self) -> Callable[..., Any]:
        ask = self.task.ask

        @functools.wraps(ask)
        def guard(example: Example, prompt: Prompt, options: Options) -> list[Request]:
            found = self.requests("ask()", example, lambda: ask(example, prompt, options))
            if not found:
                self.refuse("ask()", f" on example {example.id}", found, "at least one request")
            return found

        return guard

    def of_follow(self, follow: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(follow)
        def guard(
            example: Example, responses: Sequence[Response], prompt: Prompt, options: Options
        ) -> list[Request]:
            return self.requests(
                "follow()", example, lambda: follow(example, responses, prompt, options)
            )

        return guard

    def of_measures(self) -> Callable[..., Any]:
        measures = self.task.measures

        @functools.wraps(measures)
        def guard(options: Options) -> tuple[Measure, ...]:
            found = self.call("measures()", "", lambda: _listed(measures(options)))
            if not isinstance(found, list) or not found or not all(map(_is_measure, found)):
                expected = "a tuple of Measures, each with a metric and a tuple of statistics"
                self.refuse("measures()", "", found, expected)
            names = [measure.name for measure in found]
            if len(set(names)) < len(names):
                self.refuse("measures()", "", names, "names that differ")
            return tuple(
                replace(m, extract=self.of_extract(m), steps=self.of_steps(m) if m.steps else None)
                for m in found
            )

        return guard

    def of_extract(self, measure: Measure) -> Callable[..., Any]:
        what = f"extract() of measure {measure.name!r}"
        if isinstance(measure.metric, ModuleMetric):
            fits, expected = _is_texts, "pairs of a text and a tuple of references"
        else:
            count = len(measure.statistics)
            fits = functools.partial(_is_numbers, count=count)
            expected = f"tuples of {count} numbers: {', '.join(measure.statistics)}"

        @functools.wraps(measure.extract)
        def guard(example: Example, responses: Sequence[Response]) -> list[Any]:
            where = f" on example {example.id}"
            extract = measure.extract
            found = self.call(what, where, lambda: _listed(extract(example, responses)))
            if not isinstance(found, list) or not all(map(fits, found)):
                self.refuse(what, where, found, f"a list of {expected}")
            return found

        return guard

    def of_steps(self, measure: Measure) -> Callable[..., Any]:
        what = f"steps() of measure {measure.name!r}"
        steps = measure.steps
        assert steps is not None

        @functools.wraps(steps)
        def guard(example: Example, responses: Sequence[Response]) -> list[Any]:
            where = f" on example {example.id}"
            found = self.call(what, where, lambda: _listed(steps(example, responses)))
            if not isinstance(found, list) or not all(map(_is_step, found)):
                self.refuse(what, where, found, "pairs of a name and a value")
            return found

        return guard

    def of_notes(self, notes: Callable[..., Any]) -> Callable[..., Any]:
        checked = self.returning("notes()", notes, Mapping, "a mapping")

        @functools.wraps(notes)
        def guard(examples: Sequence[Example], options: Options) -> Mapping[str, Any]:
            found: Mapping[str, Any] = checked(examples, options)
            try:
                json.dumps(dict(found), allow_nan=False)
            except (TypeError, ValueError):
                self.refuse("notes()", "", dict(found), "texts or finite numbers by name")
            return found

        return guard

    def of_few_shot(self, few_shot: FewShot) -> FewShot:
        return replace(
            few_shot,
            source=self.of_source("few_shot.source()", few_shot.source),
            draw=self.returning("few_shot.draw()", few_shot.draw, Mapping, "a mapping of fields"),
        )


def _listed(found: Any) -> Any:
    """A sequence or generator as a list; a text, a mapping and what cannot be listed as it is."""
    listed = isinstance(found, Iterable) and not isinstance(found, str | bytes | Mapping)
    return list(found) if listed else found


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
    """Whether an outcome is so many numbers; those of numpy and torch are numbers too."""
    if not isinstance(outcome, tuple | list) or len(outcome) != count:
        return False
    return all(hasattr(type(number), "__float__") for number in outcome)


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
