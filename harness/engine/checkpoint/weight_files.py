"""Find and check the files of a checkpoint's folder before anything is built from them.

What is refused here would otherwise end in a traceback or a hang inside transformers, or pass in
silence.
"""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from harness.errors import CheckpointError, short_reason
from harness.files import strict_json

_SAFETENSORS, _PICKLE = "model.safetensors", "pytorch_model.bin"


def read_json(folder: Path, file: str, name: str) -> dict[str, Any]:
    """The JSON object in a folder's file; {} if there is no such file."""
    path = folder / file
    try:
        if not path.is_symlink() and not path.exists():
            return {}
        value = strict_json.loads(path.read_bytes(), allow_nan=True)
    except OSError as error:
        raise _unreadable(path, error, name) from error
    except ValueError as error:
        raise CheckpointError(
            f"model {name!r} cannot be loaded as a causal language model: {file} cannot be read "
            f"({short_reason(error)}); expected a JSON object"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"model {name!r}: {file} holds a {type(value).__name__}; expected a JSON object"
        )
    return value


def all_are(kind: type, values: Sequence[Any]) -> bool:
    """Whether all values are of a type; `True` does not count as an integer."""
    return all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def weight_files(folder: Path, stated: str | None, name: str) -> list[Path]:
    """The files that transformers loads a folder's weights from.

    `stated` is the file that the config names in `transformers_weights`.

    Raises:
        CheckpointError: there is none, it cannot be read, or it lies outside the folder.
    """
    formats = (_SAFETENSORS, _PICKLE)
    candidates = [stated] if stated else [f + end for f in formats for end in ("", ".index.json")]
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
    expected = stated or "*.safetensors"
    raise CheckpointError(f"model {name!r} has no weights; expected {expected} in {folder}")


def _usable(folder: Path, file: str, name: str) -> Path:
    """The path of a weights file that lies inside the folder and can be read."""
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
        raise _unreadable(path, error, name) from error


def tensor_names(files: Sequence[Path]) -> set[str]:
    """Names of the tensors in weight files; the tensors are not loaded."""
    from safetensors import safe_open
    from transformers.modeling_utils import load_state_dict

    names: set[str] = set()
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                names.update(opened.keys())
        else:
            names.update(load_state_dict(file, map_location="meta", weights_only=True))
    return names


def _unreadable(path: Path, error: OSError, name: str) -> CheckpointError:
    reason = error.strerror or type(error).__name__
    return CheckpointError(f"model {name!r}: {path.name} cannot be read ({reason})")
