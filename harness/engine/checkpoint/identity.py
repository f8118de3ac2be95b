"""What a loaded model is: one digest over its tensors, its config and the code that runs it.

The digest is computed from what was loaded, not from the files that it came from: which file of a
folder serves a tensor, how the weights are divided into files, and in which container they are
plays no part, and none of it can be overlooked. Names and paths of files play no part either.
"""

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import xxhash

from harness.engine.checkpoint.digest import combined, remembered, state

# Fields of a config that say nothing about what the model computes: names, the format in which the
# weights are stored or results are handed over, the labels of classifiers.
_BOOKKEEPING = frozenset({
    "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "name_or_path",
    "num_labels", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
    "task_specific_params", "torch_dtype", "torchscript", "transformers_version",
    "transformers_weights", "use_cache",
})  # fmt: skip
_REMOTE = "transformers_modules."  # where transformers puts code that came with a checkpoint


def model_digest(model: Any, config: Any, files: Iterable[Path]) -> str:
    """SHA-256 that identifies a model, as it was loaded and before anything is changed in it.

    Args:
        model: a transformers model.
        config: the config that it was built from, as the checkpoint states it.
        files: those that its weights came from, by which a known digest is found again.
    """
    tensors = dict(distinct(model))
    known = f"{state(files)}|{_checksum(tensors)}"
    weights = remembered(known, lambda: _tensors_digest(tensors))
    return combined(
        [weights, json.dumps(fields(config), sort_keys=True, default=str), *code(model)]
    )


def distinct(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every parameter and persistent buffer; a tied one under its first name."""
    seen = set()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor) and value.numel():
            place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
            if place in seen:
                continue
            seen.add(place)
        yield name, value


def fields(config: Any) -> dict[str, Any]:
    """The fields of a config in which it differs from its class's defaults.

    A field that a release of transformers adds, with a default, therefore changes nothing, nor does
    saving a config anew, which spells defaults out.
    """
    defaults = _defaults(type(config))
    found = {}
    for name, value in config.to_dict().items():
        part = vars(config).get(name)
        if name in _BOOKKEEPING:
            continue
        if hasattr(part, "to_dict") and isinstance(value, dict):
            found[name] = fields(part)
        elif name == "model_type" or name not in defaults or value != defaults[name]:
            found[name] = value
    return found


def code(model: Any) -> list[str]:
    """Digests of the code that came with the checkpoint and runs in the model, in a fixed order."""
    from transformers.dynamic_module_utils import get_relative_import_files

    classes = {type(module) for module in model.modules()} | {type(model.config)}
    modules = {c.__module__ for own in classes for c in own.__mro__}
    files = {
        file
        for name in modules
        if name.startswith(_REMOTE) and (file := getattr(sys.modules.get(name), "__file__", None))
    }
    needed = {file for root in files for file in (root, *get_relative_import_files(root))}
    digests = {hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in needed}
    return [type(model).__name__, *sorted(digests)] if digests else []


def _defaults(kind: Any) -> dict[str, Any]:
    """A config class's default fields; those of the base class if it has required ones."""
    from transformers import PretrainedConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            default = kind()
        except Exception:  # remote code may raise anything
            default = PretrainedConfig()
    found: dict[str, Any] = default.to_dict()
    return found


def _tensors_digest(tensors: dict[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes."""

    def line(item: tuple[str, Any]) -> str:
        return f"{_head(*item)} {hashlib.sha256(_bytes(item[1])).hexdigest()}"

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashlib frees the interpreter
        return combined(list(pool.map(line, tensors.items())))


def _checksum(tensors: dict[str, Any]) -> str:
    """XXH3 over the same."""
    checksum = xxhash.xxh3_128()
    for name, value in tensors.items():
        checksum.update(_head(name, value).encode())
        checksum.update(_bytes(value))
    return checksum.hexdigest()


def _head(name: str, value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{name} {value.dtype} {list(value.shape)}\n"
    return f"{name}\n"


def _bytes(value: Any) -> Any:
    """The bytes of a tensor, not copied if it is contiguous and on the CPU."""
    if not isinstance(value, torch.Tensor):  # what a module calls its extra state
        return repr(value).encode()
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()
