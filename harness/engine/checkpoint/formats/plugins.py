"""Checkpoint formats of other packages: the entry points `harness.checkpoints`.

Each leads to a `Format`. What is wrong with one is said with its name and its package.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from harness.engine.checkpoint.formats.format import Candidate, Format, Opened, ReadOptions
from harness.errors import CheckpointError, HarnessError, in_one_line

GROUP = "harness.checkpoints"
_METHODS = ("recognises", "open", "is_complete")


def plugin_formats(taken: Collection[str]) -> list[Format]:
    """The formats of installed packages, by the names of their entry points.

    `taken` are the names of the built-in formats.

    Raises:
        CheckpointError: one cannot be imported, is no `Format`, or has the name of another one.
    """
    points: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        # An editable install can list a distribution twice, so only different targets count.
        points.setdefault(point.name, {}).setdefault(point.value, point)
    for name, targets in sorted(points.items()):
        owners = ["this program"] * (name in taken) + [_owner(p) for p in targets.values()]
        if len(owners) > 1:
            raise CheckpointError(
                f"the checkpoint format {name!r} comes from {' and '.join(owners)}; uninstall one"
            )
    return [_load(point) for _, targets in sorted(points.items()) for point in targets.values()]


def _owner(point: EntryPoint) -> str:
    return f"{point.value} ({point.dist.name})" if point.dist else point.value


def _load(point: EntryPoint) -> Format:
    try:
        found = point.load()
    except (Exception, SystemExit) as error:
        raise CheckpointError(
            f"checkpoint format {point.name!r} from {_owner(point)} cannot be imported: "
            f"{in_one_line(error)}; repair or uninstall it"
        ) from error
    is_format = (
        not isinstance(found, type)
        and isinstance(getattr(found, "options", None), Mapping)
        and all(callable(getattr(found, method, None)) for method in _METHODS)
    )
    if not is_format:
        raise CheckpointError(
            f"checkpoint format {point.name!r} from {_owner(point)} is a "
            f"{type(found).__name__}; expected an object with options and the methods "
            f"{', '.join(_METHODS)}"
        )
    if getattr(found, "name", None) != point.name:
        raise CheckpointError(
            f"checkpoint format {point.name!r} from {_owner(point)} has the name "
            f"{getattr(found, 'name', None)!r}; expected that of its entry point"
        )
    return _Guarded(found, _owner(point))


class _Guarded:
    """A format of another package; its errors name it."""

    def __init__(self, form: Format, owner: str) -> None:
        self._form, self._owner = form, owner
        self.name, self.options = form.name, form.options
        self.takes_config = bool(getattr(form, "takes_config", False))

    def recognises(self, candidate: Candidate) -> bool:
        with self._errors("recognises"):
            return bool(self._form.recognises(candidate))

    def open(self, candidate: Candidate, options: ReadOptions) -> Opened:
        with self._errors("open"):
            return self._form.open(candidate, options)

    def is_complete(self, path: Path) -> bool | None:
        with self._errors("is_complete"):
            return self._form.is_complete(path)

    @contextmanager
    def _errors(self, method: str) -> Iterator[Any]:
        try:
            yield
        except HarnessError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"checkpoint format {self.name!r} from {self._owner}: {method}() failed: "
                f"{in_one_line(error)}"
            ) from error
