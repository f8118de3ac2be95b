"""GGUF file -> a folder of safetensors and tokenizer in the user cache, converted once.

transformers reads GGUF by dequantising every tensor, 20 seconds and more for a small model. The
result is kept under the file's digest, so that the next start loads plain safetensors.
"""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from harness.engine.checkpoint.digest import cache_root, file_digest
from harness.engine.checkpoint.from_pretrained import check_report
from harness.errors import CheckpointError, short_reason
from harness.files import atomic

log = logging.getLogger(__name__)


def converted(path: Path) -> Path:
    """The folder that holds the converted model, made now if need be.

    Raises:
        CheckpointError: the file is not a GGUF model that transformers knows, it is damaged or
            lacks tensors, or the package `gguf` is missing.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise CheckpointError(f"{path} is no GGUF file: it begins with {magic!r}, not b'GGUF'")
    target = cache_root() / "gguf" / file_digest(path)
    if target.is_dir():
        return target
    log.warning("converting %s, once; it takes about half a minute", path.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        atomic.remove_leftovers(
            target.parent, "converting-????????"
        )  # as older versions named them
        prefix = f"converting-{atomic.process_mark()}-"
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
    except OSError as error:
        raise CheckpointError(
            f"cannot write the converted model to {target.parent} ({error.strerror}); "
            "set HARNESS_CACHE to a folder that can be written"
        ) from error
    try:
        _convert(path, work)
        try:
            work.rename(target)  # atomic: another process may have been faster
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _check_blocks(path: Path) -> None:
    """Refuse a file whose metadata speak of other blocks than it has tensors of.

    transformers would build as many blocks as are stated, two thousand millions of them as well.
    """
    try:
        from gguf import GGUFReader

        reader = GGUFReader(path)
        architecture = _value(reader, "general.architecture").tobytes().decode()
        stated = int(_value(reader, f"{architecture}.block_count")[0])
        names = [tensor.name.split(".") for tensor in reader.tensors]
    except ImportError as error:
        raise _package_missing(path, error) from error
    except Exception as error:  # the reader checks little: a damaged file may raise anything
        raise CheckpointError(
            f"{path} cannot be read as a GGUF model: it is cut short or damaged "
            f"({type(error).__name__}: {short_reason(error)})"
        ) from error
    there = len({name[1] for name in names if name[0] == "blk"})
    if stated != there or not there:
        raise CheckpointError(
            f"{path} cannot be read as a GGUF model: its block_count is {stated}, but it has the "
            f"tensors of {there} blocks"
        )


def _value(reader: Any, field: str) -> Any:
    """The bytes of a text or the number in a field of the metadata, as an array."""
    found = reader.fields[field]
    return found.parts[found.data[0]]


def _package_missing(path: Path, error: ImportError) -> CheckpointError:
    return CheckpointError(
        f"reading {path.name} needs the package gguf; pip install 'zero-shot-harness[demo]' "
        f"({error.__class__.__name__})"
    )


def _convert(path: Path, work: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_blocks(path)
    folder, name = os.fspath(path.parent.resolve()), path.name
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=name,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the report names them
        )
        model, report = loaded
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, local_files_only=True)
    except ImportError as error:
        raise _package_missing(path, error) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a GGUF model: {type(error).__name__}: {short_reason(error)}"
        ) from error
    # What transformers does not map, such as factors of rotary positions, it does not load either.
    check_report({**report, "unexpected_keys": set()}, model.config, name)
    # A model read from GGUF refuses save_pretrained while its config says it is quantised.
    config = type(model.config).from_dict(model.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(work)
    tokenizer.save_pretrained(work)
