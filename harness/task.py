"""The shape of a benchmark: a `Task` is a value made of functions, never a class to derive from.

    Source rows --read--> Examples --ask--> requests --(engine)--> responses --extract--> outcomes

A protocol is data: a task declares its options and named presets; `Task.protocol` resolves
them. Every function of a task receives the resolved options, a mapping of plain strings.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from harness.core import Encoding, Example, Fields, Pool, Request, Response, Row, Source
from harness.errors import UsageError
from harness.metrics import Metric, Outcome
from harness.metrics.hf_evaluate import ModuleMetric
from harness.prompt import Prompt

Options = Mapping[str, str]
FEW_NAMES = 8  # that an error message lists in full
DIGITS = 9  # of a whole number in an option; more than any count of tokens has


@dataclass(frozen=True, slots=True)
class Option:
    """One choice of a protocol."""

    name: str
    default: str
    choices: tuple[str, ...]  # allowed values; "<n>" stands for a positive whole number
    help: str

    def check(self, value: str) -> str:
        """`value` if it is allowed.

        Raises:
            UsageError: it is not; says what is.
        """
        number = value.isascii() and value.isdigit() and len(value) <= DIGITS and int(value) > 0
        if value in self.choices and value != "<n>":
            return value
        if number and "<n>" in self.choices:
            return str(int(value))
        allowed = ", ".join(c.replace("<n>", "a positive whole number") for c in self.choices)
        raise UsageError(f"option {self.name}={value!r} is not allowed; choose from: {allowed}")


@dataclass(frozen=True, slots=True)
class Protocol:
    """A preset's name and all options after every override."""

    name: str
    options: Options
    overrides: Options = field(default_factory=dict)  # what --set changed

    @property
    def label(self) -> str:
        """`paper`, or `paper+stride=32` where an option was set by hand."""
        return "+".join([self.name, *(f"{k}={v}" for k, v in sorted(self.overrides.items()))])


@dataclass(frozen=True, slots=True)
class Measure:
    """An extractor and a metric: one number of a task."""

    name: str
    metric: Metric | ModuleMetric
    extract: Callable[[Example, Sequence[Response]], Sequence[Outcome]]
    """Responses of one example -> its outcomes, in order (several where it has parts, none where
    the measure does not concern it)."""
    statistics: tuple[str, ...]  # names of an outcome's numbers, for --dump
    help: str
    column: str | None = None  # the column of the paper's tables that this measure fills
    blocks: int | None = None
    """Resample this many equal blocks of consecutive outcomes instead of single ones: lines of
    one text are not independent."""
    optional: bool = False  # left out where no example has outcomes
    baseline: str | None = None  # the model-free system that it scores, if it is not the model


@dataclass(frozen=True, slots=True)
class FewShot:
    """Example pairs that a prompt opens with."""

    source: Callable[[Options], Source]
    """Where they are drawn from; the built-in rows where a data folder has no such file."""
    draw: Callable[[Pool, Options], Fields]
    """The pool -> fields that every example gets, such as the pairs as text; of an empty pool the
    same fields without pairs, for whoever looks at the examples alone."""


WHOLE_CONTEXT = "context"
"""The value of an option `stride` that means disjoint windows, however long the context is."""
NO_PROMPT = Prompt("", "")
"""The prompt of tasks whose text goes to the model as it is."""


def encoding(options: Options) -> Encoding:
    """The engine's part of the options: `bos`, `stride` and `windows` where they exist."""
    fallback = Encoding()
    stride = options.get("stride", WHOLE_CONTEXT)
    return Encoding(
        bos=options.get("bos", fallback.bos),  # type: ignore[arg-type] # checked by Option
        stride=None if stride == WHOLE_CONTEXT else int(stride),
        windows=options.get("windows", fallback.windows),  # type: ignore[arg-type]
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A benchmark."""

    name: str
    version: int  # raised by anything that can move a number
    title: str
    description: str  # what is measured and what the paper leaves open, a few sentences
    source: Callable[[Options], Source]
    read: Callable[[Sequence[Row], Options], Iterable[Example]]
    """Consecutive rows -> examples. Gets all rows in file order, or the rows of `--limit`."""
    ask: Callable[[Example, Prompt, Options], Sequence[Request]]
    measures: Callable[[Options], tuple[Measure, ...]]
    options: tuple[Option, ...] = ()
    presets: Mapping[str, Options] = field(default_factory=lambda: {"paper": {}})
    """Name -> the options that differ from the defaults; `paper` is the defaults."""
    prompt: Callable[[Options], Prompt] = lambda options: NO_PROMPT
    stream: bool = False
    """Rows follow each other in one text: `--limit` then takes blocks of neighbouring rows and
    `read` is called once a block."""
    notes: Callable[[Sequence[Example], Options], Mapping[str, float | str]] | None = None
    """Facts about the examples for the record, such as a detokeniser's round-trip rate."""
    few_shot: FewShot | None = None
    follow: Callable[[Example, Sequence[Response], Prompt, Options], Sequence[Request]] | None = (
        None
    )
    """Requests that depend on the responses so far; asked until there are none."""

    def faults(self) -> list[str]:
        """What contradicts itself in the declaration, a line each; plugins are refused for it."""
        declared = {option.name: option for option in self.options}
        found = []
        if len(declared) < len(self.options):
            found.append("two options have the same name")
        if "paper" not in self.presets:
            found.append("there is no preset 'paper', the default")
        values = [(f"the default of {o.name}", o.name, o.default) for o in self.options]
        for preset, changes in self.presets.items():
            values += [(f"preset {preset!r}", name, value) for name, value in changes.items()]
        for where, name, value in values:
            if name not in declared:
                found.append(f"{where} sets {name}, which is no option")
                continue
            try:
                declared[name].check(value)
            except UsageError as error:
                found.append(f"{where}: {error}")
        return found

    def protocol(self, preset: str = "paper", overrides: Options | None = None) -> Protocol:
        """Defaults, then the preset, then the overrides, all checked.

        Raises:
            UsageError: unknown preset, option or value; names what is known.
        """
        if preset not in self.presets:
            known = ", ".join(self.presets)
            raise UsageError(f"{self.name} has no protocol {preset!r}; choose from: {known}")
        declared = {option.name: option for option in self.options}
        resolved = {name: option.default for name, option in declared.items()}
        checked: dict[str, str] = {}
        for name, value in (overrides or {}).items():
            if name not in declared:
                raise UsageError(unknown("option", name, declared, f"{self.name} has no"))
            checked[name] = declared[name].check(value)
        resolved.update({k: declared[k].check(v) for k, v in self.presets[preset].items()})
        changed = {k: v for k, v in checked.items() if v != resolved[k]}
        return Protocol(preset, {**resolved, **checked}, changed)


def unknown(
    kind: str, name: str, known: Iterable[str], lead: str = "there is no", see: str = ""
) -> str:
    """One line about an unknown name: the nearest known ones, and all of them if they are few.

    Args:
        kind: of thing, such as `option`.
        name: the unknown one.
        known: the names that exist.
        lead: words in front.
        see: the command that lists the names.
    """
    names = list(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if len(names) <= FEW_NAMES:
        return f"{lead} {kind} {name!r}{hint} (known: {', '.join(names) or 'none'})"
    return f"{lead} {kind} {name!r}{hint}{f' (see {see})' if see else ''}"


def each(read_row: Callable[[Row, Options], Example]) -> Callable[..., list[Example]]:
    """`Task.read` for benchmarks where a row is an example."""

    def read(rows: Sequence[Row], options: Options) -> list[Example]:
        return [read_row(row, options) for row in rows]

    return read
