"""Run files: the tasks, protocols and options of `harness run` in a TOML file.

model = ["gpt2", "ckpts/latest"]   # any option by its long name
data-dir = "data"                  # paths are relative to this file
limit = 200

[tasks.lambada]                    # or tasks = ["lambada", "ptb"]
protocol = "lm-eval"
[tasks.ptb]
set = { stride = 32 }
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from harness.commands.options import ProtocolOptions
from harness.errors import UsageError
from harness.task import unknown

TASK_KEYS = ("protocol", "set")


class RunFile(NamedTuple):
    """The contents of a run file."""

    tasks: tuple[str, ...]
    protocols: Mapping[str, ProtocolOptions]  # by task; empty names where the file has none
    options: Mapping[str, Any]  # by parameter of the command


def read(path: Path, command: click.Command) -> RunFile:
    """Read a run file.

    Raises:
        UsageError: it cannot be read, or a key or value is not allowed.
    """
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read run file {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"run file {str(path)!r} is not TOML: {error}") from error
    try:
        tasks, protocols = _tasks(values.pop("tasks", []))
        return RunFile(tasks, protocols, _options(values, path.parent, command))
    except UsageError as error:
        raise UsageError(f"run file {str(path)!r}: {error}") from None


def _tasks(value: Any) -> tuple[tuple[str, ...], dict[str, ProtocolOptions]]:
    """`tasks` as a list of names, or as a table with the protocol of each task."""
    if not isinstance(value, dict):
        return _texts("tasks", value), {}
    protocols: dict[str, ProtocolOptions] = {}
    for name, own in value.items():
        where = f"tasks.{name}"
        _check(where, own, dict)
        for key in own:
            if key not in TASK_KEYS:
                raise UsageError(unknown("option", key, TASK_KEYS, f"{where} has no"))
        protocol = own.get("protocol", "")
        _check(f"{where}.protocol", protocol, str)
        protocols[name] = ProtocolOptions(protocol, _pairs(f"{where}.set", own.get("set", [])))
        protocols[name].check()
    return tuple(value), protocols


def _options(values: dict[str, Any], folder: Path, command: click.Command) -> dict[str, Any]:
    """Values by parameter, checked against the types of the command's options."""
    options = {p.opts[0].removeprefix("--"): p for p in command.params if p.name != "file"}
    by_parameter: dict[str, Any] = {}
    for key, value in values.items():
        option = options.get(key)
        if not isinstance(option, click.Option):
            raise UsageError(unknown("option", key, options, see="`harness run --help`"))
        by_parameter[str(option.name)] = _value(key, value, option, folder)
    return by_parameter


def _value(key: str, value: Any, option: click.Option, folder: Path) -> Any:
    """A value as the command line would give it; raises a `UsageError` if its type is wrong."""
    if key == "set":
        return _pairs(key, value)
    if option.multiple:
        # A name on the hub looks like a relative path.
        texts = _texts(key, value)
        return tuple(str(folder / t) if (folder / t).exists() else t for t in texts)
    if isinstance(option.type, click.FloatRange) and type(value) in (int, float):
        return value
    whole_number = isinstance(option.type, click.IntRange)
    _check(key, value, bool if option.is_flag else int if whole_number else str)
    return str(folder / value) if isinstance(option.type, click.Path) else value


def _check(key: str, value: Any, kind: type) -> None:
    if type(value) is not kind:  # not isinstance: true is an int
        expected = {
            bool: "true or false", int: "a whole number", str: "a string",
            dict: "a table with protocol or set",
        }  # fmt: skip
        raise UsageError(f"{key} is {value!r}; expected {expected[kind]}")


def _texts(key: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{key} is {value!r}; expected a string or a list of strings")
    return tuple(texts)


def _pairs(key: str, value: Any) -> tuple[str, ...]:
    """`{ stride = 32 }` or `["stride=32"]` as `stride=32`."""
    if not isinstance(value, dict):
        return _texts(key, value)
    for name, one in value.items():
        if type(one) not in (str, int):
            raise UsageError(f"{key}.{name} is {one!r}; expected a string or a whole number")
    return tuple(f"{name}={one}" for name, one in value.items())
