"""The checkpoints of llm.c: `model_00000120.bin`, `gpt2_124M.bin`.

A header of 256 little-endian integers is followed by sixteen arrays without gaps, each with the
values of all layers.
"""

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from harness.engine.checkpoint.formats.format import (
    Candidate,
    ReadOptions,
    TensorCheckpoint,
    newest,
)
from harness.engine.checkpoint.formats.gpt2.convert import Sizes, Source, open_checkpoint
from harness.engine.checkpoint.steps import step_of
from harness.errors import CheckpointError

HEADER_BYTES = 1024
MAGIC, LLAMA3_MAGIC = 20240326, 20240803
DTYPES = {3: torch.float32, 5: torch.bfloat16}  # by version
_NAME = r"model_(\d{8})\.bin"


class Header(NamedTuple):
    """The beginning of the header."""

    magic: int
    version: int
    positions: int
    vocabulary: int
    layers: int
    heads: int
    width: int
    padded_vocabulary: int


class LLMC:
    """A file of llm.c, or the folder of a run, of which the newest complete one counts."""

    name = "llm.c"
    options: Mapping[str, tuple[str, ...]] = {}

    def recognises(self, candidate: Candidate) -> bool:
        """Whether a file, or the newest in a folder, begins with the magic number."""
        if (found := newest(candidate.path, _NAME)) is not None:
            candidate = Candidate(found)
        magic = int.from_bytes(candidate.start[:4], "little")
        return len(candidate.start) >= 4 and magic in (MAGIC, LLAMA3_MAGIC)

    def open(self, candidate: Candidate, options: ReadOptions) -> TensorCheckpoint:
        """The model in the file, without the rows that pad the vocabulary, as llm.c has it."""
        path = candidate.path
        if path.is_dir():
            complete = newest(path, _NAME, self.is_complete)
            if complete is None:
                raise CheckpointError(
                    f"{path} has no complete checkpoint of llm.c: it writes an empty file such as "
                    "DONE_00000120 last; name a model_*.bin to take it as it is"
                )
            path = complete
        header = _read_header(path, Candidate(path).start)
        source = Source(
            program=self.name if path == candidate.path else f"{self.name} ({path.name})",
            path=path,
            state=_read_state(path, header),
            sizes=Sizes(
                layers=header.layers,
                heads=header.heads,
                width=header.width,
                positions=header.positions,
                rows=header.vocabulary,
            ),
            step=step_of(path.name),
        )
        return open_checkpoint(source, options, "gelu_new")

    def is_complete(self, path: Path) -> bool | None:
        """Whether `DONE_...` of the same step lies beside it; None for another name."""
        name = re.fullmatch(_NAME, path.name)
        return (path.parent / f"DONE_{name[1]}").exists() if name else None


def _read_header(path: Path, start: bytes) -> Header:
    if len(start) < HEADER_BYTES:
        raise CheckpointError(
            f"{path} is cut short: it ends at byte {len(start):,}, within its header of "
            f"{HEADER_BYTES:,} bytes"
        )
    integers = np.frombuffer(start[:HEADER_BYTES], "<i4")
    header = Header(*(int(n) for n in integers[: len(Header._fields)]))
    if header.magic == LLAMA3_MAGIC:
        raise CheckpointError(
            f"{path} is a Llama 3 of llm.c; expected its GPT-2: convert it to a folder of "
            "transformers first"
        )
    if header.version not in DTYPES:
        raise CheckpointError(
            f"{path} is of version {header.version} of llm.c's format; expected 3 (float32) or "
            "5 (bfloat16): write it again with a newer llm.c"
        )
    smallest = min(header[2:])
    if smallest < 1 or header.vocabulary > header.padded_vocabulary:
        sizes = ", ".join(f"{k} {v}" for k, v in header._asdict().items() if k != "magic")
        raise CheckpointError(f"{path} has a damaged header: {sizes}; expected positive sizes")
    return header


def _arrays(header: Header) -> dict[str, tuple[int, ...]]:
    """Name and shape of every array, in order; `{}` in a name stands for the layer."""
    layers, width = header.layers, header.width
    block = "transformer.h.{}."
    return {
        "transformer.wte.weight": (header.padded_vocabulary, width),
        "transformer.wpe.weight": (header.positions, width),
        f"{block}ln_1.weight": (layers, width),
        f"{block}ln_1.bias": (layers, width),
        f"{block}attn.c_attn.weight": (layers, 3 * width, width),
        f"{block}attn.c_attn.bias": (layers, 3 * width),
        f"{block}attn.c_proj.weight": (layers, width, width),
        f"{block}attn.c_proj.bias": (layers, width),
        f"{block}ln_2.weight": (layers, width),
        f"{block}ln_2.bias": (layers, width),
        f"{block}mlp.c_fc.weight": (layers, 4 * width, width),
        f"{block}mlp.c_fc.bias": (layers, 4 * width),
        f"{block}mlp.c_proj.weight": (layers, width, 4 * width),
        f"{block}mlp.c_proj.bias": (layers, width),
        "transformer.ln_f.weight": (width,),
        "transformer.ln_f.bias": (width,),
    }


def _read_state(path: Path, header: Header) -> dict[str, torch.Tensor]:
    """The tensors, mapped from the file; refuses a file of another size than its header says."""
    dtype = DTYPES[header.version]
    size, offset = path.stat().st_size, HEADER_BYTES
    places = {}
    for name, shape in _arrays(header).items():
        end = offset + prod(shape) * dtype.itemsize
        if end > size:
            raise CheckpointError(
                f"{path} is cut short: it ends at byte {size:,}, within {name.format('*')}, which "
                f"is at bytes {offset:,} to {end:,}"
            )
        places[name], offset = (offset, end), end
    if offset < size:
        raise CheckpointError(
            f"{path} has {size - offset:,} bytes left over: its header describes {offset:,}"
        )
    content = np.memmap(path, np.uint8, mode="c")  # writable for torch; the file is not changed
    state: dict[str, torch.Tensor] = {}
    for name, shape in _arrays(header).items():
        start, end = places[name]
        array = torch.from_numpy(content[start:end]).view(dtype).view(shape)
        if "{}" in name:
            state |= {name.format(layer): array[layer] for layer in range(header.layers)}
        else:
            state[name] = array
    state["transformer.wte.weight"] = state["transformer.wte.weight"][: header.vocabulary]
    return state
