"""Old names that plugins use, kept for one minor version with a DeprecationWarning.

Every warning points at the file that uses the old name. Deleting this module and the lines that use
it removes all old names.
"""

import functools
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

MODULES = {
    "harness.answers": "harness.metrics.exact_match",
    "harness.calibration": "harness.metrics.calibration",
    "harness.conformance": "harness.testing.conformance",
    "harness.extract": "harness.metrics.extract",
    "harness.formats": "harness.data.parsers",
    "harness.golden": "harness.testing.golden",
    "harness.modules": "harness.metrics.hf_evaluate",
    "harness.summaries": "harness.metrics.rouge",
    "harness.translations": "harness.metrics.bleu",
}
ATTRIBUTES = {
    "harness.answers": {
        "best": "max_over_references",
        "exact": "exact_match",
        "normalise": "normalise_answer",
    },
    "harness.extract": {"bare": "strip_punctuation"},
    "harness.metrics": {
        "most_confident": "selective_accuracy",
        "spread_over_runs": "std_over_runs",
    },
    "harness.summaries": {"at_random": "random_sentences", "lede": "lead_sentences"},
    "harness.task": {"each": "per_row"},
}
"""Old names of attributes, by the module that plugins import them from."""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook for the old module names; reached only where no file of that name exists."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of an old name, or None for every other name."""
        return importlib.machinery.ModuleSpec(name, self) if name in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Make a module with the contents of the new one, under their old names as well.

        It is a separate object because the import system would overwrite the new module's spec.
        """
        new = import_module(MODULES[spec.name])
        warnings.warn(f"{spec.name} is now {new.__name__}", DeprecationWarning, stacklevel=2)
        module = ModuleType(spec.name, new.__doc__)
        vars(module).update({k: v for k, v in vars(new).items() if not k.startswith("__")})
        for old_name, new_name in ATTRIBUTES.get(spec.name, {}).items():
            setattr(module, old_name, getattr(new, new_name))
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: `create_module` has filled the module."""


def install() -> None:
    """Make the old module names importable, once per process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def attributes(module: str) -> Callable[[str], Any]:
    """A `__getattr__` for `module` that resolves the old names of its attributes."""

    def resolve(name: str) -> Any:
        if name not in ATTRIBUTES[module]:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = ATTRIBUTES[module][name]
        warnings.warn(f"{module}.{name} is now {module}.{new}", DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], new)

    return resolve


def argument(function: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """`function` with its keyword argument `new` also accepted as `old`."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if old in kwargs:
            warnings.warn(f"{old}= is now {new}=", DeprecationWarning, stacklevel=2)
            kwargs[new] = kwargs.pop(old)
        return function(*args, **kwargs)

    return call


def call(
    function: Callable[..., Any], old: Callable[..., Any], is_old: Callable[..., bool], note: str
) -> Callable[..., Any]:
    """`function`, except that calls for which `is_old` holds reach the one it has replaced."""

    @functools.wraps(function)
    def choose(*args: Any, **kwargs: Any) -> Any:
        if is_old(*args, **kwargs):
            warnings.warn(note, DeprecationWarning, stacklevel=2)
            return old(*args, **kwargs)
        return function(*args, **kwargs)

    return choose
