"""Folders of torch.distributed.checkpoint: `.metadata` and shards `__R_N.distcp`.

torchtitan and Meta's lingua write them, and FSDP trainers of transformers' models. `.metadata` is
a pickle, which torch itself reads without restriction; here it may only build the plain values
that torch writes into it. Optimizer and other states in the folder are left out.
"""

from collections.abc import Iterator, Mapping
from io import BytesIO
from math import prod
from pathlib import Path, PurePath
from typing import Any

import torch

from harness.engine.checkpoint.formats.beside import config_file, config_in, tokenizer_beside
from harness.engine.checkpoint.formats.format import (
    Candidate,
    ReadOptions,
    TensorCheckpoint,
    Tensors,
    without_wrappers,
)
from harness.engine.checkpoint.formats.llama_names import has_llama_names, renamed
from harness.engine.checkpoint.formats.pickles import read_plain_pickle
from harness.engine.checkpoint.formats.weights import fitted
from harness.engine.checkpoint.steps import step_of
from harness.errors import CheckpointError, HarnessError, short_reason

METADATA = ".metadata"
_CLASSES = (
    "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
    "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
)  # fmt: skip
_OTHER_STATES = frozenset({
    "optim", "optimizer", "optimizers", "lr_scheduler", "lr_schedulers", "scheduler", "dataloader",
    "train_dataloader", "train_state", "trainer", "rng", "rng_state",
})  # fmt: skip
_MODEL_STATES = ("model", "state_dict", "module")


class DCP:
    """A folder of torch.distributed.checkpoint."""

    name = "torch DCP"
    options: Mapping[str, tuple[str, ...]] = {}
    takes_config = True

    def recognises(self, candidate: Candidate) -> bool:
        """Whether a folder has the metadata, or shards without it."""
        path = candidate.path
        return path.is_dir() and ((path / METADATA).exists() or any(path.glob("*.distcp")))

    def open(self, candidate: Candidate, options: ReadOptions) -> TensorCheckpoint:
        """Read the model's tensors; shards are put together."""
        path = candidate.path
        metadata = read_metadata(path)
        config_path = config_file(options, path, "a folder of torch.distributed.checkpoint (DCP)")
        config = config_in(config_path)
        tensors = without_wrappers(read_tensors(path, metadata), path)
        llama = has_llama_names(tensors)
        if llama:
            tensors = renamed(tensors, config, path)
        kind = "Llama of torchtitan or lingua" if llama else config.model_type
        tokenizer = tokenizer_beside([path, config_path.parent], options)
        return TensorCheckpoint(
            description=f"a DCP folder, {kind}",
            config=config,
            tensors=fitted(tensors, config, path),
            tokenizer=tokenizer.write,
            tokenizer_key=tokenizer.key,
            step=step_of(path.resolve().name),  # of what a link such as `latest` leads to
        )

    def is_complete(self, path: Path) -> bool | None:
        """The metadata are written last."""
        return (path / METADATA).is_file()


class _Path:
    """Stands for a path, which is not needed."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts


def read_metadata(folder: Path) -> Any:
    """The `Metadata` of a folder.

    Raises:
        CheckpointError: there are none, they are damaged, or they would run code.
    """
    from torch.distributed.checkpoint.metadata import Metadata

    file = folder / METADATA
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has shards (*.distcp) but no {METADATA}, which is written last: the "
            "checkpoint is not complete"
        )
    metadata = read_plain_pickle(file, _stubs())
    if not isinstance(metadata, Metadata):
        raise CheckpointError(
            f"{file} holds a {type(metadata).__name__}; expected the metadata of DCP"
        )
    return metadata


def _stubs() -> dict[str, Any]:
    """What the metadata may call for: classes without code, types of numbers, and a path."""
    from torch.distributed.checkpoint import filesystem, metadata

    dtypes = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    paths = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    return {
        **{f"{metadata.__name__}.{name}": getattr(metadata, name) for name in _CLASSES},
        f"{filesystem.__name__}._StorageInfo": filesystem._StorageInfo,
        "torch.Size": torch.Size,
        "torch.serialization._get_layout": torch.serialization._get_layout,
        **dtypes,
        **{f"{module}.{name}": _Path for module in ("pathlib", "pathlib._local") for name in paths},
    }


def read_tensors(folder: Path, metadata: Any) -> Tensors:
    """The tensors of the model in a DCP folder, without the states next to it."""
    try:
        groups = _groups(metadata)
        state = _model_state(groups, folder)
        return {
            name: _assembled(folder, metadata, key)
            for name, key in sorted(groups[state].items(), key=lambda item: item[1])
        }
    except HarnessError:
        raise
    except Exception as error:  # values of wrong types
        raise CheckpointError(
            f"{folder / METADATA} is damaged: {type(error).__name__}: {short_reason(error)}"
        ) from error


def _groups(metadata: Any) -> dict[tuple[str, ...], dict[str, str]]:
    """Names of tensors, each with its key in the metadata, by the state that they are in."""
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for key, stored in metadata.state_dict_metadata.items():
        place = tuple(map(str, (metadata.planner_data or {}).get(key, (key,))))
        in_other_state = _OTHER_STATES & {*place[:-1], place[0].partition(".")[0]}
        if isinstance(stored, TensorStorageMetadata) and not in_other_state:
            groups.setdefault(place[:-1], {})[place[-1]] = key
    return groups


def _model_state(groups: Mapping[tuple[str, ...], Any], folder: Path) -> tuple[str, ...]:
    """The state that the model's tensors are in."""
    if not groups:
        raise CheckpointError(
            f"{folder} has no tensors of a model: only other states of a training"
        )
    named = [state for state in groups if state and state[-1] in _MODEL_STATES] or list(groups)
    if len(named) > 1:
        found = ", ".join(repr(".".join(state)) for state in named)
        raise CheckpointError(f"{folder} has several states with tensors: {found}; expected one")
    return named[0]


