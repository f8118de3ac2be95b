"""What a model keeps of the tokens that it has read: keys and values, or the state of its layers.

Models differ in the argument by which they take it, and some make it themselves.
"""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

_ARGUMENTS = ("past_key_values", "cache_params", "state")


class ReturnedState:
    """The state of a model that makes it itself and returns it.

    Attributes:
        value: lists, mappings and plain objects of tensors, one row of each per row of a batch;
            None before the first pass.
    """

    def __init__(self) -> None:
        self.value: Any = None

    def reorder_cache(self, rows: Tensor) -> None:
        """Keep these rows, in this order; one may be kept several times."""
        self.value = _rows_of(self.value, rows)


def parameters(trunk: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a trunk's `forward`; of the module inside it if that gets them all."""
    found = inspect.signature(trunk.forward).parameters
    inner = [module for module in trunk.children() if isinstance(module, PreTrainedModel)]
    passes_on = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found.values())
    return parameters(inner[0]) if passes_on and len(inner) == 1 else found


def cache_argument(taken: Mapping[str, inspect.Parameter]) -> str:
    """The name of the parameter that takes a cache; empty if there is none."""
    return next((name for name in _ARGUMENTS if name in taken), "")


def empty_cache(parameter: inspect.Parameter, config: Any) -> Any:
    """A cache of the kind that a model's config, or its `forward`, asks for."""
    kinds = [kind for kind in get_args(parameter.annotation) if isinstance(kind, type)]
    caches = [kind for kind in kinds if issubclass(kind, Cache)]
    for kind in caches:
        if issubclass(kind, DynamicCache) and kind is not DynamicCache:
            return kind()
    if parameter.name not in ("", "past_key_values") and not caches:
        return ReturnedState()
    return DynamicCache(config=config)


def passed(argument: str, cache: Any) -> dict[str, Any]:
    """The arguments by which a trunk gets a cache, or none."""
    if cache is None:
        return {}
    return {argument: cache.value if isinstance(cache, ReturnedState) else cache}


def keep(argument: str, cache: Any, output: Any) -> None:
    """Take the state that a trunk returned, if that is where it is."""
    if isinstance(cache, ReturnedState):
        cache.value = getattr(output, argument)


def repeated(cache: Any, rows: Tensor) -> Any:
    """A copy of a cache with these rows, in this order; the cache itself stays as it is."""
    if isinstance(cache, ReturnedState):
        new = copy.copy(cache)
        new.reorder_cache(rows)
        return new
    new = copy.deepcopy(cache)
    # Not `batch_select_indices`: linear layers lack it, hybrid ones implement half of it.
    new.reorder_cache(rows)
    for name, value in vars(new).items():
        if name != "layers":  # of one's own, which the inherited method does not know
            vars(new)[name] = _rows_of(value, rows)
    return new


def size_in_bytes(cache: Any) -> int:
    """Bytes of all tensors in a cache."""
    return sum(t.numel() * t.element_size() for t in _tensors(cache, set()))


def _tensors(value: Any, seen: set[int]) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, list | tuple):
        parts = [*value]
    elif isinstance(value, dict):
        parts = [*value.values()]
    elif isinstance(value, torch.nn.Module) or not hasattr(value, "__dict__"):
        parts = []
    else:
        parts = [*vars(value).values()]
    return [tensor for part in parts for tensor in _tensors(part, seen)]


def _rows_of(value: Any, rows: Tensor) -> Any:
    """The same structure with these rows of every tensor."""
    if isinstance(value, Tensor):
        return value.index_select(0, rows)
    if isinstance(value, list | tuple):
        return type(value)(_rows_of(part, rows) for part in value)
    if isinstance(value, dict):
        return {name: _rows_of(part, rows) for name, part in value.items()}
    if type(value).__module__.startswith("transformers.models") and "Cache" in type(value).__name__:
        new = copy.copy(value)
        vars(new).update({name: _rows_of(part, rows) for name, part in vars(value).items()})
        return new
    return value
