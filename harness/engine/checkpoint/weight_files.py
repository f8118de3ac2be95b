"""A checkpoint's folder before anything is built from it: its JSON files, and its weight files.

What is found here would otherwise end in a traceback or a hang inside transformers, or in silence.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from harness.errors import CheckpointError, clipped_repr, short_reason
from harness.files import strict_json

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_MANY_LAYERS = 512  # up to here a config is believed, and building the model takes no time
_LAYERS = re.compile(r"((n|num)_(\w+_)?(layers?|blocks)|(en|de)coder_layers|depth)")
_POSITIVE = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")


def read_json(folder: Path, file: str, name: str) -> dict[str, Any]:
    """The JSON object in a folder's file; {} if there is no such file.

    Raises:
        CheckpointError: it cannot be read, or is not an object of plain text.
    """
    path = folder / file
    try:
        if not path.is_symlink() and not path.exists():
            return {}
        found = strict_json.loads(path.read_bytes(), allow_nan=True)
    except OSError as error:
        raise unreadable(path, error, name) from error
    except ValueError as error:
        raise CheckpointError(
            f"model {name!r} cannot be loaded as a causal language model: {file} cannot be read "
            f"({short_reason(error)}); expected a JSON object"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(
            f"model {name!r}: {file} holds a {type(found).__name__}; expected a JSON object"
        )
    return found


def check_json(folder: Path, name: str) -> None:
    """Refuse a folder whose config files hold what transformers would stumble over.

    Raises:
        CheckpointError: a value has the wrong type.
    """
    stated = read_json(folder, "config.json", name)
    classes = stated.get("architectures")
    if not (classes is None or (isinstance(classes, list) and all_are(str, classes))):
        raise CheckpointError(
            f"model {name!r}: architectures in config.json is {clipped_repr(classes)}; expected a "
            "list of class names"
        )
    if not is_ends(ends := read_json(folder, "generation_config.json", name).get("eos_token_id")):
        raise CheckpointError(
            f"model {name!r}: eos_token_id in generation_config.json is {clipped_repr(ends)}; "
            "expected a token id or a list of them"
        )


def is_ends(value: Any) -> bool:
    """Whether a value may stand for end tokens: nothing, a token id, or a list of them."""
    return value is None or all_are(int, value if isinstance(value, list) else [value])


def all_are(kind: type, values: Sequence[Any]) -> bool:
    """Whether all values are of a type; `True` is not an integer here."""
    return all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def check_adapter(folder: Path, name: str) -> None:
    """Refuse a folder with a PEFT adapter, which is neither the base model nor the tuned one.

    Raises:
        CheckpointError: there is an adapter.
    """
    for file in _ADAPTER:
        if (folder / file).exists():
            raise CheckpointError(
                f"model {name!r} has an adapter beside its weights ({file}), which would not be "
                "applied; merge it into them (peft: merge_and_unload(), then save_pretrained), or "
                "take it out of the folder to score the base model"
            )


def weight_files(folder: Path, stated: str | None, name: str) -> list[Path]:
    """The files that transformers loads a folder's weights from.

    Args:
        folder: of the checkpoint.
        stated: `transformers_weights` of its config, which names the file.
        name: of the checkpoint, for messages.

    Raises:
        CheckpointError: there is none, it cannot be read, or it lies outside the folder.
    """
    indices = (f"{_SAFE}.index.json", f"{_PICKLED}.index.json")
    candidates = [stated] if stated else [_SAFE, indices[0], _PICKLED, indices[1]]
    for file in candidates:
        if not (folder / file).exists() and not (folder / file).is_symlink():
            continue
        if not file.endswith(".index.json"):
            return [_usable(folder, file, name)]
        index = read_json(folder, file, name).get("weight_map")
        if not isinstance(index, dict) or not index or not all_are(str, list(index.values())):
            raise CheckpointError(
                f"model {name!r}: {file} has no weight_map from tensors to files; expected one"
            )
        return [_usable(folder, shard, name) for shard in sorted(set(index.values()))]
    wanted = stated or "*.safetensors"
    raise CheckpointError(f"model {name!r} has no weights; expected {wanted} in {folder}")


def _usable(folder: Path, file: str, name: str) -> Path:
    """A weights file that is there, inside the folder, and can be read."""
    if PurePath(file).is_absolute() or ".." in PurePath(file).parts:
        raise CheckpointError(
            f"model {name!r} takes weights from outside its folder ({file}); copy or link that "
            "file into the folder"
        )
    path = folder / file
    if path.is_dir():
        raise CheckpointError(f"model {name!r}: {file} is a folder; expected a weights file")
    try:
        with path.open("rb"):
            return path
    except FileNotFoundError as error:
        what = "is a link to a file that is not there" if path.is_symlink() else "is not there"
        raise CheckpointError(f"model {name!r}: its weights file {file} {what}") from error
    except OSError as error:
        raise unreadable(path, error, name) from error


def check_sizes(config: Any, files: Sequence[Path], name: str) -> None:
    """Refuse sizes in a config that no model has, before a model of that size is built.

    Raises:
        CheckpointError: a size is not positive, or there are more layers than tensors.
    """
    text = config.get_text_config()
    for size in _POSITIVE:
        try:
            value = getattr(text, size, None)
        except Exception:  # some configs have it by layer, and say so
            continue
        if isinstance(value, int) and value < 1:
            raise CheckpointError(
                f"model {name!r}: {size} is {value} in config.json; expected at least 1"
            )
    layers, count = _most_layers(config.to_dict())
    if count > _MANY_LAYERS and count > (there := len(tensor_names(files))):
        raise CheckpointError(
            f"model {name!r}: {layers} is {count} in config.json, but there are only {there} "
            "tensors in its files; weights and config do not belong together"
        )


def _most_layers(stated: dict[str, Any]) -> tuple[str, int]:
    """The largest number of layers in a config, and the field that says so."""
    most = ("", 0)
    for field, value in stated.items():
        if isinstance(value, dict):
            most = max(most, _most_layers(value), key=lambda found: found[1])
        elif isinstance(value, int) and _LAYERS.fullmatch(field):
            most = max(most, (field, value), key=lambda found: found[1])
    return most


def tensor_names(files: Sequence[Path]) -> set[str]:
    """Names of the tensors in weight files; nothing is loaded."""
    from safetensors import safe_open
    from transformers.modeling_utils import load_state_dict

    found: set[str] = set()
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                found.update(opened.keys())
        else:
            found.update(load_state_dict(file, map_location="meta", weights_only=True))
    return found


def unreadable(path: Path, error: OSError, name: str) -> CheckpointError:
    """The error for a file that is there and cannot be read."""
    reason = error.strerror or type(error).__name__
    return CheckpointError(f"model {name!r}: {path.name} cannot be read ({reason})")
