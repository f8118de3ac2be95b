"""Commands made from functions: parameters become arguments and options.

A parameter without a default is an argument; `argument(...)` gives it details. `option(...)`
declares an option, in a signature as in the groups of `harness.commands.options`. `part(...)`
stands for options of a group, and a mapping of such defaults for an object made of groups.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields
from functools import wraps
from inspect import signature
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from harness.cli import completion
from harness.cli.types import Duration, Number
from harness.commands.declare import OptionGroup, Seconds, option
from harness.errors import UsageError

JSON: Any = option(False, "print one JSON object, nothing else", flag="json")
ALL_SCORES: Any = option(False, "all scores, not only the paper's columns", flag="all")
COMPLETIONS = {
    "model": completion.models,
    "api_key_env": completion.variables,
    "protocol": completion.protocols,
    "set": completion.settings,
    "vary": completion.keys,
}
_TYPES: dict[Any, click.ParamType] = {  # type: ignore[type-arg]  # generic since click 8.4
    Path: click.Path(path_type=Path),
    Seconds: Duration("10m"),
}
_CLICK_DETAILS = ("metavar", "envvar")


class Option(click.Option):
    """An option that `--help` shows under a heading."""

    def __init__(self, words: list[str], *, heading: str, **details: Any) -> None:
        super().__init__(words, show_envvar=True, **details)
        self.heading = heading

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Read the environment, unless a run file has the option."""
        in_file = self.name in (ctx.default_map or {})
        return None if in_file else super().resolve_envvar_value(ctx)


class Command(click.Command):
    """A command whose help shows options under the headings of their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per heading, in the order of the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            line = parameter.get_help_record(ctx)
            if line is not None and isinstance(parameter, click.Option):
                heading = getattr(parameter, "heading", "Options")
                sections.setdefault(heading, []).append(line)
        for heading, lines in sections.items():
            with formatter.section(heading):
                formatter.write_dl(lines)


class Part(NamedTuple):
    """Some options of a group; the others keep their defaults."""

    group: type[OptionGroup]
    fields: tuple[Field[Any], ...]
    optional: bool = False  # whether required options may be left out
    heading: str = ""  # in the help; default: the first word of the group's class


class _Argument(NamedTuple):
    details: Mapping[str, Any]


def part(group: type[OptionGroup], *names: str, **details: Any) -> Any:
    """The named options of a group, or all of them, with details as in `Part`."""
    chosen = (field for field in _fields(group) if not names or field.name in names)
    return Part(group, tuple(chosen), **details)


def without(group: type[OptionGroup], *names: str) -> Any:
    """All options of a group but the named ones."""
    return Part(group, tuple(field for field in _fields(group) if field.name not in names))


def argument(**details: Any) -> Any:
    """An argument, with details as in `click.argument`."""
    return _Argument(details)


def command(**details: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a command of a function, with details as in `click.command`."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        hints = get_type_hints(function)
        defaults = {name: p.default for name, p in signature(function).parameters.items()}

        @wraps(function)
        def run(**values: Any) -> Any:
            _check_sources(values)
            return function(**{k: _value(k, hints[k], v, values) for k, v in defaults.items()})

        params = [p for k, v in defaults.items() for p in _parameters(k, hints[k], v)]
        made: click.Command = click.command(**{"cls": Command, "params": params, **details})(run)
        return made

    return decorate


def given(name: str) -> bool:
    """Whether the command line itself has an option; defaults and the environment do not count."""
    return _source(name) is ParameterSource.COMMANDLINE


def _fields(group: type[OptionGroup]) -> tuple[Field[Any], ...]:
    return fields(group)  # type: ignore[arg-type]  # every group is a dataclass


def _flag(declared: Field[Any]) -> str:
    """The name of a group's option, as a parameter."""
    name: str = declared.metadata.get("flag", declared.name)
    return name.replace("-", "_")


def _parameters(name: str, hint: Any, default: Any) -> Iterator[click.Parameter]:
    """The arguments and options that a parameter of a function stands for."""
    if isinstance(default, Part):
        hints = get_type_hints(default.group)
        heading = default.heading or default.group.__name__.removesuffix("Options")
        for declared in default.fields:
            name, hint = _flag(declared), hints[declared.name]
            yield _option(name, hint, declared, heading, default.optional)
    elif isinstance(default, Mapping):
        hints = get_type_hints(hint)
        for key, value in default.items():
            yield from _parameters(key, hints[key], value)
    elif isinstance(default, Field):
        yield _option(name, hint, default)
    else:
        details = default.details if isinstance(default, _Argument) else {}
        kind, several = _kind(hint)
        plain = {"type": _TYPES.get(kind, click.STRING), "nargs": -1 if several else 1}
        yield click.Argument([name], **{**plain, "required": True, **details})


def _value(name: str, hint: Any, default: Any, values: Mapping[str, Any]) -> Any:
    """What a function is given for a parameter."""
    if isinstance(default, Part):
        group = default.group(**{f.name: values[_flag(f)] for f in default.fields})
        group.check()
        return group
    if isinstance(default, Mapping):
        hints = get_type_hints(hint)
        return hint(**{k: _value(k, hints[k], v, values) for k, v in default.items()})
    return values[name]


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of an annotation's values, without None, and whether there are several."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if get_origin(annotation) is Literal or not kinds:
        return annotation, False
    return kinds[0], get_origin(annotation) is tuple


def _option(
    name: str, hint: Any, declared: Field[Any], heading: str = "Options", optional: bool = False
) -> Option:
    """The option that a field declares."""
    details: dict[str, Any] = {"heading": heading}
    flag: str = declared.metadata.get("flag", name).replace("_", "-")
    words = flag.split() if flag.startswith("-") else [f"--{flag}"]
    kind, several = _kind(hint)
    own = declared.metadata
    if "type" in own:
        details["type"] = own["type"]
    elif get_origin(kind) is Literal:
        details["type"] = click.Choice(get_args(kind))
    elif kind is int:
        details["type"] = click.IntRange(own.get("min"), own.get("max"))
    elif kind is float:
        details["type"] = Number(own.get("min"), own.get("max"))
    elif kind is bool:
        details["is_flag"] = True
    else:
        details["type"] = _TYPES.get(kind, click.STRING)
    if own.get("required") and not optional:
        details["required"] = True
    else:
        details["default"] = declared.default
    return Option(
        [*words, name],
        help=own["help"],
        multiple=several,
        shell_complete=COMPLETIONS.get(name),
        show_default=own.get(
            "show_default", kind is not bool and declared.default not in (None, ())
        ),
        **{key: own[key] for key in _CLICK_DETAILS if key in own},
        **details,
    )


def _source(name: str) -> ParameterSource | None:
    return click.get_current_context().get_parameter_source(name)


def _check_sources(values: Mapping[str, Any]) -> None:
    """Refuse a folder of data together with the built-in rows; HARNESS_DATA may be set."""
    both = values.get("sample") and values.get("data_dir")
    if both and _source("data_dir") is _source("sample"):
        raise UsageError("--data-dir and --sample name different rows; give one of them")
