"""Identify a model that is a Python object: its tensors, its settings and its source code.

Nothing says which attributes of a module its `forward` reads. So all of them count: a number of
heads changes what the same weights compute, and so does an edited line of code. A model about which
this leaves any doubt gets a digest that no other one ever has.
"""

import hashlib
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.engine.checkpoint.digest import combined_digest
from harness.engine.checkpoint.identity import tensors_digest

# Of every module: what the digest has in another form, and what says nothing about the result.
_COMMON = frozenset({*vars(nn.Module()), "_compiled_call_impl"})
_NO_CHANGE = ("torch", "transformers", "accelerate", "peft")  # hooks of these leave outputs alone
_MAX_DEPTH = 8
_KNOWN = ("torch", "transformers", "harness")  # the cache's key has their versions
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def own_digest(call: Any) -> str:
    """SHA-256 of a module, or of a method of one; for other functions another one at every call."""
    owner = getattr(call, "__self__", call)
    if not isinstance(owner, nn.Module) or has_hooks(owner) or _has_hidden_modules(owner):
        return unknown_digest()
    tensors = {_plain(name): value for name, value in _tensors(owner)}
    classes = {type(module) for module in owner.modules()}
    parts = [repr(part) for part in _settings(owner)]
    method = getattr(call, "__qualname__", "")  # of a method
    return combined_digest([tensors_digest(tensors), *parts, method, *source_digests(classes)])


def unknown_digest() -> str:
    """A digest that is never seen again."""
    return combined_digest([uuid.uuid4().hex])


def has_hooks(model: nn.Module) -> bool:
    """Whether a forward pass calls functions, unknown to us, that may change what it returns."""
    hooks = [
        hook
        for module in model.modules()
        for found in (module._forward_hooks, module._forward_pre_hooks)
        for hook in found.values()
    ]
    return any(_library(getattr(h, "__module__", None)) not in _NO_CHANGE for h in hooks)


def _has_hidden_modules(model: nn.Module) -> bool:
    """Whether lists or dicts hold modules whose weights are not among those of the model."""
    modules = [*model.modules()]
    registered = {id(module) for module in modules}
    values = [value for m in modules for k, value in vars(m).items() if k not in _COMMON]
    parts = [*values]
    for value in values:
        parts += value.values() if isinstance(value, Mapping) else ()
        parts += value if isinstance(value, list | tuple) else ()
    return any(isinstance(part, nn.Module) and id(part) not in registered for part in parts)


def is_patched(model: nn.Module) -> bool:
    """Whether a forward pass runs more than the methods of the modules' classes."""
    return has_hooks(model) or any("forward" in vars(module) for module in model.modules())


def source_digests(classes: Iterable[type]) -> list[str]:
    """Digests of the source files of classes outside torch and transformers, in a fixed order.

    What those files import from other files of the same project counts as well. A class without a
    file, as typed into a notebook, has an unknown digest.
    """
    names = {base.__module__ for kind in classes for base in kind.__mro__}
    todo = [name for name in names if _library(name) not in _KNOWN]
    projects = {_library(name) for name in todo}
    files: dict[str, str] = {}
    while todo:
        name = todo.pop()
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if name in files:
            continue
        if not file or not Path(file).is_file():
            if _library(name) not in sys.stdlib_module_names:
                files[name] = unknown_digest()
            continue
        files[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        todo += [used for used in _used_by(module) if _is_own(used, projects)]
    return sorted(files.values())


def _used_by(module: Any) -> Iterator[str]:
    """Names of the modules that a module's global names come from."""
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else _origin(value)
        if isinstance(name, str):
            yield name


def _is_own(name: str, projects: set[str]) -> bool:
    """Whether a module belongs to one of these projects, or is not installed at all."""
    library, file = _library(name), getattr(sys.modules.get(name), "__file__", None)
    if not file or library in _KNOWN or library in sys.stdlib_module_names:
        return False
    return library in projects or _INSTALLED.isdisjoint(Path(file).parts)


def _library(name: str | None) -> str:
    return (name or "").partition(".")[0]


def _origin(value: Any) -> str | None:
    """The module that a class or function comes from."""
    return getattr(value, "__module__", None) if callable(value) else None


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters, buffers and other tensors of all modules."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    for name, module in model.named_modules():
        for key, value in sorted(vars(module).items()):
            if isinstance(value, torch.Tensor):
                yield f"{name}.{key}", value


def _settings(model: nn.Module) -> Iterator[tuple[str, ...]]:
    """Class and plain attributes of every module."""
    for name, module in model.named_modules():
        values = {k: v for k, v in vars(module).items() if k not in _COMMON}
        kind = type(module)
        yield _plain(name), f"{kind.__module__}.{kind.__qualname__}", described(values)


def described(value: Any, depth: int = 0) -> str:
    """A text that differs for values that compute differently; without addresses in memory."""
    inner = partial(described, depth=depth + 1)
    if isinstance(value, nn.Module) or depth > _MAX_DEPTH:
        return type(value).__qualname__
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype):
        return repr(value)
    if isinstance(value, torch.Tensor):
        return tensors_digest({"": value})
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{inner(k)}: {inner(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inner, value))}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(inner, value)))}}}"
    return _described_object(value, depth)


def _described_object(value: Any, depth: int) -> str:
    """Of a function its name and what it closes over, of an object its class and attributes."""
    inner = partial(described, depth=depth + 1)
    if isinstance(value, partial):
        return f"partial({inner(value.func)}, {inner(value.args)}, {inner(value.keywords)})"
    if isinstance(value, MethodType):
        return f"{inner(value.__func__)} of {inner(value.__self__)}"
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        code = hashlib.sha256(value.__code__.co_code).hexdigest()
        return f"{value.__module__}.{value.__qualname__} {code} {inner(cells)}"
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    names = [n for kind in type(value).__mro__ for n in vars(kind).get("__slots__", ())]
    slots = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return f"{type(value).__qualname__} {inner({**slots, **getattr(value, '__dict__', {})})}"