def _assembled(folder: Path, metadata: Any, key: str) -> torch.Tensor:
    """One tensor, put together from its shards."""
    stored = metadata.state_dict_metadata[key]
    size, dtype = tuple(stored.size), stored.properties.dtype
    if sum(prod(chunk.sizes) for chunk in stored.chunks) != prod(size):
        raise CheckpointError(f"{folder}: the shards of {key!r} do not add up to {tuple(size)}")
    pieces = list(_pieces(folder, metadata, key))  # before memory of the stated size is taken
    if len(pieces) == 1 and pieces[0][1].shape == size:
        return pieces[0][1]
    whole, filled = torch.empty(size, dtype=dtype), torch.zeros(size, dtype=torch.bool)
    for offsets, piece in pieces:
        ends = zip(offsets, piece.shape, strict=True)
        place = tuple(slice(start, start + length) for start, length in ends)
        whole[place], filled[place] = piece, True
    if not filled.all():
        raise CheckpointError(f"{folder}: the shards of {key!r} overlap and leave gaps")
    return whole


def _pieces(folder: Path, metadata: Any, key: str) -> Iterator[tuple[torch.Size, torch.Tensor]]:
    """The shards of a tensor, each with its place."""
    from torch.distributed.checkpoint.metadata import MetadataIndex

    stored = metadata.state_dict_metadata[key]
    for chunk in stored.chunks:
        info = metadata.storage_data.get(MetadataIndex(key, chunk.offsets))
        if info is None:
            raise CheckpointError(f"{folder}: {METADATA} does not say where {key!r} is stored")
        piece = _loaded(folder, info, key)
        if piece.shape != chunk.sizes or piece.dtype != stored.properties.dtype:
            raise CheckpointError(
                f"{folder}: a shard of {key!r} is {piece.dtype} {tuple(piece.shape)}, but "
                f"{METADATA} asks for {stored.properties.dtype} {tuple(chunk.sizes)}"
            )
        yield chunk.offsets, piece


def _loaded(folder: Path, info: Any, key: str) -> torch.Tensor:
    """The tensor that is stored at a place in a shard file."""
    file, start, length = info.relative_path, int(info.offset), int(info.length)
    if PurePath(file).name != file:
        raise CheckpointError(f"{folder}: {METADATA} names the shard {file!r} outside the folder")
    if getattr(info, "transform_descriptors", None):
        raise CheckpointError(
            f"{folder}: {key!r} is stored compressed ({', '.join(info.transform_descriptors)}); "
            "expected a folder written without extensions"
        )
    path = folder / file
    try:
        size = path.stat().st_size
        if not 0 <= start <= start + length <= size:
            raise CheckpointError(
                f"{path} has {size:,} bytes, but {key!r} is stored at {start:,} to "
                f"{start + length:,}; it is cut short or damaged"
            )
        with path.open("rb") as opened:
            opened.seek(start)
            data = opened.read(length)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointError(f"{path}, a shard with {key!r}, cannot be read ({reason})") from error
    try:
        tensor = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive may raise anything
        raise CheckpointError(
            f"{path}: {key!r} at byte {start:,} cannot be read; the shard is damaged, or holds "
            f"something else than a tensor ({type(error).__name__})"
        ) from error
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(f"{path}: {key!r} is a {type(tensor).__name__}; expected a tensor")
    return tensor
