"""Identify a loaded model by one digest over its tensors, its config and its own code.

The digest covers what was loaded, not the files. It does not depend on names and paths, on how the
weights are divided into files, or on the file format.
"""

import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from harness.engine.checkpoint.digest import cached_digest, combined_digest, file_state
from harness.engine.checkpoint.placement.whole_tensors import whole_tensors

# Config fields that do not change what the model computes: names, storage and output formats,
# labels of classifiers.
_IGNORED_FIELDS = frozenset({
    "_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "name_or_path",
    "num_labels", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
    "task_specific_params", "torch_dtype", "torchscript", "transformers_version",
    "transformers_weights", "use_cache",
})  # fmt: skip
# Fields that count only while a model is trained or its weights are drawn. (`token_dropout` of ESM
# also scales the embeddings.)
_TRAINING_FIELDS = re.compile(
    r"(?!\w*token_)\w*(_pdrop|dropout\w*|layerdrop)|initializer_\w+|init_std"
)
_ABSENT = object()
Whole = Callable[[str, Any], Any]
"""Name and value of a tensor -> the tensor itself."""
_REMOTE_CODE = "transformers_modules."  # where transformers puts code of a checkpoint


def model_digest(model: Any, config: Any, files: Iterable[Path]) -> str:
    """SHA-256 that identifies a transformers model, computed before anything is changed in it.

    `config` is the checkpoint's own; the state of its weight files is part of the cache key.
    """
    tensors, whole = dict(distinct_tensors(model)), whole_tensors(model)
    if any(hasattr(value, "full_tensor") for value in tensors.values()):
        # Parts are collected from all processes, in the same order, whatever each has in its cache.
        return _whole_digest(model, config, combined_digest([*_lines(tensors, whole, map)]))
    key = f"{file_state(files)}|{_checksum(tensors, whole)}"
    weights = cached_digest(key, lambda: tensors_digest(tensors, whole))
    return _whole_digest(model, config, weights)


def digest_in_memory(model: Any) -> str:
    """The digest that a transformers model would have if it were saved and loaded."""
    return _whole_digest(model, model.config, tensors_digest(dict(distinct_tensors(model))))


def _whole_digest(model: Any, config: Any, weights: str) -> str:
    own_fields = json.dumps(changed_fields(config), sort_keys=True, default=str)
    return combined_digest([weights, own_fields, *code_digests(model)])


def distinct_tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every parameter and persistent buffer; tied ones once."""
    seen = set()
    for name, value in sorted(model.state_dict(keep_vars=True).items()):
        if isinstance(value, torch.Tensor) and value.numel():
            place: Any = (value.data_ptr(), value.shape, value.stride(), value.dtype)
            if value.is_meta or hasattr(value, "full_tensor"):  # its numbers are elsewhere
                place = id(value)
            if place in seen:
                continue
            seen.add(place)
        yield name, value


def changed_fields(config: Any) -> dict[str, Any]:
    """The fields of a config that differ from the defaults of its class.

    So a field that a new release of transformers adds with a default changes nothing, nor does
    saving a config anew, which spells out the defaults. The id of a start or end token that lies
    outside the vocabulary is as good as none.
    """
    defaults = _defaults(type(config))
    size = getattr(config, "vocab_size", None)
    changed = {}
    for name, value in config.to_dict().items():
        part = vars(config).get(name)
        if name in _IGNORED_FIELDS or _TRAINING_FIELDS.fullmatch(name):
            continue
        if hasattr(part, "to_dict") and isinstance(value, dict):
            changed[name] = changed_fields(part)
            continue
        default = defaults.get(name, _ABSENT)
        if name in ("bos_token_id", "eos_token_id"):
            value, default = (_known_token(token, size) for token in (value, default))
        if name == "model_type" or value != default:
            changed[name] = value
    return changed


def _known_token(token: Any, vocabulary: Any) -> Any:
    """A token id; None for one that the vocabulary does not have."""
    is_outside = isinstance(token, int) and isinstance(vocabulary, int) and token >= vocabulary
    return None if is_outside else token


def code_digests(model: Any) -> list[str]:
    """Digests of the checkpoint's own code that the model runs, in a fixed order."""
    from transformers.dynamic_module_utils import get_relative_import_files

    classes = {type(module) for module in model.modules()} | {type(model.config)}
    modules = {c.__module__ for kind in classes for c in kind.__mro__}
    own = [sys.modules.get(name) for name in modules if name.startswith(_REMOTE_CODE)]
    files = {file for module in own if (file := getattr(module, "__file__", None))}
    needed = {file for root in files for file in (root, *get_relative_import_files(root))}
    digests = {hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in needed}
    return [type(model).__name__, *sorted(digests)] if digests else []


def _defaults(kind: Any) -> dict[str, Any]:
    """The default fields of a config class; those of the base class if some are required."""
    from transformers import PretrainedConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dict(kind().to_dict())
        except Exception:  # remote code may raise anything
            return PretrainedConfig().to_dict()


def tensors_digest(tensors: dict[str, Any], whole: Whole = lambda name, value: value) -> str:
    """SHA-256 over names, types, shapes and bytes; `whole` finds what is not in its place."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashlib releases the GIL
        return combined_digest([*_lines(tensors, whole, pool.map)])


def _lines(tensors: dict[str, Any], whole: Whole, mapped: Callable[..., Any]) -> Iterator[str]:
    """One line per tensor, through a function like `map`."""

    def line(item: tuple[str, Any]) -> str:
        return f"{_head(*item)} {hashlib.sha256(_bytes(whole(*item))).hexdigest()}"

    yield from mapped(line, tensors.items())


def _checksum(tensors: dict[str, Any], whole: Whole) -> str:
    """XXH3 over the same."""
    import xxhash

    checksum = xxhash.xxh3_128()
    for name, value in tensors.items():
        checksum.update(_head(name, value).encode())
        checksum.update(_bytes(whole(name, value)))
    return checksum.hexdigest()


def _head(name: str, value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{name} {value.dtype} {list(value.shape)}\n"
    return f"{name}\n"


def _bytes(value: Any) -> Any:
    """The bytes of a tensor, not copied if it is contiguous and on the CPU."""
    if not isinstance(value, torch.Tensor):  # extra state of a module
        return repr(value).encode()
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy()
