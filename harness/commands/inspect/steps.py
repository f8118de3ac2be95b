"""From responses to an outcome, step by step, by watching the benchmark's own functions at work.

Nothing of a benchmark is written down twice: its extractor runs as in any run, while the
interpreter's profiling hook notes which functions are called, with what, and what they give.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, NamedTuple

from harness.core import Example, Generated, Response, Scored, Word
from harness.metrics import Outcome
from harness.plugins import guard
from harness.task import Measure, Task

LONGEST = 100  # characters of a text that is shown
MOST = 6  # members of a sequence that are shown


class Step(NamedTuple):
    """One call of a function."""

    depth: int  # of calls that it stands in, from 0
    function: str
    given: tuple[str, ...]  # arguments, as text; those that say nothing of the item are left out
    gave: str


class _Call:
    """A call that has begun."""

    def __init__(self, depth: int, code: CodeType, arguments: Sequence[Any]) -> None:
        self.depth, self.code, self.arguments = depth, code, arguments
        # Written down at once: an argument may be changed before the call is over.
        texts = [shown(value) for value in arguments]
        names = [
            getattr(value, "__name__", None) if callable(value) else None for value in arguments
        ]
        told = any(text is not None for text in texts)
        found = (text or name for text, name in zip(texts, names, strict=True))
        self.given = tuple(filter(None, found)) if told else ()
        self.step: Step | None = None

    def end(self, value: Any) -> None:
        """Take the result; a value handed through is no step."""
        gave = shown(value)
        through = any(value is a for a in self.arguments) and not isinstance(value, str)
        if gave is not None and self.given and not through:
            self.step = Step(self.depth, self.code.co_name, self.given, gave)


def steps(
    task: Task, measure: Measure, example: Example, responses: Sequence[Response]
) -> tuple[Sequence[Outcome], tuple[Step, ...]]:
    """An example's outcomes under a measure, and the calls that led to them.

    Calls are those of named functions of this package and the benchmark's that take or give text
    or numbers; what happens inside of one is indented below it. The extractor's own call is none.
    """
    owners = {"harness", *(_package(f) for f in (measure.extract, task.ask, task.read))}
    calls: list[_Call] = []
    with _watched(owners, calls):
        found = measure.extract(example, responses)
    own = getattr(inspect.unwrap(measure.extract), "__code__", None)
    kept = [call.step for call in calls if call.step and call.code is not own]
    least = min((step.depth for step in kept), default=0)
    return found, tuple(step._replace(depth=step.depth - least) for step in kept)


@contextmanager
def _watched(owners: set[str], calls: list[_Call]) -> Iterator[None]:
    """Note calls of functions whose package is among the owners."""
    open_: dict[FrameType, _Call] = {}

    def watch(frame: FrameType, event: str, value: Any) -> None:
        if event == "return" and frame in open_:
            open_.pop(frame).end(value)
        elif event == "call" and _named(frame, owners):
            names = inspect.getargs(frame.f_code)
            given = [*names.args, *filter(None, [names.varargs])]
            arguments = [frame.f_locals[name] for name in given if name in frame.f_locals]
            open_[frame] = call = _Call(len(open_), frame.f_code, arguments)
            calls.append(call)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(before)


def _named(frame: FrameType, owners: set[str]) -> bool:
    """Whether a frame runs a plain function with a name, of one of the packages."""
    code = frame.f_code
    module = str(frame.f_globals.get("__name__", ""))
    ours = module.partition(".")[0] in owners and module != guard.__name__
    plain = not code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE)
    return ours and plain and not code.co_name.startswith("<")


def _package(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__module__", "")).partition(".")[0]


def shown(value: Any) -> str | None:
    """A value as text on one line; None where it says nothing that a person would want."""
    match value:
        case str():
            return _short(value)
        case bool() | int():
            return str(value)
        case float():
            return f"{value:.6g}"
        case Generated() | Word():
            return _short(value.text)
        case Scored():
            return f"<{value.logprob:.4f} nats>"
        case list() | tuple():
            return _sequence(value)
    return None


def _name(value: Any) -> str | None:
    """Name of a function that was given to another."""
    return getattr(value, "__name__", None) if callable(value) else None


def _short(text: str) -> str:
    half = LONGEST // 2
    cut = text if len(text) <= LONGEST else f"{text[:half]} [...] {text[-half:]}"
    return repr(cut)


def _sequence(values: Sequence[Any]) -> str | None:
    texts = [shown(value) for value in values[:MOST]]
    if not all(text is not None for text in texts):
        return None
    more = [f"... {len(values) - MOST} more"] if len(values) > MOST else []
    return f"[{', '.join([*filter(None, texts), *more])}]"


def described(task: Task, measure: Measure) -> str:
    """What a measure is, and what its extractor does, in the words of its own docstring.

    Extractors written inside of the benchmark's `measures` have no name of their own.
    """
    extract, measures = inspect.unwrap(measure.extract), inspect.unwrap(task.measures)
    name = _maker(extract)
    if name == _maker(getattr(measures, "func", measures)):
        return measure.help
    maker = getattr(extract, "__globals__", {}).get(name)
    text = inspect.getdoc(extract) or (inspect.getdoc(maker) if callable(maker) else None) or ""
    about = " ".join(text.partition("\n\n")[0].split())
    return f"{measure.help}; by {name}{f': {about}' if about else ''}"


def _maker(function: Callable[..., Any]) -> str:
    """Name of a function, or of the one that it was written in."""
    name = str(getattr(function, "__qualname__", type(function).__name__))
    return name.partition(".<locals>")[0]
