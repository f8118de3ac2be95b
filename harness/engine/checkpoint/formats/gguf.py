"""Convert a GGUF file into a folder of safetensors and tokenizer files.

transformers reads GGUF by dequantising every tensor, which takes many seconds even for a small
model. The converted folder loads as fast as any other.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

from harness.engine.checkpoint.digest import file_digest
from harness.engine.checkpoint.formats.format import Candidate, ReadOptions
from harness.engine.checkpoint.from_pretrained import check_report
from harness.errors import CheckpointError, short_reason

MAGIC = b"GGUF"
_converting = Lock()  # while functions of gguf are exchanged


class GGUF:
    """llama.cpp's file format."""

    name = "GGUF"
    options: Mapping[str, tuple[str, ...]] = {}

    def recognises(self, candidate: Candidate) -> bool:
        """Whether a file begins with the magic bytes."""
        return candidate.start.startswith(MAGIC)

    def open(self, candidate: Candidate, options: ReadOptions) -> "GGUFFile":
        """The file; it is read when it is converted."""
        return GGUFFile(candidate.path)

    def is_complete(self, path: Path) -> bool | None:
        """GGUF files have no marker."""
        return None


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A GGUF file, known by the digest of its bytes."""

    path: Path
    step: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """For the log."""
        return "a GGUF file"

    def key(self) -> str:
        """The digest of the file."""
        return file_digest(self.path)

    def write(self, folder: Path) -> None:
        """Write the folder; raises as `convert` does."""
        convert(self.path, folder)


def convert(path: Path, folder: Path) -> None:
    """Write the model and the tokenizer in a GGUF file to a folder, in float32.

    Raises:
        CheckpointError: transformers does not know the model, the file is damaged or lacks
            tensors, or the package `gguf` is not installed.
    """
    import torch

    try:
        with _converting, _metadata_read_once():
            _check_block_count(path)
            model, report, tokenizer = _read(path)
    except CheckpointError:
        raise
    except ImportError as error:
        raise CheckpointError(
            f"reading {path.name} needs the package gguf; pip install 'zero-shot-harness[demo]' "
            f"({type(error).__name__})"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a GGUF model: {type(error).__name__}: {short_reason(error)}"
        ) from error
    # What transformers does not map, such as factors of rotary positions, it does not load either.
    check_report({**report, "unexpected_keys": set()}, model.config, path.name)
    # A model read from GGUF refuses save_pretrained while its config says that it is quantised.
    config = type(model.config).from_dict(model.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    with torch.device("meta"):  # no random numbers for weights that are replaced
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _metadata_read_once() -> Iterator[None]:
    """Let gguf parse each file only once, and build its table of tensor names only once.

    transformers parses the metadata anew for the config, for the weights and for the tokenizer, and
    builds the table for each module of the model. That takes most of the time of a small model.
    """
    gguf: Any = import_module("gguf")
    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    read = cache(reader)
    gguf.GGUFReader = lambda path: read(Path(path).resolve())
    gguf.get_tensor_name_map = cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names


def _read(path: Path) -> tuple[Any, dict[str, Any], Any]:
    """The model, what `from_pretrained` reports of its tensors, and the tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, where = os.fspath(path.parent.resolve()), {"gguf_file": path.name}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.float32,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the report names them
        **where,
    )
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, **where)
    return (*loaded, tokenizer)


def _check_block_count(path: Path) -> None:
    """Refuse a file whose metadata state another number of blocks than it has tensors of.

    transformers would build as many blocks as are stated, even two billion.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        architecture = _value(reader, "general.architecture").tobytes().decode()
        stated = int(_value(reader, f"{architecture}.block_count")[0])
        names = [tensor.name.split(".") for tensor in reader.tensors]
    except Exception as error:  # the reader checks little: a damaged file may raise anything
        raise CheckpointError(
            f"{path} cannot be read as a GGUF model: it is cut short or damaged "
            f"({type(error).__name__}: {short_reason(error)})"
        ) from error
    count = len({name[1] for name in names if name[0] == "blk"})
    if stated != count or not count:
        raise CheckpointError(
            f"{path} cannot be read as a GGUF model: its block_count is {stated}, but it has the "
            f"tensors of {count} blocks"
        )


def _value(reader: Any, key: str) -> Any:
    """The value of a metadata field: the bytes of a text or a number, as an array."""
    field = reader.fields[key]
    return field.parts[field.data[0]]
