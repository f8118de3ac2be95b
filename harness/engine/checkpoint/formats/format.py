"""The interface of a checkpoint format, and what all formats share.

A format recognises a file or folder by its content and opens it. The opened checkpoint is written
once into the user's cache, as a folder that transformers can load (`registry.convert`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from harness.engine.checkpoint.digest import combined_digest
from harness.engine.checkpoint.formats.pickles import read_torch_file
from harness.engine.checkpoint.identity import changed_fields, tensors_digest
from harness.engine.checkpoint.steps import natural_order
from harness.errors import CheckpointError

START_BYTES = 1024
# What wrappers of DistributedDataParallel, FSDP, torch.compile, activation checkpointing and
# Lightning Fabric put before or inside the names of parameters.
_WRAPPERS = re.compile(
    r"(^|(?<=\.))(module|_orig_mod|_forward_module|_fsdp_wrapped_module"
    r"|_checkpoint_wrapped_module)\."
)

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Candidate:
    """A file or folder that may be a checkpoint; its content is read once for all formats."""

    path: Path

    @cached_property
    def start(self) -> bytes:
        """The first bytes of a file; empty for a folder."""
        if self.path.is_dir():
            return b""
        with self.path.open("rb") as file:
            return file.read(START_BYTES)

    @cached_property
    def pickle(self) -> Any | None:
        """The content of a torch file; None for another file.

        Raises:
            CheckpointError: the file is damaged, or calls for more than tensors and plain values.
        """
        return read_torch_file(self.path, self.start)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What the user says about a checkpoint that the checkpoint itself does not."""

    options: Mapping[str, str] = field(default_factory=dict)  # `--model-option`
    tokenizer: str | None = None  # folder, file, or name on the hub; None: the checkpoint's own
    config_file: Path | None = None  # `--model-config`
    data_dir: Path | None = None  # may have the tokenizer of GPT-2 in a folder `gpt2-bpe`


class Opened(Protocol):
    """A recognised checkpoint, opened but not converted."""

    @property
    def description(self) -> str: ...  # noqa: D102  # one line for the log
    @property
    def step(self) -> int | None: ...  # noqa: D102  # of the training, if the checkpoint says so
    @property
    def options(self) -> Mapping[str, str]: ...  # noqa: D102  # all model options, with defaults
    def key(self) -> str:
        """A digest of everything that the converted folder depends on."""
        ...

    def write(self, folder: Path) -> None:
        """Write config, weights and tokenizer into an existing, empty folder."""
        ...


class Format(Protocol):
    """One checkpoint format.

    A format whose checkpoints may lack a config says so by an attribute `takes_config = True`; for
    all others `--model-config` is refused.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def options(self) -> Mapping[str, tuple[str, ...]]:
        """Model options that the format takes, each with its choices; () allows any value."""
        ...

    def recognises(self, candidate: Candidate) -> bool:
        """Whether the content is of this format; damaged content of the format counts as such."""
        ...

    def open(self, candidate: Candidate, options: ReadOptions) -> Opened:
        """Open a recognised checkpoint.

        Raises:
            CheckpointError: it is damaged, or something is missing or left over.
        """
        ...

    def is_complete(self, path: Path) -> bool | None:
        """Whether a checkpoint has been written completely, by the marker of its program.

        None if the format has no marker.
        """
        ...


@dataclass(frozen=True, slots=True)
class TensorCheckpoint:
    """An opened checkpoint as tensors under the names of a transformers class."""

    description: str
    config: Any  # a transformers config
    tensors: Mapping[str, torch.Tensor]  # may be views, or mapped from a large file
    tokenizer: Callable[[Path], None]  # writes the tokenizer's files into a folder
    tokenizer_key: str  # digest of those files, or of what they are made from
    step: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def key(self) -> str:
        """A digest of tensors, config and tokenizer; an optimizer state next to them is no part."""
        fields = repr(sorted(changed_fields(self.config).items(), key=lambda item: item[0]))
        return combined_digest([tensors_digest(dict(self.tensors)), fields, self.tokenizer_key])

    def write(self, folder: Path) -> None:
        """Write config.json, model.safetensors and the tokenizer."""
        from safetensors.torch import save_file

        self.config.save_pretrained(folder)
        tensors = {name: value.contiguous() for name, value in self.tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        self.tokenizer(folder)


def newest(
    folder: Path, name: str, is_complete: Callable[[Path], bool | None] | None = None
) -> Path | None:
    """The file with the largest number in its name in a folder; None if there is none.

    Args:
        folder: where to look; anything else than a folder has no files.
        name: pattern of the whole name, its first group the number.
        is_complete: says which files count; None: all.
    """
    if not folder.is_dir():
        return None
    found = [(match, path) for path in folder.iterdir() if (match := re.fullmatch(name, path.name))]
    complete = [(int(m[1]), path) for m, path in found if is_complete is None or is_complete(path)]
    return max(complete)[1] if complete else None


def without_wrappers(tensors: Mapping[str, torch.Tensor], path: Path | str) -> Tensors:
    """The tensors without the names of wrappers; refuses one that is there with and without."""
    plain: Tensors = {}
    for name, tensor in tensors.items():
        short = _WRAPPERS.sub("", name)
        if short in plain:
            raise CheckpointError(f"{path} has {short} twice, once as {name}")
        plain[short] = tensor
    return plain


def all_of(
    expected: Iterable[tuple[str, tuple[int, ...]]],
    tensors: Mapping[str, torch.Tensor],
    path: Path | str,
) -> Tensors:
    """The expected tensors in their order, by name and shape.

    Raises:
        CheckpointError: one is missing, left over, of another shape, or does not hold plain
            floating-point numbers; the first such name is stated.
    """
    found: Tensors = {}
    for name, shape in expected:
        tensor = tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{path}: {name} is missing; expected all weights of one model")
        is_plain = tensor.layout is torch.strided and not tensor.is_meta
        if tuple(tensor.shape) != shape or not tensor.is_floating_point() or not is_plain:
            kind = f"{tensor.dtype}, {tensor.layout}, {tensor.device.type}"
            raise CheckpointError(
                f"{path}: {name} has the shape {list(tensor.shape)} ({kind}); expected "
                f"{list(shape)} in floating point"
            )
        found[name] = tensor
    if left_over := tensors.keys() - found.keys():
        raise CheckpointError(
            f"{path}: {min(left_over, key=natural_order)} is left over: its settings describe no "
            "such tensor"
        )
    return found
