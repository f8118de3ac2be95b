"""Old module names that plugins import, kept for one minor version.

`harness.extract` and its like moved into folders. Importing an old name gives the module that
took its place, with a DeprecationWarning that says where it is now.
"""

import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

MOVED = {
    "harness.conformance": "harness.testing.conformance",
    "harness.extract": "harness.metrics.extract",
    "harness.formats": "harness.data.parsers",
    "harness.golden": "harness.testing.golden",
    "harness.modules": "harness.metrics.hf_evaluate",
}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the old names; asked only where no file of that name exists."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of an old name, or None for every other."""
        return importlib.machinery.ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """The module that took its place, unless it was imported before under that name."""
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        # A module of its own, so that the import system does not write over `new`'s spec.
        module = ModuleType(spec.name)
        module.__dict__.update(
            {k: v for k, v in vars(import_module(new)).items() if not k.startswith("__")}
        )
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to run."""


def install() -> None:
    """Let the old names be imported, once per process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
