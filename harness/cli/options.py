"""Options of the command line, made from the groups in `harness.commands.options`."""

from collections.abc import Callable
from dataclasses import Field, fields
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from harness.cli import completion
from harness.cli.types import Duration
from harness.commands.options import OptionGroup, Seconds
from harness.errors import UsageError

PATH = click.Path(path_type=Path)
JSON = click.option("--json", "as_json", is_flag=True, help="print one JSON object, nothing else")
COMPLETIONS = {
    "model": completion.models,
    "protocol": completion.presets,
    "set": completion.settings,
    "vary": completion.keys,
}
_TYPES: dict[Any, click.ParamType] = {  # type: ignore[type-arg]  # generic since click 8.4
    Path: PATH,
    Seconds: Duration("10m"),
    str: click.STRING,
}


class Option(click.Option):
    """An option that `--help` shows under a heading."""

    def __init__(self, *words: Any, heading: str = "Options", **details: Any) -> None:
        super().__init__(*words, **details)
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
                heading = parameter.heading if isinstance(parameter, Option) else "Options"
                sections.setdefault(heading, []).append(line)
        for heading, lines in sections.items():
            with formatter.section(heading):
                formatter.write_dl(lines)


class Part(NamedTuple):
    """Some options of a group; the others keep their defaults."""

    group: type[OptionGroup]
    fields: tuple[str, ...]
    optional: bool = False  # whether required options may be left out


def part(group: type[OptionGroup], *names: str, optional: bool = False) -> Part:
    """The named options of a group."""
    return Part(group, names, optional)


def without(group: type[OptionGroup], *names: str) -> Part:
    """All options of a group but the named ones."""
    return Part(group, tuple(f.name for f in _fields(group) if f.name not in names))


Function = Callable[..., Any]


def takes(**groups: "type[OptionGroup] | Part") -> Callable[[Function], Function]:
    """Give a command the options of groups; it receives one object per group, by its keyword."""
    parts = {k: v if isinstance(v, Part) else without(v) for k, v in groups.items()}

    def decorate(function: Function) -> Function:
        @wraps(function)
        def with_groups(*words: Any, **values: Any) -> Any:
            _check_sources(values)
            made = {name: _group(chosen, values) for name, chosen in parts.items()}
            return function(*words, **values, **made)

        command: Function = with_groups
        for chosen in reversed(parts.values()):
            for declared in reversed(_fields(chosen.group)):
                if declared.name in chosen.fields:
                    command = _option(chosen, declared)(command)
        return command

    return decorate


def _fields(group: type[OptionGroup]) -> tuple[Field[Any], ...]:
    return fields(group)  # type: ignore[arg-type]  # every group is a dataclass


def flag(declared: Field[Any]) -> str:
    """The name of a field's option, without dashes in front."""
    name: str = declared.metadata.get("flag", declared.name)
    return name.replace("_", "-")


def _group(chosen: Part, values: dict[str, Any]) -> OptionGroup:
    """Take a group's options out of `values`."""
    own = {f.name: flag(f).replace("-", "_") for f in _fields(chosen.group)}
    group = chosen.group(**{name: values.pop(own[name]) for name in chosen.fields})
    group.check()
    return group


def _option(chosen: Part, declared: Field[Any]) -> Callable[[Function], Function]:
    """The option that a field declares."""
    name, details = flag(declared), declared.metadata
    annotation = get_type_hints(chosen.group)[declared.name]
    [kind, *_] = [t for t in get_args(annotation) if t is not NoneType] or [annotation]
    kind_of_option: dict[str, Any]
    if get_origin(annotation) is Literal:
        kind_of_option = {"type": click.Choice(get_args(annotation))}
    elif get_origin(annotation) is tuple:
        kind_of_option = {"type": click.STRING, "multiple": True}
    elif kind is bool:
        kind_of_option = {"is_flag": True}
    elif kind is int:
        kind_of_option = {"type": click.IntRange(details.get("min"), details.get("max"))}
    else:
        kind_of_option = {"type": _TYPES[kind]}
    return click.option(
        f"--{name}",
        cls=Option,
        heading=chosen.group.__name__.removesuffix("Options"),
        help=details["help"],
        default=declared.default,
        show_default=declared.default not in (None, ()) and kind is not bool,
        required=details.get("required", False) and not chosen.optional,
        metavar=details.get("metavar"),
        envvar=details.get("envvar"),
        show_envvar=True,
        shell_complete=COMPLETIONS.get(name),
        **kind_of_option,
    )


def given(name: str) -> bool:
    """Whether the command line itself has an option; defaults and the environment do not count."""
    return _source(name) is ParameterSource.COMMANDLINE


def _source(name: str) -> ParameterSource | None:
    return click.get_current_context().get_parameter_source(name)


def _check_sources(values: dict[str, Any]) -> None:
    """Refuse a folder of data together with the built-in rows; HARNESS_DATA may be set."""
    both = values.get("sample") and values.get("data_dir")
    if both and _source("data_dir") is _source("sample"):
        raise UsageError("--data-dir and --sample name different rows; give one of them")
