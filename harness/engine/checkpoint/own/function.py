"""Models that a function of the user's returns: `package.module:function`, `file.py:function`.

Packages offer such functions by short names through the entry points `harness.models`. A function
is called with the model options as keyword arguments, and returns a model, or model and tokenizer.
"""

import contextlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from harness.engine.checkpoint.own.prepare import unwrapped
from harness.engine.checkpoint.settings import Settings
from harness.engine.checkpoint.steps import path_exists
from harness.errors import CheckpointError, clipped_repr, in_one_line, short_reason

GROUP = "harness.models"
_REFERENCE = re.compile(r"(?P<module>[\w.]+|.+\.py):(?P<function>\w+(\.\w+)*)")


class Returned(NamedTuple):
    """What a function returned."""

    model: Any  # any function from token ids (B, T) to logits (B, T, V)
    tokenizer: Any = None  # of transformers or tokenizers, a name, or None


def names_function(name: str) -> bool:
    """Whether the name of a model is that of a function; a file or folder of that name wins."""
    if path_exists(name):
        return False
    return _REFERENCE.fullmatch(name) is not None or _entry_point(name) is not None


def installed_models() -> list[str]:
    """The names of the functions that installed packages offer."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def call_function(name: str, settings: Settings) -> Returned:
    """The model that a function returns, and its tokenizer.

    Raises:
        CheckpointError: the function cannot be imported or called, fails, or returns anything else;
            or a setting is for checkpoints only.
    """
    _refuse_settings(name, settings)
    function = _function(name)
    options = dict(settings.options)
    _check_options(function, options, name)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
        try:
            value = function(**options)
        except (Exception, SystemExit) as error:
            raise CheckpointError(f"model {name!r} ends in {in_one_line(error)}") from error
    returned = Returned(*value) if isinstance(value, tuple) and len(value) == 2 else Returned(value)
    if not callable(returned.model):
        raise CheckpointError(
            f"model {name!r} returns {_kind(value)}; expected a model, or (model, tokenizer): a "
            "model is any function from token ids (B, T) to logits (B, T, V)"
        )
    return returned._replace(model=unwrapped(returned.model))


def _refuse_settings(name: str, settings: Settings) -> None:
    given = {
        "--revision": settings.revision is not None,
        "--trust-remote-code": settings.trust_remote_code,
        "--model-config": settings.config_file is not None,
        "--device-map": settings.device_map is not None,
    }
    for flag, is_given in given.items():
        if is_given:
            raise CheckpointError(
                f"model {clipped_repr(name)} is a function, for which {flag} has no meaning; leave "
                "it out, or pass the function what it needs by --model-option"
            )


def _function(name: str) -> Callable[..., Any]:
    """Import a function by its name."""
    point = _entry_point(name)
    reference = _REFERENCE.fullmatch(point.value if point else name)
    if reference is None:
        raise CheckpointError(
            f"model {name!r}: its entry point is {point.value!r}"  # type: ignore[union-attr]
            "; expected module:function"
        )
    place, path = reference["module"], reference["function"]
    with contextlib.redirect_stdout(sys.stderr):
        try:
            value: Any = _from_file(Path(place)) if place.endswith(".py") else _module(place)
        except (ImportError, OSError) as error:  # they say themselves what is missing
            raise CheckpointError(
                f"model {name!r}: {place} cannot be imported ({type(error).__name__}: "
                f"{short_reason(error)})"
            ) from error
        except (Exception, SystemExit) as error:
            raise CheckpointError(
                f"model {name!r}: {place} cannot be imported ({in_one_line(error)})"
            ) from error
    for part in path.split("."):
        if not hasattr(value, part):
            raise CheckpointError(
                f"model {name!r}: {place} has no function {path!r}; it has: {_functions(value)}"
            )
        value = getattr(value, part)
    if not callable(value):
        raise CheckpointError(f"model {name!r} is {_kind(value)}; expected a function")
    function: Callable[..., Any] = value
    return function


def _module(name: str) -> ModuleType:
    """Import a module; those of the working directory hide no installed one."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    """Import a file under its own name, or under a longer one if that is taken."""
    file = path.expanduser().resolve()
    name = file.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return known
    if known is not None or importlib.util.find_spec(name) is not None:
        name = re.sub(r"\W", "_", str(file.with_suffix("")))
        if name in sys.modules:
            return sys.modules[name]
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # for the files beside it
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _entry_point(name: str) -> EntryPoint | None:
    points = list({point.value: point for point in entry_points(group=GROUP, name=name)}.values())
    if len(points) > 1:
        raise CheckpointError(
            f"model {name!r} comes from several packages ({', '.join(p.value for p in points)}); "
            "name one of these functions"
        )
    return points[0] if points else None


def _check_options(function: Callable[..., Any], options: Mapping[str, str], name: str) -> None:
    """Refuse model options that the function does not take."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions of C have none
        return
    kinds = {p.kind for p in parameters}
    taken = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for key, value in options.items():
        if key not in taken and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise CheckpointError(
                f"--model-option {key}={value}: {name} takes no such option (it takes: "
                f"{', '.join(taken) or 'none'})"
            )


def _functions(value: Any) -> str:
    """The names of the public functions in a module."""
    own = getattr(value, "__name__", None)
    names = [n for n, v in vars(value).items() if inspect.isfunction(v) and v.__module__ == own]
    return ", ".join(n for n in names if not n.startswith("_")) or "none"


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}: {', '.join(type(part).__name__ for part in value)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"
