"""A benchmark is a `Task`: a value made of functions, not a class to derive from.

    Source rows --read--> examples --ask--> requests --(engine)--> responses --extract--> outcomes

A task declares its options and its protocols, which are named sets of option values.
`Task.protocol` resolves one of them. Every function of a task receives the resolved options, a
mapping from names to strings.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from harness import moved
from harness.core import Encoding, Example, Fields, Pool, Request, Response, Row, Source
from harness.errors import UsageError
from harness.metrics import Metric, Outcome
from harness.metrics.hf_evaluate import ModuleMetric
from harness.prompt import Prompt

Options = Mapping[str, str]
Step = tuple[str, Any]
"""A name and a value: a text, a number, or a sequence of them."""
MAX_OPTION_DIGITS = 9  # of a whole number; more than any count of tokens needs
FEW_NAMES = 8  # that an error message lists in full


@dataclass(frozen=True, slots=True)
class Option:
    """One choice that a protocol makes."""

    name: str
    default: str
    choices: tuple[str, ...]  # allowed values; "<n>" stands for a positive whole number
    help: str

    def check(self, value: str) -> str:
        """Return `value` in its canonical form.

        Raises:
            UsageError: the value is not allowed.
        """
        if value in self.choices and value != "<n>":
            return value
        is_number = value.isascii() and value.isdigit() and len(value) <= MAX_OPTION_DIGITS
        if "<n>" in self.choices and is_number and int(value) > 0:
            return str(int(value))
        allowed = ", ".join(c.replace("<n>", "a positive whole number") for c in self.choices)
        raise UsageError(f"option {self.name}={value!r} is not allowed; choose from: {allowed}")


@dataclass(frozen=True, slots=True)
class Protocol:
    """The name of a protocol and the values of all options, overrides included."""

    name: str
    options: Options
    overrides: Options = field(default_factory=dict)  # what --set changed

    @property
    def label(self) -> str:
        """`paper`, or `paper+stride=32` where an option was set by hand."""
        return "+".join([self.name, *(f"{k}={v}" for k, v in sorted(self.overrides.items()))])


@dataclass(frozen=True, slots=True)
class Measure:
    """One number that a task reports: an extractor and the metric that sums its outcomes."""

    name: str
    metric: Metric | ModuleMetric
    extract: Callable[[Example, Sequence[Response]], Sequence[Outcome]]
    """The responses of one example -> its outcomes: usually one, several if the example has parts,
    none if the measure does not apply to it."""
    statistics: tuple[str, ...]  # names of the numbers in an outcome
    help: str
    column: str | None = None  # the column of the paper's tables that this measure fills
    blocks: int | None = None
    """Number of blocks of consecutive outcomes to resample instead of single outcomes, because
    lines of one text are not independent. If there is one outcome for each piece of a text, it
    depends on that piece alone, so that a text may be scored in parts."""
    optional: bool = False  # omitted from the scores if no example has an outcome
    baseline: str | None = None  # the model-free system that is scored, if it is not the model
    steps: Callable[[Example, Sequence[Response]], Iterable[Step]] | None = None
    """The steps from the responses to the outcome, in order; shown by `harness explain`."""


@dataclass(frozen=True, slots=True)
class FewShot:
    """Example pairs at the beginning of a prompt."""

    source: Callable[[Options], Source]
    """The rows to draw from; the built-in sample is used if the data folder has no such file."""
    draw: Callable[[Pool, Options], Fields]
    """The pool -> fields that are added to every example. An empty pool gives the same fields
    without pairs."""


WHOLE_CONTEXT = "context"
"""The value of the option `stride` for disjoint windows, whatever the context length."""
NO_PROMPT = Prompt("", "")
"""The prompt of tasks whose text goes to the model unchanged."""


def encoding(options: Options) -> Encoding:
    """The options that concern the engine: `bos`, `stride` and `windows`, if the task has them."""
    default = Encoding()
    stride = options.get("stride", WHOLE_CONTEXT)
    return Encoding(
        bos=options.get("bos", default.bos),  # type: ignore[arg-type] # checked by Option
        stride=None if stride == WHOLE_CONTEXT else int(stride),
        windows=options.get("windows", default.windows),  # type: ignore[arg-type]
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A benchmark."""

    name: str
    version: int  # raised by every change that can move a number
    title: str
    description: str  # what is measured and what the paper leaves open, in a few sentences
    source: Callable[[Options], Source]
    read: Callable[[Sequence[Row], Options], Iterable[Example]]
    """Consecutive rows -> examples. Gets all rows in file order, or those `--limit` took."""
    ask: Callable[[Example, Prompt, Options], Sequence[Request]]
    measures: Callable[[Options], tuple[Measure, ...]]
    options: tuple[Option, ...] = ()
    protocols: Mapping[str, Options] = field(default_factory=lambda: {"paper": {}})
    """Name -> the options that differ from their defaults. `paper` is required and the default."""
    prompt: Callable[[Options], Prompt] = lambda options: NO_PROMPT
    stream: bool = False
    """Whether the rows are consecutive lines of one text. `--limit` then takes blocks of
    neighbouring rows, and `read` is called once per block."""
    notes: Callable[[Sequence[Example], Options], Mapping[str, float | str]] | None = None
    """Facts about the examples for the record, such as how many lines were detokenised."""
    few_shot: FewShot | None = None
    follow: Callable[[Example, Sequence[Response], Prompt, Options], Sequence[Request]] | None = (
        None
    )
    """Requests that depend on the responses so far; called until it returns none."""

    @property
    def presets(self) -> Mapping[str, Options]:
        """The old name of `protocols`; deprecated."""
        warnings.warn("Task.presets is now Task.protocols", DeprecationWarning, stacklevel=2)
        return self.protocols

    def problems(self) -> list[str]:
        """Contradictions in the declaration, one line each; a task that has any is refused."""
        declared = {option.name: option for option in self.options}
        problems = []
        if len(declared) < len(self.options):
            problems.append("two options have the same name")
        if "paper" not in self.protocols:
            problems.append("there is no protocol 'paper', the default")
        settings = [(f"the default of {o.name}", o.name, o.default) for o in self.options]
        for protocol, values in self.protocols.items():
            settings += [(f"protocol {protocol!r}", name, value) for name, value in values.items()]
        for where, name, value in settings:
            if name not in declared:
                problems.append(f"{where} sets {name}, which is not an option")
                continue
            try:
                declared[name].check(value)
            except UsageError as error:
                problems.append(f"{where}: {error}")
        return problems

    def protocol(self, name: str = "paper", overrides: Options | None = None) -> Protocol:
        """Resolve a protocol: the defaults, then its own values, then the overrides.

        Raises:
            UsageError: there is no such protocol, option or value.
        """
        lead, see = f"{self.name} has no", f"`harness tasks {self.name}`"
        if name not in self.protocols:
            raise UsageError(unknown("protocol", name, self.protocols, lead, see))
        declared = {option.name: option for option in self.options}
        checked: dict[str, str] = {}
        for option, value in (overrides or {}).items():
            if option not in declared:
                raise UsageError(unknown("option", option, declared, lead, see))
            checked[option] = declared[option].check(value)
        options = {option.name: option.default for option in self.options}
        options.update({k: declared[k].check(v) for k, v in self.protocols[name].items()})
        changed = {k: v for k, v in checked.items() if v != options[k]}
        return Protocol(name, {**options, **checked}, changed)


def unknown(
    kind: str, name: str, names: Iterable[str], lead: str = "there is no", see: str = ""
) -> str:
    """One line about an unknown name: similar names, and all names if they are few.

    Args:
        kind: what it would name, such as `option`.
        name: the unknown name.
        names: the names that exist.
        lead: the first words of the line.
        see: the command that lists the names.
    """
    names = list(names)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if len(names) <= FEW_NAMES:
        return f"{lead} {kind} {name!r}{hint} (known: {', '.join(names) or 'none'})"
    return f"{lead} {kind} {name!r}{hint}{f' (see {see})' if see else ''}"


def per_row(read_row: Callable[[Row, Options], Example]) -> Callable[..., list[Example]]:
    """`Task.read` for tasks in which every row is one example."""

    def read(rows: Sequence[Row], options: Options) -> list[Example]:
        return [read_row(row, options) for row in rows]

    return read


if not TYPE_CHECKING:  # old names
    Task.__init__ = moved.argument(Task.__init__, "presets", "protocols")
    __getattr__ = moved.attributes(__name__)
