"""nanochat's checkpoints: `model_000150.pt` with `meta_000150.json`, alone or in a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.engine.checkpoint.formats.format import (
    Candidate,
    ReadOptions,
    TensorCheckpoint,
    newest,
)
from harness.engine.checkpoint.formats.gpt2.convert import read_state
from harness.engine.checkpoint.formats.nanochat.layout import (
    MARK,
    Sizes,
    config_of,
    layout_of,
    tensors_of,
)
from harness.engine.checkpoint.formats.nanochat.tokenizer import find_tokenizer
from harness.engine.checkpoint.formats.pickles import unreadable
from harness.errors import CheckpointError, clipped_repr, short_reason
from harness.files import strict_json

_MODEL = r"model_(\d+)\.pt"


class NanoChat:
    """A checkpoint of nanochat, or a folder with several, of which the newest complete counts."""

    name = "nanochat"
    options: Mapping[str, tuple[str, ...]] = {}
    takes_config = True  # a meta file in another place

    def recognises(self, candidate: Candidate) -> bool:
        """Whether a torch file has the tensors of a nanochat model."""
        content = Candidate(_model_file(candidate.path)).pickle
        return isinstance(content, Mapping) and any(
            isinstance(name, str) and name.endswith(MARK) for name in content
        )

    def open(self, candidate: Candidate, options: ReadOptions) -> TensorCheckpoint:
        """The model; its optimizer's state is in other files."""
        path = _model_file(candidate.path)
        state = read_state(path, Candidate(path).pickle or {})
        layout = layout_of(state, path)
        meta_path = options.config_file or _meta_file(path)
        meta = _read_meta(meta_path, path)
        sizes = _sizes(meta.get("model_config"), meta_path)
        tensors = tensors_of(state, layout, sizes, path)
        tokenizer = find_tokenizer(path, options, sizes.vocab_size)
        step = meta.get("step") if type(meta.get("step")) is int else None
        described = "" if step is None else f" at step {step:,}"
        if path != candidate.path:
            others = len([p for p in path.parent.glob("model_*.pt") if p != path])
            described += f" ({path.name}, the newest of {others + 1})" if others else ""
        return TensorCheckpoint(
            description=(
                f"a checkpoint of nanochat{described}: {sizes.n_layer} layers, {sizes.n_embd} "
                f"wide, {layout.name}; tokenizer: {tokenizer.origin}"
            ),
            config=config_of(layout, sizes, meta_path),
            tensors=tensors,
            tokenizer=tokenizer.write,
            tokenizer_key=tokenizer.key,
            step=step,
        )

    def is_complete(self, path: Path) -> bool | None:
        """Whether the meta file is there, which nanochat writes after the model."""
        return _has_meta(_model_file(path))


def _model_file(path: Path) -> Path:
    """The file itself, or the newest in a folder, if any has one with its meta file there."""
    return newest(path, _MODEL, _has_meta) or newest(path, _MODEL) or path


def _meta_file(model: Path) -> Path:
    return model.with_name(f"meta_{model.stem.removeprefix('model_')}.json")


def _has_meta(model: Path) -> bool:
    """Whether the meta file of a model has been written to its end."""
    try:
        return isinstance(strict_json.loads(_meta_file(model).read_bytes(), allow_nan=True), dict)
    except (OSError, ValueError):
        return False


def _read_meta(path: Path, model: Path) -> Mapping[str, Any]:
    """The content of a meta file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        meta = strict_json.loads(path.read_bytes(), allow_nan=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{model} is a nanochat model without its meta file, which has its sizes; expected "
            f"{path}, or another place in --model-config FILE"
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} cannot be read as nanochat's meta file ({short_reason(error)}); it may be cut "
            "short"
        ) from error
    if not isinstance(meta, dict) or not isinstance(meta.get("model_config"), dict):
        raise CheckpointError(f"{path} has no model_config; expected the meta file of {model.name}")
    return meta


def _sizes(stated: Any, path: Path) -> Sizes:
    """The sizes in a meta file.

    Raises:
        CheckpointError: one is missing, unknown or makes no sense.
    """
    if unknown := stated.keys() - set(Sizes._fields):
        raise CheckpointError(
            f"{path}: model_config has {min(unknown)!r}, which no known layout of nanochat has"
        )
    for name in Sizes._fields:
        value = stated.get(name)
        if name == "window_pattern":
            is_fine = value is None or (isinstance(value, str) and set(value.upper()) <= set("SL"))
            is_fine = is_fine and value != ""
        else:
            is_fine = type(value) is int and value > 0
        if not is_fine:
            expected = "letters S and L" if name == "window_pattern" else "a positive number"
            raise CheckpointError(
                f"{path}: {name} in model_config is {clipped_repr(value)}; expected {expected}"
            )
    sizes = Sizes(**stated)
    if sizes.n_embd % (2 * sizes.n_head) or sizes.n_head % sizes.n_kv_head:
        raise CheckpointError(
            f"{path}: a width of {sizes.n_embd}, {sizes.n_head} heads and {sizes.n_kv_head} heads "
            "for keys and values do not go together"
        )
    return sizes
